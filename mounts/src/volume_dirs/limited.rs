//! Volumes with a limit of bytes or inodes: content that belongs to a [project](crate::limit::project) with a
//! quota, which a symlink beside it notes, or an [image](crate::limit), mounted at the content's place.
//!
//! The mount point below is immutable, so that nothing is written past the limit while nothing is
//! mounted. A boot takes mounts away, and [`ready`](VolumeDirs::ready) makes them anew.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{DATA, VolumeDirs};
use crate::Slot;
use crate::error::Error;
use crate::folder::Folder;
use crate::limit::project::Project;
use crate::limit::{self, Enforcement, Holder, Limit, Method};
use crate::space::Space;

/// Symlink in a volume's folder that notes its project.
const PROJECT: &str = "project";
/// Inodes beside those of the content: its top folder.
const OWN_INODES: u64 = 1;

impl VolumeDirs {
    /// The same, with new limits by this method.
    #[must_use]
    pub fn limited_by(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Way in which limits of new volumes are enforced. Looked for once.
    pub fn enforcement(&self) -> &Enforcement {
        let probe = || Enforcement::probe(&self.projects, self.method);
        self.enforcement.get_or_init(probe)
    }

    /// Has the content of a staged volume, which is empty, held to a limit, and opens it.
    pub(super) fn stage_limited(&self, slot: Slot, limit: Limit) -> Result<OwnedFd, Error> {
        match self.enforcement() {
            Enforcement::Quota => self.stage_in_project(slot, limit),
            _ => self.stage_image(slot, limit),
        }
    }

    /// The note is there before the content belongs to the project.
    fn stage_in_project(&self, slot: Slot, limit: Limit) -> Result<OwnedFd, Error> {
        let staging = self.staging()?;
        let (file, note) = (staging.fd.as_fd(), project_note(slot));
        let fail = |attempt, cause| Error::io(attempt, &staging.path.join(&note), cause);
        let taken = self.projects.take_noted(file, &note, limit, OWN_INODES);
        let project = taken.map_err(|cause| fail("set a quota for", cause))?;
        let data = super::open_data(staging, slot)?;
        let given = project.give(data.as_fd());
        given.map_err(|cause| fail("set the project of", cause))?;
        Ok(data)
    }

    /// Makes the image of a staged volume and mounts it on its content, which is empty. Answers the
    /// mounted content. The image is on the disk then, and the names in it are not.
    fn stage_image(&self, slot: Slot, limit: Limit) -> Result<OwnedFd, Error> {
        let staging = self.staging()?;
        let holder = Holder::new(staging, &slot.to_string());
        holder.make(limit, self.enforcement())?;
        close_mount_point(staging, slot)?;
        holder.mount()?;
        holder.delete_lost_and_found()?;
        super::open_data(staging, slot)
    }

    /// Has the content of a volume with an image mounted. Costs three looks where it is, or has none; else
    /// a mount, which replays the journal of a file system that was not unmounted.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if it has a quota that is not enforced any more; [`Error::Io`].
    pub fn ready(&self, slot: Slot) -> Result<(), Error> {
        if !self.has_image(slot)? {
            return self.check_enforced(slot);
        }
        if is_mounted(&self.live, slot)? {
            return Ok(());
        }
        let _lock = self.mounting.lock();
        match is_mounted(&self.live, slot)? {
            true => Ok(()),
            false => Holder::new(&self.live, &slot.to_string()).mount(),
        }
    }

    fn check_enforced(&self, slot: Slot) -> Result<(), Error> {
        match project_of(&self.live, slot)? {
            Some(_) => self.projects.require(&format!("volume {slot}")),
            None => Ok(()),
        }
    }

    /// True if there is what holds a volume in its place to a limit.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_limit(&self, slot: Slot) -> Result<bool, Error> {
        has_limit(&self.live, slot)
    }

    /// Path of the note of a volume's project, or else of its image.
    #[must_use]
    pub fn limit_path(&self, slot: Slot, is_project: bool) -> PathBuf {
        let name = if is_project { PROJECT } else { limit::IMAGE };
        self.live.path.join(slot.to_string()).join(name)
    }

    /// True if a volume in its place has an image.
    pub(super) fn has_image(&self, slot: Slot) -> Result<bool, Error> {
        limit::has_image(&self.live, &slot.to_string())
    }

    /// True if a volume in the trash has an image.
    pub(super) fn has_trashed_image(&self, slot: Slot) -> Result<bool, Error> {
        limit::has_image(self.trash()?, &slot.to_string())
    }

