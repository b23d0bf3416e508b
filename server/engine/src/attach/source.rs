//! Sources of mounts: what attaching would do about one, looked at by `check` and `attach` alike,
//! and how one that is missing is made.

use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{Made as MadePath, Symlinks, Want};
use layerd_spec::{Bind, Decision, Image, Kind, Made, MountSpec, ReadOnly};
use layerd_store::{
    Attachment, AttachmentId, BadInput, Key, Kind as SnapshotKind, Labels, LayerId, Records,
    Refusal, Volume, VolumeId,
};
use tracing::warn;

use super::mount::no_source;
use super::options::new_source;
use crate::volumes::{CreateVolume, check_asked, check_settings, refuse_own_labels};
use crate::{AttachError, Attachments, Error, VolumeError};

/// The source of an attachment, found or made.
#[derive(Debug, Default)]
pub(super) struct Ground {
    pub(super) volume: Option<VolumeId>,
    pub(super) layer: Option<LayerId>,
    /// The path of the host that is to be made, and its kind.
    pub(super) missing: Option<(PathBuf, Made)>,
    pub(super) made: MadeSource,
}

/// Paths and volume that a call made, by identity, so that they can be removed again.
#[derive(Debug, Default)]
pub(super) struct MadeSource {
    volume: Option<VolumeId>,
    /// Directories of the host, outermost first, and at most one file, the last; then those that may be
    /// there under names of layerd's own, with the inode 0.
    pub(super) paths: Vec<MadePath>,
}

impl MadeSource {
    /// True if anything was made.
    pub(super) fn is_some(&self) -> bool {
        self.volume.is_some() || !self.paths.is_empty()
    }

    /// As it is recorded with the intent.
    pub(super) fn to_record(&self) -> layerd_store::MadeSource {
        let path = |made: &MadePath| layerd_store::MadePath {
            path: made.path.display().to_string(),
            device: made.device,
            inode: made.inode,
        };
        layerd_store::MadeSource {
            volume: self.volume.is_some(),
            paths: self.paths.iter().map(path).collect(),
        }
    }

    /// As an intent was recorded with it.
    pub(super) fn recorded(attachment: &Attachment) -> Self {
        let path = |made: &layerd_store::MadePath| MadePath {
            path: PathBuf::from(&made.path),
            device: made.device,
            inode: made.inode,
        };
        let made = &attachment.made;
        Self {
            volume: attachment.volume.filter(|_| made.volume),
            paths: made.paths.iter().map(path).collect(),
        }
    }
}

/// The source of a mount as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Decision about it.
    pub(super) decision: Decision,
    /// Set for a directory, unset for a file.
    pub(super) is_dir: bool,
}

impl Attachments {
    /// Effect that attaching a specification would have now. Changes nothing. Costs as much as opening
    /// and cloning the source.
    ///
    /// # Errors
    /// Those that [`attach`](Self::attach) would answer, if it would for this mount alone.
    pub fn check_mount(&self, spec: &MountSpec) -> Result<Decision, Error> {
        match self.look_at(spec, None)?.decision {
            Decision::Refuse(refusal) => Err(Error::Attach(AttachError::SourceMissing { refusal })),
            other => Ok(other),
        }
    }

    /// Looks at all that attaching a specification depends on; `fill_from` names the snapshot that
    /// is to go into an empty volume.
    pub(super) fn look_at(
        &self,
        spec: &MountSpec,
        fill_from: Option<&Key>,
    ) -> Result<Found, Error> {
        loop {
            let view = self.root.store.records();
            let found = self.look_at_as_of(&view, spec, fill_from);
            // A folder that was moved away meanwhile says nothing of what has the name now.
            let is_same = || meant(&view, spec) == meant(&self.root.store.records(), spec);
            if found.is_ok() || is_same() {
                return found;
            }
        }
    }

    fn look_at_as_of(
        &self,
        view: &Records,
        spec: &MountSpec,
        fill_from: Option<&Key>,
    ) -> Result<Found, Error> {
        let decision = self.decide(view, spec)?;
        let made = match &decision {
            Decision::Use => None,
            Decision::Create(made, _) => Some(*made),
            Decision::Refuse(refusal) => {
                let refusal = refusal.clone();
                return Err(Error::Attach(AttachError::SourceMissing { refusal }));
            }
        };
        let is_dir = match &spec.kind {
            Kind::Volume(volume) => {
                self.look_at_filling(view, volume, fill_from)?;
                self.look_at_volume(view, spec, volume)?
            }
            Kind::Bind(bind) => match made {
                None => self.look_at_bind(spec, bind)?,
                Some(made) => {
                    self.look_above(spec, bind, made)?;
                    made != Made::File
                }
            },
            Kind::Image(image) => self.look_at_image(view, image)?,
            Kind::Tmpfs(_) => true,
        };
        Ok(Found { decision, is_dir })
    }

