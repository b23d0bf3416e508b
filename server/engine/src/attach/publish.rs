//! Volumes shown at a path that an orchestrator owns, as kubelet does with its pods' directories.
//!
//! It makes and removes the mount point, unlike [`Attachments::attach`], and what is mounted there is the
//! orchestrator's to take away, whatever became of the record. Its daemons may run in a mount namespace
//! of their own and be started anew there: the mounts made before have come along as copies, with other
//! numbers. A copy of the mount that is recorded is taken for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_mounts::mounter::{
    Attached, DetachMode, Handle, Identity, Made, MountError, NewSource, Symlinks,
};
use layerd_mounts::mountinfo;
use layerd_store::{Attachment, BadInput, Key, MountedAt, Owner, VolumeId};
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::{info, warn};

use super::mount::{as_recorded, no_source};
use super::source::MadeSource;
use super::{Attach, AttachmentEntry, target};
use crate::volume_slot as slot;
use crate::{AttachError, Attachments, Error};

/// Mounts that are taken away from one mount point; more means that others mount there meanwhile.
const STACKED_MAX: usize = 16;

/// A volume that is to be shown at a path.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The volume.
    pub volume: VolumeId,
    /// The attachment: its key, specification and target, and whether it allows others.
    pub attach: Attach,
    /// The group whose members are to read and write what is in the volume.
    pub group: Option<u32>,
}

impl Attachments {
    /// Shows a volume at the target of an attachment; the directory is made if it is missing, the one
    /// that it lies in is not. Repeating the call answers the same. Costs two durable writes; with a
    /// group also a look at each file, unless the top folder has it already.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); `Missing` if there is no such volume. A mount that stood before
    /// stands after a failure, too.
    pub fn publish(&self, owner: &Owner, request: &Publish) -> Result<AttachmentEntry, Error> {
        let path = request.attach.target.as_deref();
        let path = path.ok_or_else(|| BadInput::new("target_path", "must not be empty"))?;
        let path = target::clean(path)?;
        self.volumes.volume_by_id(request.volume)?;
        self.refuse_own_place(&path)?;
        self.recognise_copy(&request.attach.key)?;
        let made = self.make_mount_point(&path)?;
        let published = self.publish_at(owner, request);
        if published.is_err()
            && let Err(cause) = self.mounter.remove_made(&made)
        {
            warn!(error = &cause as &dyn std::error::Error, path = %path.display(), "remove a mount point");
        }
        published
    }

    fn publish_at(&self, owner: &Owner, request: &Publish) -> Result<AttachmentEntry, Error> {
        let mut entries = self.attach(owner, std::slice::from_ref(&request.attach))?;
        let entry = entries.pop().ok_or(no_source("volume"))?;
        if entry.attachment.volume == Some(request.volume) {
            // Once the volume is held for this call, and everything that refuses it has been asked.
            if let Some(group) = request.group {
                self.volumes.give_group(request.volume, group)?;
            }
            return Ok(entry);
        }
        // The name changed hands since the caller looked it up.
        if entry.is_new {
            self.detach(std::slice::from_ref(&request.attach.key), false)?;
        }
        Err(layerd_store::Refusal::VolumeGone { id: request.volume }.into())
    }

    /// Takes a volume away from a path, and removes the directory there. Needs no record: a mount of a
    /// volume of layerd's goes, any other stays and is an error. What is not there is passed over.
    /// Removes no more than that directory, and only if it is empty.
    ///
    /// # Errors
    /// `Refused` if the mount is in use, or something else is mounted there or lies there; `Invalid` for a
    /// path in the data root, where nothing is changed.
    pub fn unpublish(&self, key: &Key, path: &Path) -> Result<(), Error> {
        let path = target::clean(path)?;
        self.refuse_own_place(&path)?;
        self.recognise_copy(key)?;
        self.detach(std::slice::from_ref(key), false)?;
        self.clear_unrecorded(&path)?;
        self.refuse_own_directory(&path)?;
        self.remove_mount_point(&path)
    }