    /// Refuses a volume in the trash whose image shows a fault without a mount.
    ///
    /// # Errors
    /// [`Error::BadFileSystem`]; [`Error::Io`].
    pub fn check_trashed(&self, slot: Slot) -> Result<(), Error> {
        let path = self.trash()?.path.join(slot.to_string());
        match self
            .has_trashed_image(slot)?
            .then(|| limit::image_problem(&path))
        {
            Some(Some(problem)) => Err(Error::BadFileSystem {
                path: path.join(limit::IMAGE),
                problem,
            }),
            _ => Ok(()),
        }
    }

    /// Takes the mount of a volume in the trash away, so that it holds no loop device there. What has
    /// it mounted elsewhere goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rest(&self, slot: Slot) -> Result<(), Error> {
        unmount(self.trash()?, slot)
    }

    /// Unmounts the content of a volume whose directory is at `path`, and is to be moved to another place. What
    /// has no image has no mount.
    ///
    /// # Errors
    /// [`Error::Busy`] for a mount of another program; [`Error::Io`].
    pub fn release(path: &std::path::Path) -> Result<(), Error> {
        match path.join(limit::IMAGE).is_file() {
            true => Holder::at(path).let_go(),
            false => Ok(()),
        }
    }

    /// Takes away what is mounted on staged content, which is about to be deleted, and its limit.
    pub(super) fn release_staged(&self, slot: Slot) -> Result<(), Error> {
        let staging = self.staging()?;
        unmount(staging, slot)?;
        let Some(project) = project_of(staging, slot)? else {
            return Ok(());
        };
        let freed = self.projects.free(staging.fd.as_fd(), project);
        let path = || staging.path.join(project_note(slot));
        freed.map_err(|cause| Error::io("take the quota from", &path(), cause))
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

    /// Changes the limit of a volume, also while it is in use: an image is enlarged as [`Holder::grow`] says,
    /// a quota set in one call.
    ///
    /// # Errors
    /// As there.
    pub fn resize(&self, slot: Slot, bytes: u64, is_held: bool) -> Result<(), Error> {
        self.step("resize", slot);
        let data = self.open_data(slot)?;
        if let Some(project) = project_of(&self.live, slot)? {
            let path = self.data_path(slot);
            let grown = project
                .resize(data.as_fd(), bytes)
                .and_then(|()| syncfs(&data));
            return grown.map_err(|cause| Error::io("enlarge the quota of", &path, cause));
        }
        let _lock = self.mounting.lock();
        Holder::new(&self.live, &slot.to_string()).grow(data, bytes, is_held)
    }

    /// Room in a volume with a limit, as those see it who write to it; none without a limit. Has an
    /// image mounted, as [`ready`](Self::ready) does; then a few looks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space_in(&self, slot: Slot) -> Result<Option<Space>, Error> {
        self.ready(slot)?;
        self.space_if_mounted(slot)
    }

    /// The same, and none as well while an image is not mounted: nothing is mounted for a look.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space_if_mounted(&self, slot: Slot) -> Result<Option<Space>, Error> {
        let is_there = match self.has_image(slot)? {
            true => is_mounted(&self.live, slot)?,
            false => project_of(&self.live, slot)?.is_some(),
        };
        if !is_there {
            return Ok(None);
        }
        let disk = fstatvfs(super::open_data(&self.live, slot)?);
        let path = self.data_path(slot);
        disk.map(|disk| Some(Space::from(disk)))
            .map_err(|cause| Error::io("look at", &path, cause))
    }
}

/// Name of the symlink that notes the project of a volume, in the folder that the volume is in.
fn project_note(slot: Slot) -> String {
    format!("{slot}/{PROJECT}")
}

/// Project of a volume in a folder; `None` if it has none, or is not there.
fn project_of(folder: &Folder, slot: Slot) -> Result<Option<Project>, Error> {
    let note = project_note(slot);
    let noted = Project::noted(folder.fd.as_fd(), &note);
    noted.map_err(|cause| Error::io("read", &folder.path.join(note), cause))
}

/// True if there is what holds a volume in a folder to a limit.
pub(super) fn has_limit(folder: &Folder, slot: Slot) -> Result<bool, Error> {
    let is_image = limit::has_image(folder, &slot.to_string())?;
    Ok(is_image || project_of(folder, slot)?.is_some())
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

/// Unmounts the content of a volume. Nothing there, or mounted, is success; a mount of another program is not
/// touched.
pub(super) fn unmount(folder: &Folder, slot: Slot) -> Result<(), Error> {
    let name = slot.to_string();
    match limit::has_image(folder, &name) {
        Ok(false) => Ok(()),
        // What an interrupted deletion left may be no directory.
        Err(cause) if cause.errno() == Some(Errno::ENOTDIR as i32) => Ok(()),
        Ok(true) => Holder::new(folder, &name).let_go(),
        Err(cause) => Err(cause),
    }
}
