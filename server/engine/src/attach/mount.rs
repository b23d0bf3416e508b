//! The mounts that layerd makes for attachments: at a path that was asked for, or at a place of
//! its own where a path would not be safe to hand to a runtime.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{
    Attached, BindOptions, DetachMode, Effective, Handle, Made as MadePath, MountError, NewSource,
    Propagation, ReadOnly, Symlinks, TmpfsOptions, Tree, Want,
};
use layerd_mounts::{IdMap, IdMaps, Mount, Stack};
use layerd_store::{AttachState, Attachment, LayerId, MountedAt, VolumeId};
use tracing::info;

use crate::spec::{self, Bind, Kind, Made, MountSpec, Tmpfs, TmpfsSize};
use crate::volumes::slot;
use crate::{Engine, Error};

impl Engine {
    /// Mounts what an attachment needs mounted; `None` if a path is all a runtime needs.
    pub(super) fn mount(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
    ) -> Result<Option<MountedAt>, Error> {
        let Some(place) = self.place(spec, attachment) else {
            return Ok(None);
        };
        let tree = self.tree(spec, attachment)?;
        if attachment.target.is_none() {
            self.make_place(&place, tree.is_dir()?)?;
        }
        let target = self.mounter.open_source(&place, Symlinks::Refuse)?;
        self.refuse_occupied(&place)?;
        let access = match tree.read_only() {
            Effective::Writable => "rw",
            Effective::Top => "ro",
            Effective::Recursive => "ro-recursive",
        };
        let made = self.mounter.attach(tree, &target)?;
        Ok(Some(MountedAt {
            target: place.display().to_string(),
            unique_id: made.id,
            last_id: made.last_id,
            device: made.device,
            inode: made.inode,
            boot: self.boot.clone(),
            access: access.to_owned(),
        }))
    }

    /// Whether an attachment is acknowledged and its mount, if it has one, is there.
    pub(super) fn is_as_asked(&self, attachment: &Attachment) -> Result<bool, Error> {
        if attachment.state != AttachState::Attached {
            return Ok(false);
        }
        match &attachment.mount {
            None => Ok(true),
            Some(mount) if mount.boot != self.boot => Ok(false),
            Some(mount) => Ok(self
                .mounter
                .is_mounted(Path::new(&mount.target), &as_recorded(mount))?),
        }
    }

    pub(super) fn clear_place(&self, attachment: &Attachment) -> Result<(), Error> {
        self.clear_place_as(attachment, false)
    }

    /// Takes away the mount of an attachment, recorded or not.
    pub(super) fn clear_place_as(&self, attachment: &Attachment, lazy: bool) -> Result<(), Error> {
        let mode = if lazy {
            DetachMode::Lazy
        } else {
            DetachMode::Normal
        };
        if let Some(mount) = attachment
            .mount
            .as_ref()
            .filter(|mount| mount.boot == self.boot)
        {
            let expected = as_recorded(mount);
            self.mounter
                .detach(Path::new(&mount.target), &expected, mode)?;
        } else if attachment.mount.is_none() && attachment.state != AttachState::Attached {
            let target = attachment.target.as_ref().map(PathBuf::from);
            for place in target.into_iter().chain([self.own_place(attachment)]) {
                self.clear_unrecorded(&place, mode)?;
            }
        }
        self.remove_place(attachment)
    }

    /// Takes away a mount that could not be recorded.
    pub(super) fn take_away(&self, mount: Option<&MountedAt>) {
        let Some(mount) = mount else { return };
        let expected = as_recorded(mount);
        let gone = self
            .mounter
            .detach(Path::new(&mount.target), &expected, DetachMode::Normal);
        if let Err(cause) = gone {
            tracing::warn!(
                error = &cause as &dyn std::error::Error,
                place = mount.target,
                "take away a mount that could not be recorded"
            );
        }
    }

