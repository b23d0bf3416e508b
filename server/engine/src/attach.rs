//! Attachments: what holds a volume, a host path, a tmpfs or an image for somebody, and the mounts
//! that layerd makes for it.
//!
//! Order of writes: the intent is recorded before anything is mounted, and from then on what it
//! holds cannot be removed; the mount is recorded after it is made; the record is dropped after
//! the mount is gone. An attachment that is still `Preparing` was never acknowledged, and the mount
//! of one that is `Waiting` was gone, so a mount that stands in its place is nobody's and is taken
//! away before the next try.
//!
//! layerd unmounts nothing on its own account: neither at start nor when an owner is silent.

mod again;
mod fill;
mod list;
mod mount;
mod oci;
mod reconcile;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_store::{
    AttachState, Attachment, BadInput, Key, Kind as SnapshotKind, LayerId, Owner, Refusal,
    SPEC_MAX, Timestamp, View, VolumeId, VolumeName,
};
use tracing::{debug, warn};

pub use oci::OciMount;
pub use reconcile::{Living, Reconciled};

use crate::events::Topic;
use crate::spec::{self, Decision, Dialect, Kind, Made, MountSpec, ParseRequest};
use crate::volumes::CreateVolume;
use crate::{Engine, Error};

/// Most mounts in one call.
const MOUNTS_MAX: usize = 256;

/// One mount that is to be attached.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The owner's name for it.
    pub key: Key,
    /// What, as a value of `--mount` in the strict dialect.
    pub mount: String,
    /// Where layerd is to mount it; nowhere if it is left to the runtime.
    pub target: Option<PathBuf>,
    /// The committed snapshot whose content goes into a volume that is empty.
    pub fill_from: Option<Key>,
}

/// An attachment as it is described to clients.
#[derive(Debug, Clone)]
pub struct AttachmentEntry {
    /// Its record.
    pub attachment: Arc<Attachment>,
    /// What was asked for.
    pub spec: MountSpec,
    /// The name that its volume has now.
    pub volume: Option<VolumeName>,
    /// How far it is, now; waiting if its mount is gone.
    pub state: AttachState,
    /// For an OCI runtime.
    pub oci: Vec<OciMount>,
    /// Whether this call made the volume or host path.
    pub created: bool,
    /// Whether this call filled the volume.
    pub filled: bool,
}

/// What was found or made to attach.
struct Ground {
    volume: Option<VolumeId>,
    layer: Option<LayerId>,
    created: bool,
}

impl Engine {
    /// Attaches all mounts of one owner, or none of them. Repeating the call answers the same,
    /// also after a crash of either side. Costs two durable writes a mount, one of them shared.
    ///
    /// # Errors
    /// `Invalid` if a specification does not parse, `Exists` if a key has another one, `Missing` if
    /// a source is missing and is not to be made, `Refused` if the kernel cannot do what was asked.
    pub fn attach(&self, owner: &Owner, mounts: &[Attach]) -> Result<Vec<AttachmentEntry>, Error> {
        if mounts.len() > MOUNTS_MAX {
            let rule = format!(
                "{} are given, at most {MOUNTS_MAX} are allowed in one call",
                mounts.len()
            );
            return Err(BadInput::new("mounts", rule).into());
        }
        let mut parsed = mounts
            .iter()
            .map(|mount| Ok((parse(&mount.mount)?, mount)))
            .collect::<Result<Vec<_>, Error>>()?;
        parsed.sort_by_key(|(spec, _)| spec.target.depth());
        // Nothing is made for a set of which one cannot be had.
        let view = self.store.view();
        let is_new = |key: &Key| view.volumes().attachment(key).is_none();
        for (spec, request) in parsed.iter().filter(|(_, request)| is_new(&request.key)) {
            if let Decision::Refuse(refusal) = self.check_mount(spec) {
                return Err(Error::SourceMissing { refusal });
            }
            if let Some(target) = &request.target {
                self.refuse_occupied(target)?;
            }
        }
        let before: BTreeSet<Key> = self
            .store
            .view()
            .volumes()
            .attachments()
            .map(|one| one.key.clone())
            .collect();
        let mut done = Vec::new();
        for (spec, request) in parsed {
            match self.attach_one(owner, spec, request) {
                Ok(entry) => done.push(entry),
                Err(cause) => {
                    self.undo(&done, &before);
                    return Err(cause);
                }
            }
        }
        Ok(done)
    }

