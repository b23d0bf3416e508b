//! A user namespace that holds id mappings and nothing else, for mounts that are shifted by them.
//!
//! The kernel takes mappings only as a user namespace, and a process with threads cannot enter a
//! new one. So a child process is born in it, its mappings are written from outside, its namespace
//! is opened, and it is killed: well under a millisecond in a small process.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

use super::MountError;
use crate::sys;
use crate::types::{IdMap, IdMaps};

/// A user namespace with given mappings, as long as it is held.
#[derive(Debug)]
pub(super) struct UserNamespace {
    fd: OwnedFd,
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Kills the child, whatever happens.
struct Child(i32);

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = sys::reap(self.0) {
            tracing::warn!(pid = self.0, %error, "cannot end the holder of a user namespace");
        }
    }
}

impl UserNamespace {
    /// For a mount of `shown`.
    pub(super) fn new(ids: &IdMaps, shown: &Path) -> Result<Self, MountError> {
        let child = start(shown)?;
        let path = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.0));
        for (name, ranges) in [("uid_map", &ids.uid), ("gid_map", &ids.gid)] {
            let path = path(name);
            fs::write(&path, lines(ranges)).map_err(|cause| match cause.kind() {
                io::ErrorKind::PermissionDenied => forbidden(shown, cause),
                _ => MountError::io("write id mappings to", &path, cause),
            })?;
        }
        let path = path("ns/user");
        let file = File::open(&path)
            .map_err(|cause| MountError::io("open user namespace", &path, cause))?;
        Ok(Self { fd: file.into() })
    }
}

/// No signal handler of this process may run in the child, which has them all, too.
fn start(shown: &Path) -> Result<Child, MountError> {
    let fail = |cause: Errno| MountError::io("make a user namespace for", shown, cause);
    let before = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(fail)?;
    let child = sys::start_in_user_namespace().map(Child);
    before.thread_set_mask().map_err(fail)?;
    child.map_err(|cause| match cause {
        Errno::EPERM => forbidden(shown, cause.into()),
        cause => fail(cause),
    })
}

/// The sandbox of its service keeps root from making mappings.
fn forbidden(shown: &Path, cause: io::Error) -> MountError {
    MountError::Unsupported {
        what: "an id mapping",
        path: shown.to_owned(),
        advice: "this process may not make user namespaces with mappings; as layerd.service it may with \
                 RestrictNamespaces=mnt user and CapabilityBoundingSet=CAP_SETUID CAP_SETGID in the \
                 unit (systemctl edit layerd), at the price of a wider sandbox",
        cause: Some(cause),
    }
}

/// As user_namespaces(7) wants them: first id inside, first outside, length. What is on disk is
/// "inside", what the host sees is "outside".
fn lines(ranges: &[IdMap]) -> String {
    let line = |range: &IdMap| format!("{} {} {}\n", range.container, range.host, range.length);
    ranges.iter().map(line).collect()
}
