//! Room on a file system.

use std::path::Path;

use nix::sys::statvfs::{Statvfs, statvfs};

use crate::error::Error;

/// Room on a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Bytes that can still be written without the blocks that are root's.
    pub bytes_free: u64,
    /// Inodes; 0 where the file system has no fixed number of them.
    pub inodes: u64,
    /// Inodes that can still be made; 0 likewise.
    pub inodes_free: u64,
}

impl Space {
    /// Room on the file system that a path is on. One system call, which a file system that hangs holds up.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(path: &Path) -> Result<Self, Error> {
        let disk = statvfs(path);
        disk.map(Self::from)
            .map_err(|cause| Error::io("look at the disk of", path, cause))
    }
}

impl From<Statvfs> for Space {
    fn from(disk: Statvfs) -> Self {
        Self {
            bytes: disk.blocks().saturating_mul(disk.fragment_size()),
            bytes_free: disk.blocks_available().saturating_mul(disk.fragment_size()),
            inodes: disk.files(),
            inodes_free: disk.files_available(),
        }
    }
}
