//! Layers as EROFS images, which this process mounts.
//!
//! ```text
//! <root>/i/<slot>        the image, with its seal
//! <root>/i/<slot>.part   an image that is being written
//! <root>/i/<slot>.dir    its files, while it is being turned into a directory
//! <root>/i/<slot>.whole  all of them, on the way to l/<slot>
//! <root>/i/<slot>.old    the image meanwhile
//! <root>/x/<slot>        where it is mounted; the layer is f in it
//! <root>/t/<slot>.i      an image that is being deleted
//! ```
//!
//! A committed layer has an image or a directory, never both: an image that is lost leaves nothing
//! that could be taken for an empty layer. The tree of an image lies one level down, in `f`, for the same
//! reason: below a mount point without its mount there is no `f`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use layerd_layers::apply::IMAGE_TOP;
use layerd_layers::erofs::{self, Seal};
use layerd_mounts::folder::{FLAGS, Folder, c_name, move_over, open_file, rename_over};
use layerd_mounts::mount::ImageAccess;
use layerd_mounts::{Error, Slot, Usage, mount, sys};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, fdatasync, unlinkat};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::dirs::{LayerDirs, Top, image_name};
use crate::driver::{CheckedImage, ImageCounts, ImageFile};

mod expand;
mod let_go;
pub(super) mod recover;

pub(super) const IMAGES: &str = "i";
pub(super) const MOUNT_POINTS: &str = "x";

/// Locks that the slots share.
const LOCKS: usize = 16;

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;

/// The images of a root, and their mounts.
#[derive(Debug)]
pub(super) struct LayerImages {
    images: Folder,
    points: Folder,
    /// Device that the folder of mount points is on.
    device: (u32, u32),
    known: RwLock<HashSet<Slot>>,
    /// Mounted images, as far as layerd mounted and unmounted them.
    mounted: Mutex<HashMap<Slot, ImageAccess>>,
    /// Images that this process wrote and did not mount yet: their content is as it was written.
    fresh: Mutex<HashSet<Slot>>,
    locks: [Mutex<()>; LOCKS],
    /// Set if archives are to become images.
    pub(super) is_wanted: bool,
}

impl LayerImages {
    /// Opens the folders of `root`; makes those that are missing.
    pub(super) fn open(root: &Path, is_wanted: bool) -> Result<Self, Error> {
        let points = Folder::open(root, c"x")?;
        let found = sys::stat(points.fd.as_fd(), c"");
        let found = found.map_err(|cause| Error::io("look at", &points.path, cause))?;
        Ok(Self {
            images: Folder::open(root, c"i")?,
            points,
            device: found.device,
            known: RwLock::default(),
            mounted: Mutex::default(),
            fresh: Mutex::default(),
            locks: Default::default(),
            is_wanted,
        })
    }

    /// True if a layer is an image. Reads memory only.
    pub(super) fn has(&self, slot: Slot) -> bool {
        let known = self.known.read();
        known.contains(&slot)
    }

    /// True if the file of an image is there.
    pub(super) fn is_there(&self, slot: Slot) -> Result<bool, Error> {
        self.images.has(&slot.to_string())
    }

    fn set_known(&self, slot: Slot, is_image: bool) {
        let mut known = self.known.write();
        if is_image {
            known.insert(slot);
        } else {
            known.remove(&slot);
            self.fresh().remove(&slot);
        }
    }

