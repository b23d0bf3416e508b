//! Why a volume could not be attached or detached.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Holder, Holders, Holds, MountId};
use crate::error::Error;

/// A failure of a [`Mounter`](super::Mounter).
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A system call failed.
    #[error("{attempt} {}{}", path.display(), said(log))]
    Io {
        /// The attempted operation, such as "mount on".
        attempt: &'static str,
        /// Its path.
        path: PathBuf,
        /// The kernel's message; often empty.
        log: String,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// Up to the component that is missing.
        path: PathBuf,
    },
    /// Something that is no directory stands where one is needed.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// It.
        path: PathBuf,
    },
    /// A directory stands where a file is needed.
    #[error("{} is a directory, a file is needed", path.display())]
    IsADirectory {
        /// It.
        path: PathBuf,
    },
    /// A symlink in a path where none is followed.
    #[error("{} is a symlink, which is not followed here", path.display())]
    Symlink {
        /// The symlink.
        path: PathBuf,
    },
    /// A symlink to what is missing. Nothing is made through it.
    #[error("{} is a symlink that leads nowhere", path.display())]
    Dangling {
        /// The symlink.
        path: PathBuf,
    },
    /// A directory in which nothing can be made.
    #[error("nothing can be made in {}: {why}", path.display())]
    Closed {
        /// The directory.
        path: PathBuf,
        /// The reason.
        why: &'static str,
    },
    /// A subpath that leads out of its root.
    #[error("`{}` leads out of {}", subpath.display(), root.display())]
    Escape {
        /// The directory it must stay in.
        root: PathBuf,
        /// The subpath.
        subpath: PathBuf,
    },
    /// A path that cannot be one.
    #[error("`{}` {problem}", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// The fault.
        problem: &'static str,
    },
    /// Directories on the way were renamed again and again meanwhile. The same call may succeed.
    #[error("directories in {} are being renamed; try again", path.display())]
    Raced {
        /// The path.
        path: PathBuf,
    },
    /// The mount is in use.
    #[error("{} is in use{}", path.display(), by(holders))]
    Busy {
        /// Where it is mounted.
        path: PathBuf,
        /// Its users, as far as found.
        holders: Holders,
    },
    /// Something else is mounted on top of or inside what was to be unmounted.
    #[error(
        "mount {other} stands on {}, above mount {expected}; unmount it, or detach what it belongs to, first",
        path.display()
    )]
    Covered {
        /// Where the other stands.
        path: PathBuf,
        /// The mount that was to go.
        expected: MountId,
        /// The mount in the way.
        other: MountId,
    },
    /// The mount still stands, but not where it was said to.
    #[error("mount {expected} does not stand on {}, but elsewhere", path.display())]
    Elsewhere {
        /// Where it was looked for.
        path: PathBuf,
        /// The mount.
        expected: MountId,
    },
    /// A propagation that the mount of the source does not allow.
    #[error(
        "{} is on mount {}, which is {actual}; {wanted} propagation needs it to be {needed} \
         (mount --make-shared {})",
        path.display(), mount.display(), mount.display()
    )]
    NotShared {
        /// The source of the bind.
        path: PathBuf,
        /// The mount to change.
        mount: PathBuf,
        /// Its present value.
        actual: &'static str,
        /// The requested value.
        wanted: &'static str,
        /// The needed value.
        needed: &'static str,
    },
    /// This kernel or file system cannot do it.
    #[error("{what} is not possible on {}; {advice}", path.display())]
    Unsupported {
        /// The requested value.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The fix.
        advice: &'static str,
        /// The kernel's answer, where it was asked.
        #[source]
        cause: Option<io::Error>,
    },
    /// The mount table could not be read.
    #[error(transparent)]
    Table(#[from] Error),
}

impl MountError {
    pub(crate) fn io(attempt: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        Self::Io {
            attempt,
            path: path.to_owned(),
            log: String::new(),
            cause: cause.into(),
        }
    }

    /// The kernel's answer as a number, as in errno(3).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } => cause.raw_os_error(),
            Self::Unsupported { cause, .. } => cause.as_ref().and_then(io::Error::raw_os_error),
            Self::Table(error) => error.errno(),
            _ => None,
        }
    }

    /// True if memory, inodes, the number of mounts or another limit is exhausted, so that the same
    /// call may succeed later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
        ];
        self.errno()
            .is_some_and(|number| full.contains(&Errno::from_raw(number)))
    }
}

fn said(log: &str) -> String {
    if log.is_empty() {
        return String::new();
    }
    format!(" (the kernel says: {log})")
}

/// At most three holders, so that a message stays a line.
fn by(holders: &Holders) -> String {
    let mut text = String::new();
    for (index, holder) in holders.found.iter().take(3).enumerate() {
        let start = if index == 0 { " by " } else { ", " };
        let _ = write!(text, "{start}{holder}"); // writing to a string cannot fail
    }
    if holders.found.len() > 3 {
        let _ = write!(text, " and {} more", holders.found.len() - 3);
    }
    if !holders.complete() {
        text.push_str("; not all processes were looked at");
    }
    text
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}), ", self.pid, self.command)?;
        match &self.holds {
            Holds::WorkingDirectory => f.write_str("whose working directory is inside"),
            Holds::Root => f.write_str("whose root directory is inside"),
            Holds::Program => f.write_str("which runs a program from it"),
            Holds::File { descriptor } => write!(f, "which has a file open ({descriptor})"),
            Holds::Mount { target, namespace } => {
                let target = target.display();
                write!(f, "which sees it on {target} (mount namespace {namespace})")
            }
        }
    }
}