    /// Undoes attachments; those that do not exist are passed over. Answers the keys of those that
    /// did.
    ///
    /// # Errors
    /// `Refused` if a mount is in use, naming who uses it; what was undone before stays undone.
    pub fn detach(&self, keys: &[Key], lazy: bool) -> Result<Vec<Key>, Error> {
        let mut detached = Vec::new();
        for key in keys {
            let Some(attachment) = self.store.view().volumes().attachment(key).cloned() else {
                continue;
            };
            self.detach_one(&attachment, lazy)?;
            detached.push(key.clone());
        }
        Ok(detached)
    }

    /// What attaching a specification would do now. Changes nothing.
    #[must_use]
    pub fn check_mount(&self, spec: &MountSpec) -> Decision {
        let view = self.store.view();
        spec::decide(spec, self.source_exists(&view, spec))
    }

    fn attach_one(
        &self,
        owner: &Owner,
        spec: MountSpec,
        request: &Attach,
    ) -> Result<AttachmentEntry, Error> {
        let canonical = spec.to_string();
        if canonical.len() > SPEC_MAX {
            let rule = format!(
                "is {} bytes long, at most {SPEC_MAX} are allowed",
                canonical.len()
            );
            return Err(BadInput::new("mount", rule).into());
        }
        let _turn = self.turns.take(&request.key);
        let there = self
            .store
            .view()
            .volumes()
            .attachment(&request.key)
            .cloned();
        if let Some(there) = there {
            check_same(&there, owner, &canonical, request)?;
            if self.is_as_asked(&there)? {
                return self.attachment_entry(there, &|_| true);
            }
            self.clear_place(&there)?;
            return self.attach_again(&spec, &there, request);
        }
        let (attachment, created) = self.intend(owner, &spec, canonical, request)?;
        let finished = self.finish(&spec, &attachment, request);
        let finished = finished.inspect_err(|_| self.forget_intent(&attachment))?;
        self.attached(finished, created)
    }

    /// Finds or makes the source and records the intent. From then on the source stays.
    fn intend(
        &self,
        owner: &Owner,
        spec: &MountSpec,
        canonical: String,
        request: &Attach,
    ) -> Result<(Arc<Attachment>, bool), Error> {
        let ground = self.ground(spec)?;
        let attachment = self.store.attach(Attachment {
            id: self.store.attachment_id()?,
            key: request.key.clone(),
            owner: owner.clone(),
            volume: ground.volume,
            layer: ground.layer,
            spec: canonical,
            target: request
                .target
                .as_ref()
                .map(|path| path.display().to_string()),
            state: AttachState::Preparing,
            mount: None,
            created: Timestamp::now(),
        })?;
        Ok((attachment, ground.created))
    }

    /// Fills and mounts what an intent is recorded for, and records that.
    fn finish(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        request: &Attach,
    ) -> Result<(Arc<Attachment>, bool), Error> {
        let filled = self.fill(spec, attachment, request.fill_from.as_ref())?;
        let mount = self.mount(spec, attachment)?;
        let attached = self
            .store
            .set_attached(attachment.id, AttachState::Attached, mount.clone());
        let attached = attached.inspect_err(|_| self.take_away(mount.as_ref()))?;
        Ok((attached, filled))
    }

    fn ground(&self, spec: &MountSpec) -> Result<Ground, Error> {
        let view = self.store.view();
        let decision = spec::decide(spec, self.source_exists(&view, spec));
        let created = matches!(
            decision,
            Decision::Create(
                Made::Volume | Made::AnonymousVolume | Made::Directory | Made::File,
                _
            )
        );
        if let Decision::Refuse(refusal) = decision {
            return Err(Error::SourceMissing { refusal });
        }
        let (volume, layer) = match &spec.kind {
            Kind::Volume(volume) => (Some(self.volume_for(volume)?), None),
            Kind::Image(image) => (None, Some(committed(&view, image.reference.as_str())?)),
            Kind::Bind(bind) => {
                if let Decision::Create(made, _) = decision {
                    self.make_host_path(bind.source.as_str(), made)?;
                }
                (None, None)
            }
            Kind::Tmpfs(_) => (None, None),
        };
        Ok(Ground {
            volume,
            layer,
            created,
        })
    }

