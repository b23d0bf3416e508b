//! Mount ids, and the processes that keep mounts from being unmounted.

use std::path::PathBuf;

#[cfg(doc)]
use super::{Attached, Mounter};

/// Mount id, 64 bits, never reused within a boot (Linux 6.8). Older
/// kernels give ids below 2^31 that are reused; an [`Attached`] mount is then also identified by
/// mount point, device and inode. A mount that another process made of the same source at the same
/// path after it was gone cannot be told from it there.
pub type MountId = u64;

/// A process that uses a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process, or one of those that share the mount namespace.
    pub pid: u32,
    /// Its name, as in proc_pid_comm(5).
    pub command: String,
    /// The used resource.
    pub holds: Holds,
}

/// Resource used by a [`Holder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// Its working directory is inside.
    WorkingDirectory,
    /// Its root directory is inside.
    Root,
    /// It runs a program from inside.
    Program,
    /// It has a file inside open.
    File {
        /// Number of the descriptor.
        descriptor: u32,
    },
    /// Its mount namespace has it mounted.
    Mount {
        /// Where, as that process sees it.
        target: PathBuf,
        /// The mount namespace, as in the link `/proc/PID/ns/mnt`.
        namespace: u64,
    },
}

/// Answer of [`Mounter::holders`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Those found.
    pub found: Vec<Holder>,
    /// Processes that this one may not look at, such as process 1 from inside a container.
    pub hidden: Vec<u32>,
    /// Set if the time ran out before the search ended.
    pub cut_short: bool,
}

impl Holders {
    /// True if all processes were searched; otherwise an empty result proves nothing.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.hidden.is_empty() && !self.cut_short
    }
}
