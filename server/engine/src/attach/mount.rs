//! The mounts that layerd makes for attachments: at a path that was asked for, or at a mount point of
//! its own where a path would not be safe to hand to a runtime.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{
    Attached, BindOptions, DetachMode, Effective, Handle, MountError, ReadOnly, Symlinks, Tree,
    Want,
};
use layerd_spec::{Bind, Kind, MountSpec};
use layerd_store::{AttachState, Attachment, MountedAt, VolumeId, file};
use tracing::debug;

use super::options::{id_maps, read_only, tmpfs_options};
use crate::volume_slot as slot;
use crate::{AttachError, Attachments, Error};

/// A mount that was made and stands nowhere yet.
pub(super) struct MadeMount {
    pub(super) tree: Tree,
    pub(super) target: Handle,
    /// Its record.
    pub(super) at: MountedAt,
}

impl Attachments {
    /// Makes the mount that an attachment needs; `None` if a path is all a runtime needs.
    pub(super) fn make_mount(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
    ) -> Result<Option<MadeMount>, Error> {
        let Some(mount_point) = self.mount_point(spec, attachment) else {
            self.source(spec, attachment.volume)?;
            return Ok(None);
        };
        // Made first, it has the lower id: a program that unmounts by the mount table meets it last.
        if attachment.target.is_none() {
            self.private_folder()?;
        }
        let tree = self.tree(spec, attachment)?;
        if attachment.target.is_some() {
            self.check_target(spec, &mount_point, Some(attachment))?;
        }
        let access = match tree.read_only() {
            Effective::Writable => "rw",
            Effective::Top => "ro",
            Effective::Recursive => "ro-recursive",
        };
        let made = tree.attached();
        let at = MountedAt {
            target: mount_point.display().to_string(),
            unique_id: made.id,
            last_id: made.last_id,
            device: made.device,
            inode: made.inode,
            boot: self.boot.clone(),
            access: access.to_owned(),
        };
        let target = self.open_place(attachment, &at.target, &tree)?;
        Ok(Some(MadeMount { tree, target, at }))
    }

    /// Opens the mount point for a mount that was made, on which nothing may stand; one of layerd's own is
    /// made.
    pub(super) fn open_place(
        &self,
        attachment: &Attachment,
        mount_point: &str,
        tree: &Tree,
    ) -> Result<Handle, Error> {
        let mount_point = Path::new(mount_point);
        if attachment.target.is_none() {
            self.private_folder()?;
            self.make_own_mount_point(mount_point, tree.is_dir()?)?;
        }
        let target = self.mounter.open_source(mount_point, Symlinks::Refuse)?;
        self.refuse_occupied(mount_point)?;
        Ok(target)
    }

    /// Puts a mount in place whose number is recorded.
    pub(super) fn put_in_place(&self, made: MadeMount) -> Result<(), Error> {
        self.mounter.attach(made.tree, &made.target)?;
        Ok(())
    }

    /// True if an attachment is acknowledged and its mount, if it has one, equals a new mount of its
    /// source.
    pub(super) fn is_as_asked(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
    ) -> Result<bool, Error> {
        if attachment.state != AttachState::Attached {
            return Ok(false);
        }
        match &attachment.mount {
            // A symlink may lead elsewhere by now.
            None => Ok(self.mount_point(spec, attachment).is_none()),
            Some(mount) if mount.boot != self.boot => Ok(false),
            Some(mount) => {
                let recorded = as_recorded(mount);
                let target = Path::new(&mount.target);
                Ok(self.mounter.is_mounted(target, &recorded)?
                    && self.is_seen(attachment, &recorded)?
                    && self.is_current(spec, attachment, &recorded)?)
            }
        }
    }

    /// True unless another mount hides the one that was put at a target. Nothing but layerd mounts at its
    /// own mount points.
    fn is_seen(&self, attachment: &Attachment, mount: &Attached) -> Result<bool, Error> {
        let target = attachment.target.as_deref().map(Path::new);
        match target {
            None => Ok(true),
            Some(target) => Ok(self.mounter.is_on_top(target, mount.id)?),
        }
    }

    pub(super) fn clear_place(&self, attachment: &Attachment) -> Result<(), Error> {
        self.clear_place_as(attachment, false)
    }

    /// Takes away the mount of an attachment: the one that is recorded, wherever others stand.
    pub(super) fn clear_place_as(&self, attachment: &Attachment, lazy: bool) -> Result<(), Error> {
        let mode = if lazy {
            DetachMode::Lazy
        } else {
            DetachMode::Normal
        };
        self.unmount_recorded(attachment, mode)?;
        self.clear_own_mount_point(&self.own_mount_point(attachment), mode)?;
        self.remove_place(attachment)
    }

    /// Takes away the recorded mount of an attachment alone.
    pub(super) fn unmount_recorded(
        &self,
        attachment: &Attachment,
        mode: DetachMode,
    ) -> Result<(), Error> {
        let of_this_boot = |mount: &&MountedAt| mount.boot == self.boot;
        if let Some(mount) = attachment.mount.as_ref().filter(of_this_boot) {
            let expected = as_recorded(mount);
            self.mounter
                .detach(Path::new(&mount.target), &expected, mode)?;
        }
        Ok(())
    }