    fn fresh(&self) -> MutexGuard<'_, HashSet<Slot>> {
        self.fresh.lock()
    }

    /// Waits until no other call mounts, moves or expands the image.
    fn lock(&self, slot: Slot) -> MutexGuard<'_, ()> {
        let index = usize::try_from(slot.0 % LOCKS as u64).unwrap_or(0);
        let lock = &self.locks[index];
        lock.lock()
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.images.path.join(slot.to_string())
    }

    fn point(&self, slot: Slot) -> PathBuf {
        self.points.path.join(slot.to_string())
    }

    fn bad(&self, slot: Slot, problem: impl Into<String>) -> Error {
        Error::BadImage {
            slot,
            path: self.path(slot),
            problem: problem.into(),
        }
    }

    /// Opens the file of an image to read it.
    pub(super) fn open_file(&self, slot: Slot) -> Result<File, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = slot.to_string();
        match openat(&self.images.fd, name.as_str(), flags, Mode::empty()) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::ENOENT) => Err(self.bad(slot, "it is gone")),
            Err(cause) => Err(Error::io("open", &self.path(slot), cause)),
        }
    }

    fn failed(&self, slot: Slot, cause: erofs::Error) -> Error {
        match cause {
            erofs::Error::Io { cause, .. } => Error::io("read", &self.path(slot), cause),
            problem => self.bad(slot, problem.to_string()),
        }
    }

    /// Owner, group and mode of the top directory of a layer.
    pub(super) fn top(&self, slot: Slot) -> Result<Top, Error> {
        let seal = Seal::read(&self.open_file(slot)?, slot.0);
        let seal = seal.map_err(|cause| self.failed(slot, cause))?;
        let mode = Mode::from_bits_truncate(seal.permissions.into());
        Ok((seal.owner.0, seal.owner.1, mode))
    }

    /// Disk space of an image, and the inodes in it. Cost: three system calls.
    pub(super) fn usage(&self, slot: Slot) -> Result<Usage, Error> {
        let file = self.open_file(slot)?;
        self.usage_of(slot, &file)
    }

    fn usage_of(&self, slot: Slot, file: &File) -> Result<Usage, Error> {
        let seal = Seal::read(file, slot.0).map_err(|cause| self.failed(slot, cause))?;
        let found = file.metadata();
        let found = found.map_err(|cause| Error::io("look at", &self.path(slot), cause))?;
        Ok(Usage {
            bytes: found.blocks() * 512,
            inodes: seal.inodes,
        })
    }

    /// Brings the content of an image to the disk.
    pub(super) fn write_back(&self, slot: Slot, dirs: &LayerDirs) -> Result<Usage, Error> {
        let file = self.open_file(slot)?;
        fdatasync(&file).map_err(|cause| Error::Lost {
            path: self.path(slot),
            cause: cause.into(),
        })?;
        dirs.barrier.filled()?;
        self.usage_of(slot, &file)
    }

    /// Begins the image of a layer, in place of one that was begun before.
    pub(super) fn create(&self, slot: Slot) -> Result<ImageFile, Error> {
        let name = part(slot);
        let path = self.images.path.join(&name);
        let failed = |cause: Errno| Error::io("create", &path, cause);
        unlink(&self.images, &name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&self.images.fd, name.as_str(), flags, mode).map_err(failed)?;
        let folder = self.images.fd.try_clone();
        let folder = folder.map_err(|cause| Error::io("open", &self.images.path, cause))?;
        Ok(ImageFile::new(File::from(file), folder, name))
    }

    /// Gives a written image its name.
    pub(super) fn finish(
        &self,
        slot: Slot,
        file: ImageFile,
        durable: bool,
        dirs: &LayerDirs,
    ) -> Result<Usage, Error> {
        let _lock = self.lock(slot);
        let (_, file) = file
            .seal(slot.0)
            .map_err(|cause| self.failed(slot, cause))?;
        let (part, name) = (part(slot), slot.to_string());
        let mut has_name = false;
        let finish = || {
            if durable {
                let synced = fdatasync(&file);
                synced.map_err(|cause| Error::io("sync", &self.images.path.join(&part), cause))?;
            }
            has_name = rename_over(&self.images, &part, &self.images, &name)?;
            if durable {
                dirs.barrier.filled()?;
            } else {
                dirs.barrier.note();
            }
            // xfs keeps blocks beyond the end of a file that is open to be written.
            drop(file);
            self.usage(slot)
        };
        let finished = finish();
        if finished.is_ok() {
            self.fresh().insert(slot);
            self.set_known(slot, true);
        } else {
            // An image that had the name before is not this call's. What stays is no layer's: the first
            // error is the one to tell.
            let own = if has_name { &name } else { &part };
            let _ = unlink(&self.images, own);
        }
        finished
    }

    /// Mounts the image of a layer, if it is one and is not mounted.
    pub(super) fn make_mountable(&self, slot: Slot) -> Result<(), Error> {
        if !self.has(slot) || self.is_mounted(slot)? {
            return Ok(());
        }
        let _lock = self.lock(slot);
        self.mount(slot)
    }

    fn is_mounted(&self, slot: Slot) -> Result<bool, Error> {
        self.access(slot).map(|access| access.is_some())
    }

    /// Access of the kernel to an image, if it is mounted. Files that lie where the mount would be, as
    /// in a copy of the data directory, are none.
    fn access(&self, slot: Slot) -> Result<Option<ImageAccess>, Error> {
        let found = match sys::stat(self.points.fd.as_fd(), &c_name(&below(slot))) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(cause) => return Err(Error::io("look at", &self.point(slot), cause)),
        };
        let is_mounted = found.is_dir() && found.device != self.device;
        Ok(is_mounted.then_some(match found.device.0 {
            LOOP_MAJOR => ImageAccess::LoopDevice,
            _ => ImageAccess::File,
        }))
    }

    fn accesses(&self) -> MutexGuard<'_, HashMap<Slot, ImageAccess>> {
        self.mounted.lock()
    }

    /// Counts images and mounts. Reads memory only.
    pub(super) fn counts(&self) -> ImageCounts {
        let known = self.known.read();
        let mounted = self.accesses();
        let by_loop = mounted.values();
        let by_loop = by_loop.filter(|access| **access == ImageAccess::LoopDevice);
        ImageCounts {
            images: known.len(),
            mounted: mounted.len(),
            loop_devices: by_loop.count(),
        }
    }

    /// With the lock of the slot held.
    fn mount(&self, slot: Slot) -> Result<(), Error> {
        if self.is_mounted(slot)? {
            return Ok(());
        }
        let file = self.open_file(slot)?;
        if !self.fresh().contains(&slot) {
            let checked = Seal::check(&file, slot.0, &|_| true);
            checked.map_err(|cause| self.failed(slot, cause))?;
        }
        let (name, point) = (slot.to_string(), self.point(slot));
        match mkdirat(&self.points.fd, name.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(cause) => return Err(Error::io("create directory", &point, cause)),
        }
        let access = mount::mount_image(&self.path(slot), file.as_fd(), &point)?;
        if !self.is_mounted(slot)? {
            self.let_go(slot)?;
            return Err(self.bad(slot, "it does not show the layer"));
        }
        self.fresh().remove(&slot);
        self.accesses().insert(slot, access);
        tracing::debug!(slot = slot.0, ?access, "mounted the image of a layer");
        Ok(())
    }

    /// Takes the mount and its mount point away, if they are there.
    fn unmount(&self, slot: Slot) -> Result<(), Error> {
        self.let_go(slot)?;
        self.accesses().remove(&slot);
        let name = slot.to_string();
        match unlinkat(&self.points.fd, name.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(Error::io("delete directory", &self.point(slot), cause)),
        }
    }

    /// Opens the top directory of a layer that is an image.
    pub(super) fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.make_mountable(slot)?;
        let opened = openat(&self.points.fd, below(slot).as_str(), FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &self.point(slot), cause))
    }

    /// Compares an image with its seal.
    pub(super) fn check(
        &self,
        slot: Slot,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<CheckedImage, Error> {
        checked(&self.images.path, slot, keep_going)
    }

    /// Deletes the directory beside an image, which must be empty.
    pub(super) fn freeze(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        let name = slot.to_string();
        let path = || dirs.layers.path.join(&name);
        match unlinkat(&dirs.layers.fd, name.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {
                dirs.barrier.note();
                Ok(())
            }
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Err(Error::WrittenBeside { path: path() }),
            Err(cause) => Err(Error::io("delete directory", &path(), cause)),
        }
    }

    /// Moves an image to the trash. What has it mounted goes on reading it.
    pub(super) fn discard(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        if !self.has(slot) {
            return Ok(());
        }
        let _lock = self.lock(slot);
        self.unmount(slot)?;
        let (name, trashed) = (slot.to_string(), image_name(slot));
        move_over(&dirs.barrier, &self.images, &name, &dirs.trash, &trashed)?;
        dirs.barrier.note();
        self.set_known(slot, false);
        Ok(())
    }

    /// Path of the image of a layer that is to be moved to another place, unmounted.
    pub(super) fn release(&self, slot: Slot) -> Result<PathBuf, Error> {
        let _lock = self.lock(slot);
        self.unmount(slot)?;
        self.set_known(slot, false);
        Ok(self.path(slot))
    }
}

