//! Capabilities: directories, marks, limits; and figures of layers.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use layerd_layers::Layering;
use layerd_mounts::limit::Enforcement;
use layerd_mounts::{Error, Slot, Space, Usage, mountinfo, sys};
use nix::sys::statvfs::fstatvfs;

use super::Zfs;
use crate::driver::{Directories, Limits, Stamp, Survey as _, WorkDirs};

impl Zfs {
    /// Waits until what was written to the pool is on the disk: one call for all callers of the moment.
    pub(super) fn sync_pool(&self) -> Result<(), Error> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut done = self.synced.lock();
        if *done >= ticket {
            return Ok(());
        }
        let covered = self.asked.load(Ordering::Acquire);
        self.datasets.sync()?;
        *done = covered;
        Ok(())
    }

    /// Bytes that a layer wrote since it was made, and one inode more than it has beyond those of its origin:
    /// two calls, whatever it holds.
    pub(super) fn measure(&self, slot: Slot) -> Result<Usage, Error> {
        if self.is_in_trash(slot)? {
            return Err(self.missing(slot));
        }
        self.sync_pool()?;
        let found = self.datasets.look(slot)?;
        let found = found.ok_or_else(|| self.missing(slot))?;
        let all = objects(&self.open_layer(slot)?, &self.datasets.layer(slot))?;
        let before = match &found.origin {
            Some(origin) => objects(&self.datasets.open(origin, true)?, origin)?,
            // Its top directory counts.
            None => self.own_objects + 1,
        };
        Ok(Usage {
            bytes: found.written,
            inodes: 1 + all.saturating_sub(before),
        })
    }
}

/// Number of objects of a dataset, as statfs(2) tells: an inode is one, an attribute beyond those that fit
/// into the inode are two, and a few are its own.
pub(super) fn objects(top: &OwnedFd, dataset: &str) -> Result<u64, Error> {
    let disk = fstatvfs(top).map_err(|cause| Error::io("look at", Path::new(dataset), cause))?;
    Ok(disk.files().saturating_sub(disk.files_free()))
}

impl Directories for Zfs {
    fn layering(&self) -> Layering {
        Layering::Full
    }

    fn filled(&self) -> Result<(), Error> {
        self.sync_pool()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let top = self.open_layer(slot)?;
        let top = sys::stat(top.as_fd(), c"")
            .map_err(|cause| Error::io("look at", Path::new(&self.datasets.layer(slot)), cause))?;
        Ok(Some(Stamp {
            inode: top.inode,
            changed: top.changed,
        }))
    }
}

/// The mark of a layer that is being made.
impl WorkDirs for Zfs {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        self.known(slot).map(drop)
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.remove_work(slot)
    }
}

impl Limits for Zfs {
    fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    fn is_limited(&self, slot: Slot) -> bool {
        let known = self.known.lock();
        let known = known.get(&slot);
        known.is_some_and(|known| known.limit.is_some() && !known.is_frozen)
    }

    fn space(&self, slot: Slot) -> Result<Option<Space>, Error> {
        let limit = self.known.lock().get(&slot).copied();
        let limit = limit.filter(|known| !known.is_frozen);
        let Some(bytes) = limit.and_then(|known| known.limit) else {
            return Ok(None);
        };
        let dataset = self.datasets.layer(slot);
        let table = mountinfo::read()?;
        let is_mounted = table
            .iter()
            .any(|entry| entry.kind == "zfs" && entry.source == *dataset);
        if !is_mounted {
            return Ok(None);
        }
        let top = self.open_layer(slot)?;
        let disk =
            fstatvfs(&top).map_err(|cause| Error::io("look at", Path::new(&dataset), cause))?;
        // Of all that is seen in it the limit holds what was written: the rest is the image.
        let bytes_free = Space::from(disk).bytes_free.min(bytes);
        Ok(Some(Space {
            bytes,
            bytes_free,
            inodes: 0,
            inodes_free: 0,
        }))
    }

    fn count(&self) -> usize {
        let known = self.known.lock();
        let limited = known.values();
        limited
            .filter(|known| known.limit.is_some() && !known.is_frozen)
            .count()
    }
}