    /// An intent whose mount was made but not recorded: nobody was told of it.
    fn clear_unrecorded(&self, place: &Path, mode: DetachMode) -> Result<(), Error> {
        let Some(folder) = place.parent().filter(|folder| folder.exists()) else {
            return Ok(());
        };
        let standing = self
            .mounter
            .mounts_below(folder)?
            .into_iter()
            .filter(|entry| entry.target == place);
        for entry in standing {
            let handle = self.mounter.open_source(place, Symlinks::Refuse)?;
            let expected = Attached {
                id: entry.id,
                last_id: entry.id,
                device: handle.device(),
                inode: handle.inode(),
            };
            drop(handle);
            self.mounter.detach(place, &expected, mode)?;
            info!(place = %place.display(), "took away a mount that an interrupted call left");
        }
        Ok(())
    }

    /// Makes the source of a bind because it was missing. Answers what was made.
    pub(super) fn make_host_path(&self, path: &str, made: Made) -> Result<Vec<MadePath>, Error> {
        let new = NewSource {
            file: made == Made::File,
            ..NewSource::DIRECTORY
        };
        let source = self.mounter.create_source(Path::new(path), &new)?;
        if !source.made.is_empty() {
            info!(path, "made the source of a bind mount");
        }
        Ok(source.made)
    }

    /// Where it is to be mounted, if anywhere. A runtime gets a path of layerd's own wherever
    /// somebody could turn the real one elsewhere before the runtime mounts it.
    fn place(&self, spec: &MountSpec, attachment: &Attachment) -> Option<PathBuf> {
        if let Some(target) = &attachment.target {
            return Some(PathBuf::from(target));
        }
        let needs_own = match &spec.kind {
            Kind::Volume(volume) => volume.subpath.is_some(),
            Kind::Image(_) => true,
            // A private mount of ours would cut the propagation that was asked for.
            Kind::Bind(bind) => is_private(bind.propagation),
            Kind::Tmpfs(_) => false,
        };
        needs_own.then(|| self.own_place(attachment))
    }

    pub(super) fn own_place(&self, attachment: &Attachment) -> PathBuf {
        self.root.join("mnt").join(attachment.id.to_string())
    }

    fn make_place(&self, place: &Path, is_dir: bool) -> Result<(), Error> {
        let folder = self.root.join("mnt");
        let fail = |cause| Error::Place {
            path: place.to_owned(),
            cause,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(fail)?;
        self.mounter.private_root(&folder)?;
        if !is_dir {
            return fs::File::create(place).map(drop).map_err(fail);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(place)
            .map_err(fail)
    }

    fn remove_place(&self, attachment: &Attachment) -> Result<(), Error> {
        let place = self.own_place(attachment);
        let removed = fs::remove_dir(&place).or_else(|_| fs::remove_file(&place));
        match removed {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Place { path: place, cause })
            }
            _ => Ok(()),
        }
    }

    /// What stands there later must be ours: see [`clear_unrecorded`](Self::clear_unrecorded).
    pub(super) fn refuse_occupied(&self, place: &Path) -> Result<(), Error> {
        let Some(folder) = place.parent() else {
            return Ok(());
        };
        let [folder, top] = [folder, place].map(|path| {
            let found = self.mounter.open_source(path, Symlinks::Refuse)?;
            found.mount_id()
        });
        if folder? == top? {
            return Ok(());
        }
        Err(Error::Occupied {
            path: place.to_owned(),
        })
    }

    /// Refuses to put a directory on a file, or a file on a directory.
    pub(super) fn refuse_other_kind(&self, place: &Path, is_dir: bool) -> Result<(), Error> {
        let target = self.mounter.open_source(place, Symlinks::Refuse)?;
        let path = place.to_owned();
        match (is_dir, target.is_dir()) {
            (true, false) => Err(MountError::NotADirectory { path }.into()),
            (false, true) => Err(MountError::IsADirectory { path }.into()),
            _ => Ok(()),
        }
    }