    /// Decides about the source by its existence alone. An unfit driver, option or label and
    /// a volume that differs from the request are refused here.
    fn decide(&self, view: &Records, spec: &MountSpec) -> Result<Decision, Error> {
        let exists = match &spec.kind {
            Kind::Volume(volume) => {
                let request = create_request(volume)?;
                check_settings(&request)?;
                let there = find(view, volume);
                if let Some(there) = there {
                    check_asked(there, &request)?;
                    check_writable(there, spec)?;
                }
                there.is_some()
            }
            Kind::Bind(bind) => {
                let path = bind.source.as_path();
                self.mounter.open_existing(path, Symlinks::Follow)?.1
            }
            Kind::Image(image) => match committed(view, image.reference.as_str()) {
                Ok(_) => true,
                Err(Error::Store(layerd_store::Error::Refused(Refusal::Missing { .. }))) => false,
                Err(cause) => return Err(cause),
            },
            Kind::Tmpfs(_) => false,
        };
        Ok(layerd_spec::decide(spec, exists))
    }

    /// The snapshot that would go into a volume, if it would.
    fn look_at_filling(
        &self,
        view: &Records,
        volume: &layerd_spec::Volume,
        from: Option<&Key>,
    ) -> Result<(), Error> {
        let is_wanted = volume.copy_up && volume.subpath.is_none();
        let Some(from) = from.filter(|_| is_wanted) else {
            return Ok(());
        };
        let is_due = match find(view, volume) {
            Some(there) => self.is_to_be_filled(there)?,
            None => true,
        };
        if is_due {
            committed(view, from.as_str())?;
        }
        Ok(())
    }

    fn look_at_volume(
        &self,
        view: &Records,
        spec: &MountSpec,
        volume: &layerd_spec::Volume,
    ) -> Result<bool, Error> {
        match (find(view, volume), &volume.subpath, &volume.name) {
            (Some(there), ..) => Ok(self
                .source(spec, Some(there.id))?
                .is_none_or(|it| it.is_dir())),
            (None, Some(subpath), Some(name)) => Err(Error::Volume(VolumeError::NoSubpath {
                volume: name.clone(),
                subpath: subpath.to_string(),
            })),
            (None, ..) => Ok(true),
        }
    }

    /// Clones the source as attaching would, and drops the clone.
    fn look_at_bind(&self, spec: &MountSpec, bind: &Bind) -> Result<bool, Error> {
        let source = self.source(spec, None)?.ok_or(no_source("path"))?;
        self.bound(spec, bind, &source)?;
        Ok(source.is_dir())
    }

    /// Checks that a missing source can be made where it would be, and clones the mount there as
    /// attaching would clone that of the source.
    fn look_above(&self, spec: &MountSpec, bind: &Bind, made: Made) -> Result<(), Error> {
        let path = bind.source.as_path();
        let above = self.mounter.check_create(path, &new_source(made))?;
        self.refuse_own(&above, path)?;
        let alone = Bind {
            recursive: false,
            ..bind.clone()
        };
        self.bound(spec, &alone, &above).map(drop)
    }

    fn look_at_image(&self, view: &Records, image: &Image) -> Result<bool, Error> {
        let layer = committed(view, image.reference.as_str())?;
        self.check_image(view, Some(layer))?;
        self.look_at_layer(image, layer)
    }

    /// Mounts a committed layer as attaching would, out of sight. Answers whether the part of it that
    /// is asked for is a directory.
    pub(super) fn look_at_layer(&self, image: &Image, layer: LayerId) -> Result<bool, Error> {
        let whole = self.mounter.view(&self.layers.image_plan(layer)?)?;
        match &image.subpath {
            None => Ok(true),
            Some(subpath) => {
                let root = whole.open(Path::new(image.reference.as_str()))?;
                let found = self.mounter.resolve(&root, subpath.as_path(), Want::Any)?;
                Ok(found.is_dir())
            }
        }
    }

    /// Refuses content that is damaged, also where it is mounted already.
    pub(super) fn check_image(&self, view: &Records, layer: Option<LayerId>) -> Result<(), Error> {
        let record = layer.and_then(|id| view.get(id));
        record.map_or(Ok(()), |record| {
            self.layers.quarantine.check_stack(view, record)
        })
    }

