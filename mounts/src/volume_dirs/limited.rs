//! Volumes with a limit of bytes or inodes: an [image](crate::limit), mounted at the content's place.
//!
//! The mount point below is immutable, so that nothing is written past the limit while nothing is
//! mounted. A boot takes mounts away, and [`ready`](VolumeDirs::ready) makes them anew.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{DATA, VolumeDirs};
use crate::Slot;
use crate::error::Error;
use crate::folder::Folder;
use crate::limit::{self, Enforcement, Holder, Limit};
use crate::space::Space;

impl VolumeDirs {
    /// Way in which limits of new volumes are enforced. Looked for once.
    pub fn enforcement(&self) -> &Enforcement {
        self.enforcement.get_or_init(Enforcement::probe)
    }

    /// Makes the image of a staged volume and mounts it on its content, which is empty. Answers the
    /// mounted content. The image is on the disk then, and the names in it are not.
    pub(super) fn stage_image(&self, slot: Slot, limit: Limit) -> Result<OwnedFd, Error> {
        let staging = self.staging()?;
        let holder = Holder::new(staging, &slot.to_string());
        holder.make(limit, self.enforcement())?;
        close_mount_point(staging, slot)?;
        holder.mount()?;
        holder.delete_lost_and_found()?;
        super::open_data(staging, slot)
    }

    /// Has the content of a volume with an image mounted. Costs two looks where it is, or has none; else a
    /// mount, which replays the journal of a file system that was not unmounted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ready(&self, slot: Slot) -> Result<(), Error> {
        if !self.has_image(slot)? || is_mounted(&self.live, slot)? {
            return Ok(());
        }
        let _lock = self.mounting.lock();
        match is_mounted(&self.live, slot)? {
            true => Ok(()),
            false => Holder::new(&self.live, &slot.to_string()).mount(),
        }
    }

    /// True if a volume in its place has an image.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_image(&self, slot: Slot) -> Result<bool, Error> {
        limit::has_image(&self.live, &slot.to_string())
    }

    /// True if a volume in the trash has an image.
    pub(super) fn has_trashed_image(&self, slot: Slot) -> Result<bool, Error> {
        limit::has_image(self.trash()?, &slot.to_string())
    }

    /// Takes the mount of a volume in the trash away, so that it holds no loop device there. What has
    /// it mounted elsewhere goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rest(&self, slot: Slot) -> Result<(), Error> {
        unmount(self.trash()?, slot)
    }

    /// Takes away what is mounted on staged content, which is about to be deleted.
    pub(super) fn unmount_staged(&self, slot: Slot) -> Result<(), Error> {
        unmount(self.staging()?, slot)
    }

    /// Brings what was made in an image to the disk: all of its file system. Nothing without an image.
    pub(super) fn sync_image(&self, data: &OwnedFd, slot: Slot) -> Result<(), Error> {
        let staging = self.staging()?;
        if !limit::has_image(staging, &slot.to_string())? {
            return Ok(());
        }
        let path = staging.path.join(slot.to_string()).join(DATA);
        syncfs(data).map_err(|cause| Error::io("sync", &path, cause))
    }

    /// Enlarges a volume with an image, also while it is in use, as [`Holder::grow`] says.
    ///
    /// # Errors
    /// As there.
    pub fn grow(&self, slot: Slot, bytes: u64, is_held: bool) -> Result<(), Error> {
        self.step("grow", slot);
        let data = self.open_data(slot)?;
        let _lock = self.mounting.lock();
        Holder::new(&self.live, &slot.to_string()).grow(data, bytes, is_held)
    }

    /// Room in a volume with an image, as those see it who write to it; none without an image. Has the
    /// image mounted, as [`ready`](Self::ready) does; then a few looks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space_in(&self, slot: Slot) -> Result<Option<Space>, Error> {
        self.ready(slot)?;
        self.space_if_mounted(slot)
    }

    /// The same, and none as well while the image is not mounted: nothing is mounted for a look.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space_if_mounted(&self, slot: Slot) -> Result<Option<Space>, Error> {
        if !self.has_image(slot)? || !is_mounted(&self.live, slot)? {
            return Ok(None);
        }
        let disk = fstatvfs(super::open_data(&self.live, slot)?);
        let path = self.data_path(slot);
        disk.map(|disk| Some(Space::from(disk)))
            .map_err(|cause| Error::io("look at", &path, cause))
    }
}

/// Keeps all from writing below a mount, where the file system has the flag for that.
fn close_mount_point(folder: &Folder, slot: Slot) -> Result<(), Error> {
    let data = super::open_data(folder, slot)?;
    if let Ok(flags) = ioctl_getflags(&data) {
        let _ = ioctl_setflags(&data, flags | IFlags::IMMUTABLE);
    }
    Ok(())
}

pub(super) fn is_mounted(folder: &Folder, slot: Slot) -> Result<bool, Error> {
    limit::is_mounted(folder, &slot.to_string())
}

/// Unmounts the content of a volume. Nothing there, or mounted, is success.
fn unmount(folder: &Folder, slot: Slot) -> Result<(), Error> {
    let name = slot.to_string();
    match limit::has_image(folder, &name) {
        Ok(false) => Ok(()),
        // What an interrupted deletion left may be no directory.
        Err(cause) if cause.errno() == Some(Errno::ENOTDIR as i32) => Ok(()),
        Ok(true) => Holder::new(folder, &name).let_go(),
        Err(cause) => Err(cause),
    }
}