    fn volume_for(&self, volume: &spec::Volume) -> Result<VolumeId, Error> {
        if let Some(name) = &volume.name
            && let Some(there) = self.store.view().volumes().find(name)
        {
            return Ok(there.id);
        }
        let request = CreateVolume {
            name: volume.name.clone(),
            driver: volume.create_with.driver.clone().unwrap_or_default(),
            options: volume.create_with.options.clone(),
            labels: layerd_store::Labels::parse(volume.create_with.labels.clone())?,
            clone_of: None,
        };
        self.create_volume(&request)
            .map(|(entry, _)| entry.volume.id)
    }

    fn source_exists(&self, view: &View, spec: &MountSpec) -> bool {
        match &spec.kind {
            Kind::Volume(volume) => volume
                .name
                .as_ref()
                .is_some_and(|name| view.volumes().find(name).is_some()),
            Kind::Bind(bind) => Path::new(bind.source.as_str()).exists(),
            Kind::Image(image) => committed(view, image.reference.as_str()).is_ok(),
            Kind::Tmpfs(_) => false,
        }
    }

    fn detach_one(&self, attachment: &Attachment, lazy: bool) -> Result<(), Error> {
        let _turn = self.turns.take(&attachment.key);
        self.clear_place_as(attachment, lazy)?;
        self.store.detach(attachment.id)?;
        self.events
            .tell(Topic::Attachment, "detached", attachment.key.as_str());
        debug!(key = attachment.key.as_str(), owner = %attachment.owner, "detached");
        Ok(())
    }

    /// A failed call leaves nothing of its own; what it found stays.
    fn undo(&self, done: &[AttachmentEntry], before: &BTreeSet<Key>) {
        let own = done
            .iter()
            .rev()
            .map(|entry| &entry.attachment)
            .filter(|one| !before.contains(&one.key));
        for attachment in own {
            if let Err(cause) = self.detach_one(attachment, false) {
                warn!(
                    error = &cause as &dyn std::error::Error,
                    key = attachment.key.as_str(),
                    "undo an attachment"
                );
            }
        }
    }

    fn forget_intent(&self, attachment: &Attachment) {
        if attachment.state != AttachState::Preparing {
            return;
        }
        // This call left no mount. What stands where it was asked to mount is somebody else's.
        let cleared = match attachment.target {
            Some(_) => Ok(()),
            None => self.clear_place(attachment),
        };
        let forgotten = cleared.and_then(|()| Ok(self.store.detach(attachment.id)?));
        if let Err(cause) = forgotten {
            warn!(
                error = &cause as &dyn std::error::Error,
                key = attachment.key.as_str(),
                "drop the intent to attach"
            );
        }
    }
}

/// One value of `--mount`.
fn parse(mount: &str) -> Result<MountSpec, Error> {
    let request = ParseRequest {
        dialect: Dialect::Strict,
        mount_flags: vec![mount.to_owned()],
        ..ParseRequest::default()
    };
    let mut parsed = spec::parse(&request)?;
    parsed
        .pop()
        .ok_or_else(|| BadInput::new("mount", "must not be empty").into())
}

fn committed(view: &View, name: &str) -> Result<LayerId, Error> {
    let key = Key::parse("source", name)?;
    let record = view
        .find(&key)
        .ok_or_else(|| Refusal::Missing { key: key.clone() })?;
    if record.kind != SnapshotKind::Committed {
        return Err(Error::NotCommitted { key });
    }
    Ok(record.id)
}

fn check_same(
    there: &Attachment,
    owner: &Owner,
    canonical: &str,
    request: &Attach,
) -> Result<(), Error> {
    let target = request
        .target
        .as_ref()
        .map(|path| path.display().to_string());
    let fields = [
        ("owner", there.owner.to_string(), owner.to_string()),
        ("mount", there.spec.clone(), canonical.to_owned()),
        (
            "target_path",
            there.target.clone().unwrap_or_default(),
            target.unwrap_or_default(),
        ),
    ];
    match fields.into_iter().find(|(_, have, want)| have != want) {
        None => Ok(()),
        Some((field, have, want)) => Err(Error::AttachmentDrift {
            key: there.key.clone(),
            field,
            have,
            want,
        }),
    }
}