    /// Takes away what an interrupted call put at the attachment's own mount point: an image, to take a
    /// part of it, or a tmpfs that was set aside. It has no record; nothing but layerd mounts below its
    /// private folder.
    pub(super) fn clear_own_mount_point(
        &self,
        mount_point: &Path,
        mode: DetachMode,
    ) -> Result<(), Error> {
        let mut last = None;
        while let Some(top) = self.standing_on(mount_point)?
            && last.replace(top.id) != Some(top.id)
        {
            self.mounter.detach(mount_point, &top, mode)?;
            debug!(mount_point = %mount_point.display(), "took away a mount without a record");
        }
        Ok(())
    }

    /// The topmost mount at a mount point of layerd's own.
    pub(super) fn standing_on(&self, mount_point: &Path) -> Result<Option<Attached>, Error> {
        if !mount_point.exists() || !self.is_mount_point(mount_point)? {
            return Ok(None);
        }
        let folder = self.root.path.join("mnt");
        let mut standing = self.mounter.mounts_below(&folder)?;
        standing.retain(|entry| entry.target == mount_point);
        let Some(top) = standing.last() else {
            return Ok(None);
        };
        let handle = self.mounter.open_source(mount_point, Symlinks::Refuse)?;
        Ok(Some(Attached {
            id: top.id,
            last_id: top.id,
            device: handle.device(),
            inode: handle.inode(),
        }))
    }

    /// Mount point, if it is to be mounted. A runtime gets a path of layerd's own wherever
    /// another process could exchange the source before the runtime mounts it.
    fn mount_point(&self, spec: &MountSpec, attachment: &Attachment) -> Option<PathBuf> {
        if let Some(target) = &attachment.target {
            return Some(PathBuf::from(target));
        }
        let needs_own = match &spec.kind {
            Kind::Volume(volume) => volume.subpath.is_some(),
            Kind::Image(_) => true,
            // A private mount of ours would cut the propagation that was asked for.
            // The directories above the data root are root's alone to turn elsewhere, and a copy of
            // all mounts of the host would keep alive what is unmounted there.
            Kind::Bind(bind) => {
                bind.propagation.is_private()
                    && (bind.idmap.is_some() || self.above_root(bind.source.as_path()).is_none())
            }
            Kind::Tmpfs(_) => false,
        };
        needs_own.then(|| self.own_mount_point(attachment))
    }

    pub(super) fn own_mount_point(&self, attachment: &Attachment) -> PathBuf {
        self.root.path.join("mnt").join(attachment.id.to_string())
    }