    /// What is mounted, opened; `None` for what is made by mounting it.
    pub(super) fn source(
        &self,
        spec: &MountSpec,
        volume: Option<VolumeId>,
    ) -> Result<Option<Handle>, Error> {
        Ok(match &spec.kind {
            Kind::Volume(wanted) => {
                let id = volume.ok_or(Error::Stopping)?;
                let path = self.volume_dirs.data_path(slot(id));
                let data = self
                    .volume_dirs
                    .open_data(slot(id))
                    .map_err(Error::driver("open a volume"))?;
                let data = Handle::new(data, &path)?;
                Some(match &wanted.subpath {
                    Some(subpath) => {
                        self.mounter
                            .resolve(&data, Path::new(subpath.as_str()), Want::Any)?
                    }
                    None => data,
                })
            }
            Kind::Bind(bind) => Some(
                self.mounter
                    .open_source(Path::new(bind.source.as_str()), Symlinks::Follow)?,
            ),
            Kind::Image(_) | Kind::Tmpfs(_) => None,
        })
    }

    fn tree(&self, spec: &MountSpec, attachment: &Attachment) -> Result<Tree, Error> {
        let source = self.source(spec, attachment.volume)?;
        match (&spec.kind, source) {
            (Kind::Volume(_), Some(source)) => {
                let options = bind_options(spec, true, Propagation::Private, None);
                Ok(self.mounter.bind(&source, &options)?)
            }
            (Kind::Bind(bind), Some(source)) => self.bound(spec, bind, &source),
            (Kind::Image(image), _) => self.image_tree(image, attachment),
            (Kind::Tmpfs(tmpfs), _) => {
                Ok(self.mounter.tmpfs(&tmpfs_options(tmpfs, spec.read_only)?)?)
            }
            (Kind::Volume(_) | Kind::Bind(_), None) => Err(Error::Stopping),
        }
    }

    /// A clone of the source of a bind.
    pub(super) fn bound(
        &self,
        spec: &MountSpec,
        bind: &Bind,
        source: &Handle,
    ) -> Result<Tree, Error> {
        let ids = id_maps(bind, source)?;
        let options = bind_options(spec, bind.recursive, propagation(bind.propagation), ids);
        Ok(self.mounter.bind(source, &options)?)
    }

    fn image_tree(&self, image: &spec::Image, attachment: &Attachment) -> Result<Tree, Error> {
        let layer = attachment.layer.ok_or(Error::Stopping)?;
        let whole = self.mounter.view(&self.image_plan(layer)?)?;
        match &image.subpath {
            None => Ok(whole),
            Some(subpath) => {
                let shown = Path::new(image.reference.as_str());
                self.part_of_image(whole, shown, subpath.as_path(), attachment)
            }
        }
    }

    /// How a committed layer and those below it are mounted to be looked at.
    pub(super) fn image_plan(&self, layer: LayerId) -> Result<Vec<Mount>, Error> {
        let view = self.store.view();
        let record = view.get(layer).ok_or(Error::Stopping)?;
        self.quarantine.check_stack(&view, record)?;
        let below = view.ancestors(record).map(|layer| crate::slot(layer.id));
        let stack = Stack {
            own: None,
            parents: std::iter::once(crate::slot(layer)).chain(below).collect(),
            writable: false,
            ids: None,
        };
        self.driver
            .plan(&stack)
            .map_err(Error::driver("plan the mount of an image"))
    }

    /// A file or folder of an image. Before Linux 6.15 the kernel clones only out of what stands
    /// somewhere, so the whole stands for a moment at the attachment's own place; an interrupted
    /// call leaves it to [`clear_unrecorded`](Self::clear_unrecorded).
    fn part_of_image(
        &self,
        whole: Tree,
        shown: &Path,
        subpath: &Path,
        attachment: &Attachment,
    ) -> Result<Tree, Error> {
        let place = self.own_place(attachment);
        self.make_place(&place, true)?;
        let target = self.mounter.open_source(&place, Symlinks::Refuse)?;
        let standing = self.mounter.attach(whole, &target)?;
        let part = self.bind_below(&place, shown, subpath);
        self.mounter.detach(&place, &standing, DetachMode::Normal)?;
        self.remove_place(attachment)?;
        part
    }