    /// Finds or makes the source.
    pub(super) fn ground(&self, spec: &MountSpec) -> Result<Ground, Error> {
        let view = self.root.store.records();
        let decision = self.decide(&view, spec)?;
        if let Decision::Refuse(refusal) = decision {
            return Err(Error::Attach(AttachError::SourceMissing { refusal }));
        }
        let mut ground = Ground::default();
        match &spec.kind {
            Kind::Volume(volume) => {
                let (entry, created) = match find(&view, volume) {
                    Some(there) => (there.id, false),
                    None => {
                        let (entry, created) =
                            self.volumes.create_volume(&create_request(volume)?)?;
                        (entry.volume.id, created)
                    }
                };
                ground.volume = Some(entry);
                ground.made.volume = created.then_some(entry);
            }
            Kind::Image(image) => {
                ground.layer = Some(committed(&view, image.reference.as_str())?);
                self.check_image(&view, ground.layer)?;
            }
            // Made once the intent is recorded.
            Kind::Bind(bind) => {
                if let Decision::Create(made, _) = decision {
                    ground.missing = Some((bind.source.as_path().to_owned(), made));
                }
            }
            Kind::Tmpfs(_) => {}
        }
        Ok(ground)
    }

    /// Finds or makes the source of an attachment that is to be mounted anew, or bound by a runtime.
    /// Adds to `made` what it made.
    pub(super) fn ready_source(
        &self,
        spec: &MountSpec,
        id: AttachmentId,
        made: &mut MadeSource,
    ) -> Result<(), Error> {
        self.drop_staged(made);
        match &spec.kind {
            Kind::Bind(bind) => match self.look_at(spec, None)?.decision {
                Decision::Create(kind, _) => {
                    self.make_host_path(id, bind.source.as_path(), kind, made)
                }
                Decision::Use | Decision::Refuse(_) => Ok(()),
            },
            Kind::Volume(_) | Kind::Image(_) | Kind::Tmpfs(_) => Ok(()),
        }
    }

    /// Takes back the volume that a failed call made and that no attachment holds, unless it holds
    /// something by now: it goes for good, or into the trash if the call filled it.
    pub(super) fn take_back_volume(&self, made: &MadeSource, filled: bool) {
        if let Some(id) = made.volume
            && let Err(cause) = self.volumes.drop_unused_volume(id, filled)
        {
            warn!(error = &cause as &dyn std::error::Error, %id, "remove the volume that a failed call made");
        }
    }
}

/// The volume or image that a specification means at some moment.
fn meant(view: &Records, spec: &MountSpec) -> (Option<VolumeId>, Option<LayerId>) {
    match &spec.kind {
        Kind::Volume(volume) => (find(view, volume).map(|volume| volume.id), None),
        Kind::Image(image) => (None, committed(view, image.reference.as_str()).ok()),
        Kind::Bind(_) | Kind::Tmpfs(_) => (None, None),
    }
}

fn find<'v>(view: &'v Records, volume: &layerd_spec::Volume) -> Option<&'v std::sync::Arc<Volume>> {
    view.volumes().find(volume.name.as_ref()?)
}

fn create_request(volume: &layerd_spec::Volume) -> Result<CreateVolume, BadInput> {
    refuse_own_labels(volume.create_with.labels.keys())?;
    Ok(CreateVolume {
        name: volume.name.clone(),
        driver: volume.create_with.driver.clone().unwrap_or_default(),
        options: volume.create_with.options.clone(),
        labels: Labels::with_empty(volume.create_with.labels.clone())?,
        clone_of: None,
    })
}

/// A snapshot of a volume is attached read-only or not at all.
fn check_writable(volume: &Volume, spec: &MountSpec) -> Result<(), Error> {
    if volume.snapshot_of.is_none() || spec.read_only != ReadOnly::Rw {
        return Ok(());
    }
    Err(Error::Volume(VolumeError::ReadOnlyVolume {
        name: volume.name.clone(),
    }))
}

/// The layer of a committed snapshot.
pub(super) fn committed(view: &Records, name: &str) -> Result<LayerId, Error> {
    let key = Key::parse("source", name)?;
    let record = view
        .find(&key)
        .ok_or_else(|| Refusal::Missing { key: key.clone() })?;
    if record.kind != SnapshotKind::Committed {
        return Err(Error::Attach(AttachError::NotCommitted { key }));
    }
    Ok(record.id)
}