    /// Lets go of a volume whose path the orchestrator removed without saying so, as kubelet does with pods
    /// that were deleted by force or while the machine was down. Answers false, and changes nothing, while
    /// the path is there or what was mounted for it still is. Unmounts nothing.
    ///
    /// # Errors
    /// [`AttachError::Mount`] if the path or the mount table cannot be read; [`Error::Store`].
    pub fn release_vanished(&self, key: &Key) -> Result<bool, Error> {
        let _guard = self.locks.lock(key);
        let records = self.root.store.records();
        let Some(there) = records.volumes().attachment(key) else {
            return Ok(false);
        };
        let Some(target) = there.target.as_deref().map(Path::new) else {
            return Ok(false);
        };
        match self.mounter.open_source(target, Symlinks::Refuse) {
            Err(MountError::Missing { .. }) => {}
            found => return found.map(|_| false).map_err(Error::from),
        }
        let mount = there.mount.as_ref().filter(|one| one.boot == self.boot);
        if let Some(mount) = mount
            && self.stands_hidden(mount)?
        {
            return Ok(false);
        }
        self.detach_held(there, &MadeSource::default(), false)?;
        Ok(true)
    }

    /// True if a mount, or a copy of it, is in the mount table, also where another mount hides its path.
    fn stands_hidden(&self, mount: &MountedAt) -> Result<bool, Error> {
        let target = Path::new(&mount.target);
        if self.mounter.is_mounted(target, &as_recorded(mount))? {
            return Ok(true);
        }
        let table = mountinfo::read().map_err(Error::driver("read the mount table"))?;
        Ok(table.iter().any(|entry| entry.target == target))
    }

    /// Refuses paths in layerd's own directories, before anything is made or taken away there: the image of
    /// a volume with a limit is mounted in one, and looks as if it was published there.
    fn refuse_own_place(&self, path: &Path) -> Result<(), Error> {
        let above = path.parent().unwrap_or(path);
        // What cannot be opened is told by what would use it.
        let Ok(above) = self.mounter.open_source(above, Symlinks::Refuse) else {
            return Ok(());
        };
        match self.reserved().has(&above, &|id| self.is_given_out(id))? {
            false => Ok(()),
            true => {
                let (path, root) = (path.display(), self.root.path.display());
                let rule = format!("{path:?} lies in layerd's data directory {root}");
                Err(BadInput::new("target_path", rule).into())
            }
        }
    }

    /// Refuses directories of layerd's own, and what holds them: they are no orchestrator's mount points.
    fn refuse_own_directory(&self, path: &Path) -> Result<(), Error> {
        let there = match self.mounter.open_source(path, Symlinks::Refuse) {
            Err(_) => return Ok(()),
            Ok(there) => there,
        };
        let broken = self.reserved().rule_broken(&there, &|_| false)?;
        match broken {
            None => Ok(()),
            Some(rule) => {
                let rule = format!("{:?} {rule}", path.display());
                Err(BadInput::new("target_path", rule).into())
            }
        }
    }

    /// The attachment with a key. Reads memory only.
    #[must_use]
    pub fn attachment(&self, key: &Key) -> Option<Arc<Attachment>> {
        self.root.store.records().volumes().attachment(key).cloned()
    }

    /// True if what an attachment shows is mounted where it was asked for.
    ///
    /// # Errors
    /// [`AttachError::Mount`] if that cannot be found out.
    pub fn is_published(&self, attachment: &Attachment) -> Result<bool, Error> {
        let Some(mount) = &attachment.mount else {
            return Ok(false);
        };
        let recorded = as_recorded(mount);
        let stands = self
            .mounter
            .is_mounted(Path::new(&mount.target), &recorded)?;
        let is_copy = || Ok::<_, Error>(self.copy_of(mount)?.is_some());
        Ok(mount.boot == self.boot && (stands || is_copy()?))
    }

    /// Notes the number of a copy of the mount that is recorded, if one stands at its place instead.
    fn recognise_copy(&self, key: &Key) -> Result<(), Error> {
        let _guard = self.locks.lock(key);
        let records = self.root.store.records();
        let Some(there) = records.volumes().attachment(key) else {
            return Ok(());
        };
        let Some(mount) = there.mount.as_ref().filter(|one| one.boot == self.boot) else {
            return Ok(());
        };
        let target = Path::new(&mount.target);
        if self.mounter.is_mounted(target, &as_recorded(mount))? {
            return Ok(());
        }
        if let Some(copy) = self.copy_of(mount)? {
            let mount = MountedAt {
                unique_id: copy.id,
                last_id: copy.last_id,
                ..mount.clone()
            };
            self.root
                .store
                .set_attached(there.id, there.state, Some(mount))?;
            info!(key = key.as_str(), target = %target.display(), "took the copy of a mount for it: layerd runs in another mount namespace");
        }
        Ok(())
    }