/// Compares an image in a folder with its seal.
pub(super) fn checked(
    folder: &Path,
    slot: Slot,
    keep_going: &dyn Fn(u64) -> bool,
) -> Result<CheckedImage, Error> {
    let path = folder.join(slot.to_string());
    let fail = |cause| Error::io("read", &path, cause);
    let file = open_file(&path, false).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    let (inodes, problem) = match Seal::check(&file, slot.0, keep_going) {
        Ok(Some(seal)) => (seal.inodes, None),
        Ok(None) => return Err(Error::Stopped),
        Err(erofs::Error::Io { cause, .. }) => return Err(fail(cause)),
        Err(problem) => (0, Some(problem.to_string())),
    };
    Ok(CheckedImage {
        bytes,
        inodes,
        problem,
    })
}

fn part(slot: Slot) -> String {
    format!("{slot}.part")
}

/// The layer, below the folder of mount points.
fn below(slot: Slot) -> String {
    format!("{slot}/{IMAGE_TOP}")
}

/// Deletes a file. None there is success.
fn unlink(folder: &Folder, name: &str) -> Result<(), Error> {
    match unlinkat(&folder.fd, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(cause) => Err(Error::io("delete", &folder.path.join(name), cause)),
    }
}

#[cfg(test)]
mod tests;
