//! Stand-in for systemd's file descriptor store (FDSTORE=1 of `sd_notify(3)`), which keeps a service's
//! connections while the service is away.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// First descriptor that systemd hands over (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;

/// A descriptor and its name.
type Kept = (String, OwnedFd);

/// Keeps what a service asks it to keep, until the other end is closed.
#[derive(Debug)]
pub struct FdStore {
    socket: PathBuf,
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl FdStore {
    /// Makes one whose socket lies in `dir`.
    ///
    /// # Panics
    /// If the socket cannot be made.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("the folder can be written");
        let kept = Arc::default();
        let store = Arc::clone(&kept);
        thread::spawn(move || receive(&socket, &store));
        Self { socket: path, kept }
    }

    /// Number of descriptors that are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, descriptor)| is_open(descriptor));
        kept.len()
    }

    /// Bytes that each connection holds and its service has not taken.
    ///
    /// # Panics
    /// If one is no socket.
    #[must_use]
    pub fn unread(&self) -> Vec<u64> {
        let _ = self.count();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = kept
            .iter()
            .map(|(_, descriptor)| ioctl_fionread(descriptor));
        unread.map(|bytes| bytes.expect("it is a socket")).collect()
    }

    /// Hands `named` and what is kept to a command, whose process has to set LISTEN_PID itself.
    ///
    /// # Panics
    /// If no descriptors are left.
    pub(crate) fn hand_over(&self, named: Kept, command: &mut Command) {
        let _ = self.count();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.iter().map(|(name, descriptor)| {
            let descriptor = descriptor.try_clone().expect("descriptors are left");
            (name.clone(), descriptor)
        });
        let (names, descriptors): (Vec<_>, Vec<_>) = std::iter::once(named).chain(kept).unzip();
        command
            .env("NOTIFY_SOCKET", &self.socket)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let mappings = (FIRST..).zip(descriptors);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        command
            .fd_mappings(mappings.collect())
            .expect("each number is used once");
    }
}

/// Takes messages until the process ends.
fn receive(socket: &UnixDatagram, store: &Mutex<Vec<Kept>>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let Ok(message) = recvmsg(socket, &mut pieces, &mut ancillary, flags) else {
            return;
        };
        assert!(!message.flags.contains(ReturnFlags::TRUNC), "it fits");
        let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part
                && text.lines().any(|line| line == "FDSTORE=1")
            {
                let named = descriptors.map(|one| (name.unwrap_or("stored").to_owned(), one));
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                store.extend(named);
            }
        }
    }
}

/// True unless one end of a connection has closed both directions, whatever is still unread: systemd waits for
/// EPOLLHUP alone.
fn is_open(connection: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).expect("there is memory");
    !polled[0].revents().contains(PollFlags::HUP)
}