    /// The folder of the places of layerd's own, and the mount that keeps those below it private.
    pub(super) fn private_folder(&self) -> Result<(), Error> {
        let folder = self.root.path.join("mnt");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|cause| {
                Error::Attach(AttachError::MountPoint {
                    path: folder.clone(),
                    cause,
                })
            })?;
        self.mounter.private_root(&folder)?;
        Ok(())
    }

    pub(super) fn make_own_mount_point(
        &self,
        mount_point: &Path,
        is_dir: bool,
    ) -> Result<(), Error> {
        let made = match is_dir {
            // Not over what is there: the file may show what is mounted on it, and a symlink leads elsewhere.
            false
                if mount_point
                    .symlink_metadata()
                    .is_ok_and(|one| one.is_file()) =>
            {
                Ok(())
            }
            false => file::create(mount_point).map(drop),
            true => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(mount_point),
        };
        made.map_err(|cause| {
            Error::Attach(AttachError::MountPoint {
                path: mount_point.to_owned(),
                cause,
            })
        })
    }

    pub(super) fn remove_place(&self, attachment: &Attachment) -> Result<(), Error> {
        let mount_point = self.own_mount_point(attachment);
        let removed = match fs::symlink_metadata(&mount_point) {
            Ok(found) if found.is_dir() => fs::remove_dir(&mount_point),
            Ok(_) => fs::remove_file(&mount_point),
            Err(cause) => Err(cause),
        };
        match removed {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Attach(AttachError::MountPoint {
                    path: mount_point,
                    cause,
                }))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn refuse_occupied(&self, mount_point: &Path) -> Result<(), Error> {
        match self.is_mount_point(mount_point)? {
            false => Ok(()),
            true => Err(Error::Attach(AttachError::Occupied {
                path: mount_point.to_owned(),
            })),
        }
    }

    pub(super) fn is_mount_point(&self, mount_point: &Path) -> Result<bool, Error> {
        let Some(folder) = mount_point.parent() else {
            return Ok(true);
        };
        let [folder, top] = [folder, mount_point].map(|path| {
            let found = self.mounter.open_source(path, Symlinks::Refuse)?;
            found.mount_id()
        });
        Ok(folder? != top?)
    }

    /// Refuses to put a directory on a file, or a file on a directory.
    pub(super) fn refuse_other_kind(&self, mount_point: &Path, is_dir: bool) -> Result<(), Error> {
        let target = self.mounter.open_source(mount_point, Symlinks::Refuse)?;
        let path = mount_point.to_owned();
        match (is_dir, target.is_dir()) {
            (true, false) => Err(MountError::NotADirectory { path }.into()),
            (false, true) => Err(MountError::IsADirectory { path }.into()),
            _ => Ok(()),
        }
    }

    /// The opened source; `None` for mounts without one.
    pub(super) fn source(
        &self,
        spec: &MountSpec,
        volume: Option<VolumeId>,
    ) -> Result<Option<Handle>, Error> {
        Ok(match &spec.kind {
            Kind::Volume(wanted) => {
                let id = volume.ok_or(no_source("volume"))?;
                let path = self.volumes.dirs.data_path(slot(id));
                let data = Handle::new(self.volumes.open_content(id)?, &path)?;
                Some(match &wanted.subpath {
                    Some(subpath) => {
                        self.mounter
                            .resolve(&data, Path::new(subpath.as_str()), Want::Any)?
                    }
                    None => data,
                })
            }
            Kind::Bind(bind) => {
                let path = bind.source.as_path();
                let found = self.mounter.open_source(path, Symlinks::Follow)?;
                self.refuse_own(&found, path)?;
                Some(found)
            }
            Kind::Image(_) | Kind::Tmpfs(_) => None,
        })
    }

    fn tree(&self, spec: &MountSpec, attachment: &Attachment) -> Result<Tree, Error> {
        let source = self.source(spec, attachment.volume)?;
        match (&spec.kind, source) {
            (Kind::Volume(_), Some(source)) => {
                let options = BindOptions {
                    recursive: true,
                    read_only: read_only(spec.read_only),
                    ..BindOptions::default()
                };
                Ok(self.mounter.bind(&source, &options)?)
            }
            (Kind::Bind(bind), Some(source)) => self.bound(spec, bind, &source),
            (Kind::Image(image), _) => self.image_tree(image, attachment),
            (Kind::Tmpfs(tmpfs), _) => match self.take_aside(attachment)? {
                Some(tree) => Ok(tree),
                None => Ok(self.mounter.tmpfs(&tmpfs_options(tmpfs, spec.read_only)?)?),
            },
            (Kind::Volume(_) | Kind::Bind(_), None) => Err(no_source("volume or path").into()),
        }
    }

    /// A clone of the source of a bind.
    pub(super) fn bound(
        &self,
        spec: &MountSpec,
        bind: &Bind,
        source: &Handle,
    ) -> Result<Tree, Error> {
        let options = BindOptions {
            ids: id_maps(bind, source)?,
            ..self.bind_options(spec, bind)
        };
        Ok(self.mounter.bind(source, &options)?)
    }

    fn image_tree(
        &self,
        image: &layerd_spec::Image,
        attachment: &Attachment,
    ) -> Result<Tree, Error> {
        let layer = attachment.layer.ok_or(no_source("layer"))?;
        let whole = self.mounter.view(&self.layers.image_plan(layer)?)?;
        match &image.subpath {
            None => Ok(whole),
            Some(subpath) => {
                let shown = Path::new(image.reference.as_str());
                self.part_of_image(whole, shown, subpath.as_path(), attachment)
            }
        }
    }

    /// A file or folder of an image. Before Linux 6.15 the kernel clones only out of what stands
    /// somewhere, so the whole stands for a moment at the attachment's own mount point; an interrupted
    /// call leaves it to [`clear_own_mount_point`](Self::clear_own_mount_point).
    fn part_of_image(
        &self,
        whole: Tree,
        shown: &Path,
        subpath: &Path,
        attachment: &Attachment,
    ) -> Result<Tree, Error> {
        let mount_point = self.own_mount_point(attachment);
        self.private_folder()?;
        self.make_own_mount_point(&mount_point, true)?;
        let target = self.mounter.open_source(&mount_point, Symlinks::Refuse)?;
        let standing = self.mounter.attach(whole, &target)?;
        let part = self.bind_below(&mount_point, shown, subpath);
        self.mounter
            .detach(&mount_point, &standing, DetachMode::Normal)?;
        self.remove_place(attachment)?;
        part
    }

    /// Binds what `subpath` names below a mount, read-only, without following a symlink in it.
    fn bind_below(&self, mount_point: &Path, shown: &Path, subpath: &Path) -> Result<Tree, Error> {
        let root = fs::File::open(mount_point).map_err(|cause| {
            Error::Attach(AttachError::MountPoint {
                path: mount_point.to_owned(),
                cause,
            })
        })?;
        let root = Handle::new(root.into(), shown)?;
        let part = self.mounter.resolve(&root, subpath, Want::Any)?;
        let options = BindOptions {
            read_only: ReadOnly::RecursiveRequired,
            ..BindOptions::default()
        };
        Ok(self.mounter.bind(&part, &options)?)
    }
}

/// The failure of a record that lacks what its specification asks for.
pub(super) fn no_source(what: &'static str) -> AttachError {
    AttachError::NoSource { what }
}

pub(super) fn as_recorded(mount: &MountedAt) -> Attached {
    Attached {
        id: mount.unique_id,
        last_id: mount.last_id,
        device: mount.device,
        inode: mount.inode,
    }
}
