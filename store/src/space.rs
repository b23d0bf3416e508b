//! Room for the database on a full disk.
//!
//! sled does not survive a log write for which there is no space, and to remove a snapshot is a
//! log write too. So a file of [`RESERVE`] bytes is kept. When the disk runs low, new snapshots are
//! refused before they reach the database, and the file is deleted, which leaves its room to
//! removals; when there is space again, it is made anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

/// Size of the reserve, in bytes.
const RESERVE: i64 = 8 * 1024 * 1024;
/// Free space below which nothing new is taken.
const LOW: u64 = 4 * 1024 * 1024;
/// Free space above which the reserve is made anew.
const ENOUGH: u64 = 4 * LOW + RESERVE.unsigned_abs();

/// Free inodes below which nothing new is taken; to open the database takes one or two.
const FEW_INODES: u64 = 16;
/// Free inodes above which the reserve is made anew.
const ENOUGH_INODES: u64 = 4 * FEW_INODES;

/// When nothing new is taken, and when it is again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free bytes.
    pub bytes: u64,
    /// Free inodes.
    pub inodes: u64,
}

impl Room {
    /// Below this, only removals are taken.
    pub const LOW: Self = Self {
        bytes: LOW,
        inodes: FEW_INODES,
    };
    /// Above this, everything is taken, and room for removals is reserved.
    pub const ENOUGH: Self = Self {
        bytes: ENOUGH,
        inodes: ENOUGH_INODES,
    };
}

/// Whether room for removals is reserved in a store's folder.
#[must_use]
pub fn has_reserve(folder: &Path) -> bool {
    folder.join("reserve").exists()
}

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    reserve: PathBuf,
    low: bool,
}

impl Space {
    /// Gives the reserve free if the disk is so full that the database could not be opened.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut space = Self {
            folder: folder.to_owned(),
            reserve: folder.join("reserve"),
            low: false,
        };
        space.look();
        space
    }

    /// Looks at the disk; answers whether it is too full for anything new. Costs one statvfs(3).
    pub(crate) fn look(&mut self) -> bool {
        // Where this cannot be told, the write itself will.
        let Ok(disk) = statvfs(&self.folder) else {
            return false;
        };
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        // File systems without a table of inodes say that they have none at all.
        let inodes = match disk.files() {
            0 => u64::MAX,
            _ => disk.files_available(),
        };
        if (free < LOW || inodes < FEW_INODES) && !self.low {
            self.low = true;
            self.release();
        } else if free > ENOUGH && inodes > ENOUGH_INODES {
            self.renew();
        }
        self.low
    }

    /// Gives the reserve free.
    pub(crate) fn release(&mut self) {
        self.low = true;
        match fs::remove_file(&self.reserve) {
            Ok(()) => {
                warn!("the disk is full: only removals are taken, on the space kept for them")
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => warn!(
                error = &cause as &dyn std::error::Error,
                "give the reserved space free"
            ),
        }
    }

    fn renew(&mut self) {
        if self.low {
            info!("the disk has space again");
        }
        self.low = false;
        if self.reserve.exists() {
            return;
        }
        let made = File::create(&self.reserve).and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, RESERVE).map_err(io::Error::from)
        });
        if let Err(cause) = made {
            warn!(
                error = &cause as &dyn std::error::Error,
                "reserve space for removals"
            );
            // What there is of it may be too little; the next look tries again.
            let _ = fs::remove_file(&self.reserve);
        }
    }
}