    /// The mount at a mount point, if it shows the same directory.
    fn copy_of(&self, mount: &MountedAt) -> Result<Option<Attached>, Error> {
        let standing = self.standing_at(Path::new(&mount.target))?;
        let same = (mount.device, mount.inode);
        Ok(standing.filter(|standing| (standing.device, standing.inode) == same))
    }

    /// The topmost mount at a path; `None` if nothing is mounted there, or nothing is there.
    fn standing_at(&self, path: &Path) -> Result<Option<Attached>, Error> {
        let found = match self.mounter.open_source(path, Symlinks::Refuse) {
            Err(MountError::Missing { .. }) => return Ok(None),
            found => found?,
        };
        if !self.is_mount_point(path)? {
            return Ok(None);
        }
        let id = found.mount_id()?;
        Ok(Some(Attached {
            id,
            last_id: id,
            device: found.device(),
            inode: found.inode(),
        }))
    }

    /// Takes away mounts of volumes that no record tells of.
    fn clear_unrecorded(&self, path: &Path) -> Result<(), Error> {
        for _ in 0..STACKED_MAX {
            let Some(standing) = self.standing_at(path)? else {
                return Ok(());
            };
            if self.is_held_there(path) || !self.is_volume((standing.device, standing.inode)) {
                break;
            }
            self.mounter.detach(path, &standing, DetachMode::Normal)?;
            info!(path = %path.display(), "took away a mount of a volume that no record told of");
        }
        self.refuse_occupied(path)
    }

    /// True if an attachment of another key is recorded at a path.
    fn is_held_there(&self, path: &Path) -> bool {
        let records = self.root.store.records();
        let mut all = records.volumes().attachments();
        all.any(|one| one.target.as_deref().map(Path::new) == Some(path))
    }

    /// True for the content of a volume, also of one in the trash.
    fn is_volume(&self, wanted: Identity) -> bool {
        let records = self.root.store.records();
        let live = records.volumes().iter().map(|volume| volume.id);
        let removed = records.volumes().removed().map(|volume| volume.id);
        live.chain(removed).any(|id| {
            let data = self.volumes.dirs.open_any(slot(id));
            let found = data
                .ok()
                .and_then(|data| Handle::new(data, &self.volumes.dirs.data_path(slot(id))).ok());
            found.is_some_and(|found| (found.device(), found.inode()) == wanted)
        })
    }

    /// Makes the last directory of a path. Answers what was made.
    fn make_mount_point(&self, path: &Path) -> Result<Vec<Made>, Error> {
        let above = path.parent().unwrap_or(path);
        match self.mounter.open_source(above, Symlinks::Refuse) {
            Err(MountError::Missing { .. }) => {
                let rule = format!(
                    "{:?} lies in a directory that is not there; it is the orchestrator's to make",
                    path.display()
                );
                return Err(BadInput::new("target_path", rule).into());
            }
            found => found?,
        };
        let new = NewSource {
            mode: 0o750,
            symlinks: Symlinks::Refuse,
            ..NewSource::DIRECTORY
        };
        Ok(self.mounter.create_source(path, &new)?.made)
    }

    /// Removes the directory at a path, if it is one and empty.
    fn remove_mount_point(&self, path: &Path) -> Result<(), Error> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let above = match self.mounter.open_source(above, Symlinks::Refuse) {
            Err(MountError::Missing { .. }) => return Ok(()),
            found => found?,
        };
        match unlinkat(&above, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR | Errno::EBUSY) => {
                Err(Error::Attach(AttachError::NotRemoved {
                    path: PathBuf::from(path),
                }))
            }
            Err(cause) => Err(Error::Attach(AttachError::MountPoint {
                path: path.to_owned(),
                cause: cause.into(),
            })),
        }
    }
}
