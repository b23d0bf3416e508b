//! layerd as systemd starts it: with a socket that is kept for it while it is away.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::FdStore;
use crate::process::wait_until;
use crate::scratch::profile;

/// Limit for a stop: longer than the daemon's own deadline.
const LIMIT: Duration = Duration::from_secs(60);

/// layerd on a listening socket that its starter keeps. Killed when dropped, and by the kernel when
/// the thread that started it dies.
#[derive(Debug)]
pub struct Activated(Child);

impl Activated {
    /// Starts it, and does not wait until it serves: clients may connect at any time. Its log is
    /// appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(listener: &UnixListener, root: &Path, log: &Path, arguments: &[&str]) -> Self {
        Self::start_named(listener, "layerd.socket", root, log, arguments)
    }

    /// As [`start`](Self::start), with the name that the socket's unit gives it (`FileDescriptorName=`).
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_named(
        listener: &UnixListener,
        name: &str,
        root: &Path,
        log: &Path,
        arguments: &[&str],
    ) -> Self {
        // LISTEN_PID has to be the process that layerd will be, so a shell becomes layerd.
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        let socket = listener.try_clone().expect("descriptors are left");
        let mut command = command(script, root, log, arguments);
        command
            .env("LISTEN_FDNAMES", name)
            .stdin(Stdio::from(OwnedFd::from(socket)));
        Self(command.spawn().expect("setpriv is installed"))
    }

    /// As [`start_named`](Self::start_named), for a unit that has systemd keep descriptors of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_keeping(
        store: &FdStore,
        listener: &UnixListener,
        name: &str,
        root: &Path,
        log: &Path,
        arguments: &[&str],
    ) -> Self {
        let socket = listener.try_clone().expect("descriptors are left");
        let mut command = command("LISTEN_PID=$$ exec \"$0\" \"$@\"", root, log, arguments);
        store.hand_over((name.to_owned(), socket.into()), &mut command);
        Self(command.spawn().expect("setpriv is installed"))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("process ids fit into an i32"))
    }

    /// Exit status, once it has ended.
    ///
    /// # Panics
    /// Never: the child is ours.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the child is ours")
    }

    /// Sends a signal and answers how it ended.
    ///
    /// # Panics
    /// If it has not ended after a minute.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        // ESRCH: it ended already; its status tells how.
        let _ = kill(self.pid(), signal);
        let mut status = None;
        wait_until("layerd to end", LIMIT, || {
            status = self.ended();
            status.is_some()
        });
        status.unwrap_or_default()
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // Fails if it has ended, which it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// layerd by way of a shell script, killed with the thread that starts it.
fn command(script: &str, root: &Path, log: &Path, arguments: &[&str]) -> Command {
    let log = fs::File::options().create(true).append(true).open(log);
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", script])
        .arg(profile().join("layerd"))
        .arg("--root")
        .arg(root)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("the log can be written"));
    command
}
