//! Space for the database on a full disk.
//!
//! When the disk runs low, new snapshots are refused before they reach the database. A removal takes
//! no space: its entry in the write-ahead log is written in place. But sled does not survive a log
//! write without space during a checkpoint. So a file of [`RESERVE`] bytes is kept. It is released
//! right before a checkpoint or when a removal finds no space, and not earlier: other programs take
//! free space too. [`LAST`] of it stays for the next start, since sled writes a little when it opens.
//! When there is space again, the reserve is allocated anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

use crate::file::open_or_create;

/// Size of the reserve, in bytes.
const RESERVE: u64 = 8 * 1024 * 1024;
/// Part of it that stays for the next start, in bytes.
const LAST: u64 = 2 * 1024 * 1024;
/// Step in which it is released to open the database, in bytes.
const PART: u64 = 512 * 1024;
/// Least missing part of the reserve that is allocated again, in bytes.
const LEAST: u64 = 64 * 1024;
/// Free bytes below which no new record is taken.
const LOW: u64 = 4 * 1024 * 1024;
/// Free bytes above which the reserve is allocated anew.
const ENOUGH: u64 = 4 * LOW + RESERVE;

/// Free inodes below which no new record is taken; opening the database takes one or two.
const FEW_INODES: u64 = 16;
/// Free inodes above which the reserve is allocated anew.
const ENOUGH_INODES: u64 = 4 * FEW_INODES;

/// Threshold of free space and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free bytes.
    pub bytes: u64,
    /// Free inodes.
    pub inodes: u64,
}

impl Room {
    /// Threshold below which only removals are taken.
    pub const LOW: Self = Self {
        bytes: LOW,
        inodes: FEW_INODES,
    };
    /// Threshold above which everything is taken, and space for removals is reserved.
    pub const ENOUGH: Self = Self {
        bytes: ENOUGH,
        inodes: ENOUGH_INODES,
    };
}

/// Size of a file in bytes; 0 if it cannot be read.
fn length(path: &Path) -> u64 {
    let found = fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file);
    found.map_or(0, |file| file.len())
}

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    reserve: PathBuf,
    /// Set while no new record is taken.
    low: Arc<AtomicBool>,
}

impl Space {
    /// The reserve in `folder`, allocated if there is space.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut space = Self {
            folder: folder.to_owned(),
            reserve: folder.join("reserve"),
            low: Arc::default(),
        };
        space.look();
        space
    }

    /// Checks free space, and allocates the reserve if there is enough again; true if the disk is too
    /// full for a new record. Costs one statvfs(3).
    pub(crate) fn look(&mut self) -> bool {
        // The write itself will fail if this matters.
        let Ok(disk) = statvfs(&self.folder) else {
            return false;
        };
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        // File systems without an inode table report zero inodes.
        let inodes = match disk.files() {
            0 => u64::MAX,
            _ => disk.files_available(),
        };
        let is_low = self.is_low();
        if (free < LOW || inodes < FEW_INODES) && !is_low {
            self.set_low(true);
            warn!("the disk is full: nothing new is taken");
        } else if free > ENOUGH && inodes > ENOUGH_INODES {
            self.renew();
        } else if is_low && free > 2 * LOW && inodes > ENOUGH_INODES && !self.reserve.exists() {
            // A disk that is too small for a reserve; nothing is to be taken back.
            self.set_low(false);
            info!("the disk has space again");
        }
        self.is_low()
    }

    /// Set while no new record is taken, as of the last look.
    pub(crate) fn low(&self) -> Arc<AtomicBool> {
        self.low.clone()
    }

    fn is_low(&self) -> bool {
        self.low.load(Ordering::Acquire)
    }

    fn set_low(&self, low: bool) {
        self.low.store(low, Ordering::Release);
    }

    /// Releases the reserve but for [`LAST`]; true if there was more than that.
    pub(crate) fn release(&mut self) -> bool {
        self.set_low(true);
        let is_released = length(&self.reserve) > LAST && self.shorten(LAST);
        if is_released {
            warn!("the disk is full: removals go on, on the space kept for them");
        }
        is_released
    }

    /// Releases [`PART`] of the reserve, so that the database can be opened; false if nothing was left.
    /// [`take_back`](Self::take_back) allocates it again.
    pub(crate) fn lend(&mut self) -> bool {
        self.set_low(true);
        let length = length(&self.reserve);
        length > 0 && self.shorten(length.saturating_sub(PART))
    }

    /// Allocates the reserve up to `wanted` bytes, or as far as there is space.
    pub(crate) fn take_back(&self, wanted: u64) {
        let mut missing = wanted.saturating_sub(self.kept());
        while missing >= LEAST {
            if self.make(self.kept() + missing).is_err() {
                missing /= 2;
            } else {
                missing = missing.min(wanted.saturating_sub(self.kept()));
            }
        }
    }

    /// Size of the reserve, in bytes.
    pub(crate) fn kept(&self) -> u64 {
        length(&self.reserve)
    }

    fn shorten(&self, length: u64) -> bool {
        let opened = open_or_create(&self.reserve);
        let shortened = opened.and_then(|file| file.set_len(length));
        if let Err(cause) = &shortened {
            warn!(
                error = cause as &dyn std::error::Error,
                "give the reserved space free"
            );
        }
        shortened.is_ok()
    }

    /// Allocates the reserve up to `size` bytes; after a failure it is as it was.
    fn make(&self, size: u64) -> io::Result<()> {
        let file = open_or_create(&self.reserve)?;
        let before = file.metadata()?.len();
        let length = i64::try_from(size).map_err(io::Error::other)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, length);
        made.map_err(|errno| {
            // ext4 keeps a partial allocation.
            let _ = file.set_len(before);
            errno.into()
        })
    }

    fn renew(&mut self) {
        if self.is_low() {
            info!("the disk has space again");
        }
        self.set_low(false);
        if length(&self.reserve) >= RESERVE {
            return;
        }
        if let Err(cause) = self.make(RESERVE) {
            // The next check tries again.
            warn!(
                error = &cause as &dyn std::error::Error,
                "reserve space for removals"
            );
        }
    }
}
