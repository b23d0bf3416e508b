//! Layers as subvolumes of btrfs.
//!
//! A new layer is a snapshot of its parent, made in the same time for ten files and for a million. A
//! committed one is set read-only in place. `g/<slot>` is a symlink whose text is the number of the
//! last transaction that had changed something in the layer when it was committed: a descriptor that
//! was open for writing before still writes, and shows by that number. Such a layer is neither shown
//! nor built on any more.
//!
//! Usage is what a layer adds to its parent: the inodes and extents that were written by younger
//! transactions than the one that made it. The trees of btrfs are searched for these alone, so that
//! the cost is that of the changes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerd_mounts::folder::{Folder, c_name};
use layerd_mounts::sys::btrfs::{self, Item};
use layerd_mounts::{Error, Slot, Usage, mountinfo};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::dirs::{LayerDirs, Top};
use crate::finding::{Finding, file_system, open};
use crate::whole_tree::{Trees, WholeTrees};

/// Subvolumes below one root.
pub type Btrfs = WholeTrees<Subvolumes>;

/// Subvolumes, and what is noted of those that are committed.
#[derive(Debug)]
pub struct Subvolumes {
    frozen: Folder,
}

impl Trees for Subvolumes {
    const NAME: &'static str = "btrfs";
    const FOLDERS: &'static [&'static str] = &["l", "w", "t", "g"];

    fn look(root: &Path) -> Result<(Vec<Finding>, String), Error> {
        let (finding, file_system) = file_system(root)?;
        let mut findings = vec![finding];
        findings.push(subvolumes(root, &file_system.0)?);
        Ok((findings, file_system.0))
    }

    fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self {
            frozen: Folder::open(root, c"g")?,
        })
    }

    fn make(&self, dirs: &LayerDirs, slot: Slot, top: Top) -> Result<(), Error> {
        made(dirs, slot, top, btrfs::create)
    }

    fn copy(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        (parent, source): (Slot, &OwnedFd),
        top: Top,
    ) -> Result<(), Error> {
        self.freeze(dirs, parent)?;
        made(dirs, slot, top, |layers, name| {
            btrfs::snapshot(source.as_fd(), layers, name)
        })
    }

    fn freeze(&self, dirs: &LayerDirs, slot: Slot) -> Result<(), Error> {
        let top = dirs.open_layer(slot)?;
        let path = dirs.layers.path.join(slot.to_string());
        let fail = |cause: Errno| Error::io("set read-only", &path, cause);
        if btrfs::is_read_only(top.as_fd()).map_err(fail)?
            && let Some(noted) = self.noted(slot)?
        {
            let changed = btrfs::info(top.as_fd()).map_err(fail)?.changed;
            return match changed == noted {
                true => Ok(()),
                false => Err(Error::Altered { path }),
            };
        }
        btrfs::set_read_only(top.as_fd(), true).map_err(fail)?;
        self.note(slot, btrfs::info(top.as_fd()).map_err(fail)?.changed)?;
        dirs.barrier.note();
        Ok(())
    }

    fn thaw(&self, dirs: &LayerDirs, slot: Slot) -> Result<(), Error> {
        let top = dirs.open_layer(slot)?;
        let path = dirs.layers.path.join(slot.to_string());
        let fail = |cause: Errno| Error::io("set writable", &path, cause);
        if !btrfs::is_read_only(top.as_fd()).map_err(fail)? {
            return Ok(());
        }
        self.forget(slot)?;
        btrfs::set_read_only(top.as_fd(), false).map_err(fail)?;
        dirs.barrier.note();
        Ok(())
    }

    fn usage(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Usage, Error> {
        let top = dirs.open_layer(slot)?;
        let path = dirs.layers.path.join(slot.to_string());
        added(top.as_fd(), keep_going)
            .map_err(|cause| Error::io("measure", &path, cause))?
            .ok_or(Error::Stopped)
    }

    fn write_back(&self, dirs: &LayerDirs, slot: Slot) -> Result<Usage, Error> {
        dirs.write_back(slot)?;
        self.usage(dirs, slot, &|| true)
    }

    /// At once, unless another subvolume or a mount is inside; then file by file.
    fn delete(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        if !keep_going() {
            return Err(Error::Stopped);
        }
        let (name, trash) = (slot.to_string(), &dirs.trash);
        let path = trash.path.join(&name);
        // The kernel would detach what is mounted inside.
        if trash.has(&name)?
            && !mountinfo::read()?
                .iter()
                .any(|at| at.target.starts_with(&path))
        {
            dirs.barrier.note();
            match btrfs::destroy(trash.fd.as_fd(), &c_name(&name)) {
                // EINVAL: a directory, which was put there by hand.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EINVAL) => {}
                Err(cause) => return Err(Error::io("delete subvolume", &path, cause)),
            }
        }
        dirs.delete(slot, keep_going)?;
        if dirs.layers.has(&name)? {
            return Ok(());
        }
        self.forget(slot)
    }
}

