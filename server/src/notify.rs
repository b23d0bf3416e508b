//! Notifications to systemd: the start, readiness, stopping, and the watchdog (sd_notify(3)).

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use tracing::warn;

/// Requests can be served. Clears the status.
pub(crate) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("")]);
}

/// Has systemd wait for the start, or the end, for at least this time from now on, whatever the unit says.
pub(crate) fn extend_start(time: Duration) {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// A line that `systemctl status` shows.
pub(crate) fn status(line: &str) {
    // A line of its own would be another message.
    send(&[NotifyState::Status(&line.replace('\n', " "))]);
}

/// The daemon is on its way out.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The daemon works. Lost while systemd does not read what it is told: a wait for it would hold up all calls.
#[expect(
    clippy::disallowed_methods,
    reason = "systemd names its socket in the environment alone"
)]
pub(crate) fn alive() {
    let told = env::var("NOTIFY_SOCKET")
        .ok()
        .map_or(Ok(()), |path| tell_now(&path, b"WATCHDOG=1\n"));
    if let Err(cause) = told {
        warn!(
            error = &cause as &dyn std::error::Error,
            "tell systemd that layerd works"
        );
    }
}

/// Sends without waiting.
fn tell_now(path: &str, message: &[u8]) -> io::Result<()> {
    let socket = connect(path)?;
    socket.set_nonblocking(true)?;
    socket.send(message).map(drop)
}

/// Longest interval between calls of [`alive`]; `None` without a watchdog.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Without systemd this does nothing.
fn send(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        warn!(
            error = &cause as &dyn std::error::Error,
            "tell systemd about the state"
        );
    }
}

/// Has systemd keep descriptors for the next layerd, which is handed them by a name (FDSTORE=1). systemd
/// closes a connection when its other end does.
#[derive(Debug)]
pub(crate) struct Keeper {
    message: String,
    /// None without systemd.
    socket: Option<UnixDatagram>,
}

impl Keeper {
    #[expect(
        clippy::disallowed_methods,
        reason = "systemd names its socket in the environment alone"
    )]
    pub(crate) fn new(name: &str) -> Self {
        Self::at(env::var("NOTIFY_SOCKET").ok(), name)
    }

    fn at(path: Option<String>, name: &str) -> Self {
        let socket = path.and_then(|path| {
            let connected = connect(&path);
            let told = |cause: &io::Error| {
                let error = cause as &dyn std::error::Error;
                warn!(error, name, "have systemd keep descriptors");
            };
            connected.inspect_err(told).ok()
        });
        Self {
            message: format!("FDSTORE=1\nFDNAME={name}\n"),
            socket,
        }
    }

    /// One system call: what is not kept yet is lost by a kill. False if systemd has not read what it was
    /// told before, and may be asked again.
    pub(crate) fn keep(&self, descriptor: &impl AsRawFd) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(self.message.as_bytes())],
            &[ControlMessage::ScmRights(&[descriptor.as_raw_fd()])],
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        );
        match sent {
            Ok(_) => true,
            Err(Errno::EAGAIN) => false,
            Err(cause) => {
                let error = &cause as &dyn std::error::Error;
                warn!(error, "have systemd keep a descriptor");
                true
            }
        }
    }
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_that_does_not_read_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let keeper = Keeper::at(path.to_str().map(str::to_owned), "kept");
        let kept = (0..100_000).take_while(|_| keeper.keep(&systemd)).count();
        assert!((1..100_000).contains(&kept), "{kept}");
        let told = tell_now(path.to_str().unwrap(), b"WATCHDOG=1\n");
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        systemd.recv(&mut [0; 64]).unwrap();
        assert!(keeper.keep(&systemd), "there is room again");
    }
}
