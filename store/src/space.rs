//! Room for the database on a full disk.
//!
//! When the disk runs low, new snapshots are refused before they reach the database. To remove one
//! takes no space: its entry in the journal is written in place. But sled, which takes the journal in
//! now and then, does not survive a log write for which there is no space. So a file of [`RESERVE`]
//! bytes is kept. It is given free right before sled needs its room, or when a removal finds none, and
//! not before: others write to the disk too, and take what is free. Some of it stays for the next
//! start, since sled writes a little when it opens. When there is space again, it is made anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

/// Size of the reserve, in bytes.
const RESERVE: u64 = 8 * 1024 * 1024;
/// What stays of it for the next start, in bytes.
const LAST: u64 = 2 * 1024 * 1024;
/// What is given free of it at once to open the database, in bytes.
const PART: u64 = 512 * 1024;
/// The least that is worth keeping, in bytes.
const LEAST: u64 = 64 * 1024;
/// Free space below which nothing new is taken.
const LOW: u64 = 4 * 1024 * 1024;
/// Free space above which the reserve is made anew.
const ENOUGH: u64 = 4 * LOW + RESERVE;

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
    length(&folder.join("reserve")) > LAST
}

/// Bytes of a file; none if it cannot be looked at.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Space {
    folder: PathBuf,
    reserve: PathBuf,
    low: bool,
}

impl Space {
    /// Looks at the disk for the first time.
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
            warn!("the disk is full: nothing new is taken");
        } else if free > ENOUGH && inodes > ENOUGH_INODES {
            self.renew();
        }
        self.low
    }

    /// Gives the reserve free, but for what stays for the next start. Answers whether there was more
    /// than that.
    pub(crate) fn release(&mut self) -> bool {
        self.low = true;
        let is_released = length(&self.reserve) > LAST && self.shorten(LAST);
        if is_released {
            warn!("the disk is full: removals go on, on the space kept for them");
        }
        is_released
    }

    /// Gives a part of the reserve free, so that the database can be opened. Answers whether there was
    /// any; [`take_back`](Self::take_back) ends it.
    pub(crate) fn lend(&mut self) -> bool {
        self.low = true;
        let length = length(&self.reserve);
        length > 0 && self.shorten(length.saturating_sub(PART))
    }

    /// Makes the reserve as large as it was, or as there is space for, once the database is open.
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

    /// Bytes of the reserve.
    pub(crate) fn kept(&self) -> u64 {
        length(&self.reserve)
    }

    fn shorten(&self, length: u64) -> bool {
        let opened = File::options().write(true).open(&self.reserve);
        let shortened = opened.and_then(|file| file.set_len(length));
        if let Err(cause) = &shortened {
            warn!(
                error = cause as &dyn std::error::Error,
                "give the reserved space free"
            );
        }
        shortened.is_ok()
    }

    /// Makes it so large; after a failure it is as it was.
    fn make(&self, size: u64) -> io::Result<()> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.reserve)?;
        let before = file.metadata()?.len();
        let length = i64::try_from(size).map_err(io::Error::other)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, length);
        made.map_err(|errno| {
            // ext4 keeps what it could allocate.
            let _ = file.set_len(before);
            errno.into()
        })
    }

    fn renew(&mut self) {
        if self.low {
            info!("the disk has space again");
        }
        self.low = false;
        if length(&self.reserve) >= RESERVE {
            return;
        }
        if let Err(cause) = self.make(RESERVE) {
            // The next look tries again.
            warn!(
                error = &cause as &dyn std::error::Error,
                "reserve space for removals"
            );
        }
    }
}