impl Subvolumes {
    /// The number that was noted when a layer was frozen.
    fn noted(&self, slot: Slot) -> Result<Option<u64>, Error> {
        let name = slot.to_string();
        match readlinkat(&self.frozen.fd, name.as_str()) {
            Ok(text) => Ok(text.to_str().and_then(|text| text.parse().ok())),
            Err(Errno::ENOENT) => Ok(None),
            Err(cause) => Err(Error::io("read", &self.frozen.path.join(name), cause)),
        }
    }

    fn note(&self, slot: Slot, changed: u64) -> Result<(), Error> {
        self.forget(slot)?;
        let name = slot.to_string();
        let made = symlinkat(changed.to_string().as_str(), &self.frozen.fd, name.as_str());
        made.map_err(|cause| Error::io("create symlink", &self.frozen.path.join(name), cause))
    }

    fn forget(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        match unlinkat(&self.frozen.fd, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(Error::io("delete", &self.frozen.path.join(name), cause)),
        }
    }
}

/// Makes the subvolume of a layer with `make`, and gives its top directory owner and mode.
fn made(
    dirs: &LayerDirs,
    slot: Slot,
    top: Top,
    make: impl FnOnce(BorrowedFd<'_>, &std::ffi::CStr) -> Result<(), Errno>,
) -> Result<(), Error> {
    let (name, layers) = (slot.to_string(), &dirs.layers);
    let outcome = make(layers.fd.as_fd(), &c_name(&name));
    dirs.barrier.note();
    outcome.map_err(|cause| Error::io("create subvolume", &layers.path.join(&name), cause))?;
    dirs.correct(&name, top).map(drop)
}

/// Bytes and inodes that a subvolume has beyond those of the snapshot that it began as; `None` if
/// `keep_going` ended the work.
fn added(top: BorrowedFd<'_>, keep_going: &dyn Fn() -> bool) -> Result<Option<Usage>, Errno> {
    let info = btrfs::info(top)?;
    // A snapshot commits the transaction that makes it, which is thus the last one of its source.
    let since = if info.is_snapshot { info.made + 1 } else { 0 };
    // The top directory, which each layer has.
    let mut usage = Usage {
        bytes: 0,
        inodes: 1,
    };
    let mut visit = |item: Item<'_>| match item.kind {
        INODE if item.inode != btrfs::TOP && word(item.data, 0) >= since => usage.inodes += 1,
        EXTENT if word(item.data, 0) >= since => usage.bytes += extent_bytes(item.data),
        _ => {}
    };
    let whole = btrfs::each_item(top, since, EXTENT, keep_going, &mut visit)?;
    Ok(whole.then_some(usage))
}

/// Types of items (linux/btrfs_tree.h): an inode, and a part of a file's content. Both begin with the
/// number of the transaction that made them.
const INODE: u32 = 1;
const EXTENT: u32 = 108;

/// Bytes on the disk that a struct `btrfs_file_extent_item` refers to.
fn extent_bytes(item: &[u8]) -> u64 {
    const INLINE: u8 = 0;
    let (kind, address) = (item.get(20), word(item, 21));
    match kind {
        Some(&INLINE) => item.len().saturating_sub(21) as u64,
        // A hole has no address.
        Some(_) if address != 0 => word(item, 45),
        _ => 0,
    }
}

fn word(item: &[u8], at: usize) -> u64 {
    let bytes = item.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// Tries to make a subvolume, and to delete it.
fn subvolumes(root: &Path, file_system: &str) -> Result<Finding, Error> {
    const NAME: &str = "subvolumes";
    const TRIED: &std::ffi::CStr = c".layerd-check";
    if file_system != "btrfs" {
        return Ok(Finding::bad(
            NAME,
            "not on btrfs",
            "put the root on a btrfs, or set `driver = \"overlay\"`",
        ));
    }
    let dir = open(root)?;
    let _ = btrfs::destroy(dir.as_fd(), TRIED);
    let tried = btrfs::create(dir.as_fd(), TRIED).and_then(|()| {
        btrfs::info(dir.as_fd())?;
        btrfs::destroy(dir.as_fd(), TRIED)
    });
    Ok(match tried {
        Ok(()) => Finding::good(NAME, "made and deleted"),
        // It says nothing of subvolumes, and removals must go on.
        Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => {
            Finding::good(NAME, "not tried: the disk is full or read-only")
        }
        Err(cause) => Finding::bad(
            NAME,
            format!("cannot be made and deleted: {}", cause.desc()),
            "run layerd as root of the machine: the calls need CAP_SYS_ADMIN",
        ),
    })
}

#[cfg(test)]
mod tests;