    /// Binds what `subpath` names below a mount, read-only, without following a symlink in it.
    fn bind_below(&self, place: &Path, shown: &Path, subpath: &Path) -> Result<Tree, Error> {
        let root = fs::File::open(place).map_err(|cause| Error::Place {
            path: place.to_owned(),
            cause,
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

fn as_recorded(mount: &MountedAt) -> Attached {
    Attached {
        id: mount.unique_id,
        last_id: mount.last_id,
        device: mount.device,
        inode: mount.inode,
    }
}

fn bind_options(
    spec: &MountSpec,
    recursive: bool,
    propagation: Propagation,
    ids: Option<IdMaps>,
) -> BindOptions {
    BindOptions {
        recursive,
        read_only: match spec.read_only {
            spec::ReadOnly::Rw => ReadOnly::Writable,
            spec::ReadOnly::RoTop => ReadOnly::Top,
            spec::ReadOnly::RoRecursiveIfPossible => ReadOnly::RecursiveIfPossible,
            spec::ReadOnly::RoRecursiveRequired => ReadOnly::RecursiveRequired,
        },
        propagation,
        ids,
        ..BindOptions::default()
    }
}

pub(super) fn is_private(propagation: spec::Propagation) -> bool {
    matches!(
        propagation,
        spec::Propagation::Private | spec::Propagation::Rprivate
    )
}

pub(super) fn propagation(wanted: spec::Propagation) -> Propagation {
    match wanted {
        spec::Propagation::Private | spec::Propagation::Rprivate => Propagation::Private,
        spec::Propagation::Slave | spec::Propagation::Rslave => Propagation::Slave,
        spec::Propagation::Shared | spec::Propagation::Rshared => Propagation::Shared,
    }
}

/// The owner of the source is shown as a user that was named by number. What only the runtime
/// knows (its user namespace, names of its users) cannot be honoured here.
fn id_maps(bind: &Bind, source: &Handle) -> Result<Option<IdMaps>, Error> {
    let numbers = match &bind.idmap {
        None => return Ok(None),
        Some(spec::IdMap::MatchUser(Some(user))) => user_numbers(user),
        Some(spec::IdMap::MatchUser(None) | spec::IdMap::UserNamespace) => None,
    };
    let (uid, gid) = numbers.ok_or(Error::NotHonoured {
        what: "an id mapping to a user that is not given by number",
    })?;
    let (own_uid, own_gid) = source.owner()?;
    let one = |container, host| {
        vec![IdMap {
            container,
            host,
            length: 1,
        }]
    };
    Ok(Some(IdMaps {
        uid: one(own_uid, uid),
        gid: one(own_gid, gid),
    }))
}

fn user_numbers(user: &str) -> Option<(u32, u32)> {
    match user.split_once(':') {
        Some((uid, gid)) => Some((uid.parse().ok()?, gid.parse().ok()?)),
        None => user.parse().ok().map(|uid| (uid, uid)),
    }
}

/// What only a runtime can pass on to mount(8) cannot be honoured here.
fn tmpfs_options(tmpfs: &Tmpfs, read_only: spec::ReadOnly) -> Result<TmpfsOptions, Error> {
    let size = match tmpfs.size {
        Some(TmpfsSize::Bytes(bytes)) => Some(bytes),
        Some(TmpfsSize::Percent(_)) => {
            return Err(Error::NotHonoured {
                what: "a tmpfs size in percent",
            });
        }
        None => None,
    };
    if !tmpfs.more.is_empty() {
        return Err(Error::NotHonoured {
            what: "a further mount option of a tmpfs",
        });
    }
    Ok(TmpfsOptions {
        size,
        inodes: tmpfs.inodes,
        mode: tmpfs.mode.unwrap_or(0o1777),
        uid: tmpfs.uid.unwrap_or(0),
        gid: tmpfs.gid.unwrap_or(0),
        read_only: read_only != spec::ReadOnly::Rw,
        noexec: !tmpfs.exec,
        ..TmpfsOptions::default()
    })
}

impl From<MountError> for Error {
    fn from(cause: MountError) -> Self {
        Self::Mount(cause)
    }
}
