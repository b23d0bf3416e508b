//! Attachments: an owner's hold on a volume, a host path, a tmpfs or an image, and the mounts that
//! layerd makes for it.
//!
//! Order of writes: the intent is recorded before anything is mounted, and from then on its volume
//! or layer cannot be removed; the id of the mount is recorded before the mount is attached to its
//! target; the record is dropped after the unmount. So the id of a mount of layerd's is always on the
//! disk, and mounts with another id at a target are left alone, by Detach and by the repeated
//! Attach. After a crash before the mount was attached, the attachment is shown as waiting, as after
//! an unmount by another process; after a reboot all are, as the ids are those of one boot.
//!
//! layerd never unmounts unasked: neither at start nor when an owner is silent.

mod again;
mod aside;
mod current;
mod detach;
mod fill;
mod host_path;
mod list;
mod mount;
mod oci;
mod options;
mod publish;
mod reconcile;
mod same;
mod selinux;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod under_way;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use layerd_mounts::mounter::{Feature, Mounter};
use layerd_spec::{Dialect, MountSpec, ParseRequest, Relabel};
use layerd_store::{
    AttachState, Attachment, BadInput, Key, Owner, Refusal, SPEC_MAX, Timestamp, VolumeName,
};
use tracing::warn;

pub use oci::OciMount;
pub use publish::Publish;
pub use reconcile::{Living, Reconciled};

use again::Removed;
use fill::Filling;
use selinux::Selinux;
use source::{Ground, MadeSource, committed};
use under_way::UnderWay;

use crate::keyed_lock::KeyedLock;
use crate::{Error, Layers, Root, Volumes};

/// Most mounts in one call.
const MOUNTS_MAX: usize = 256;

/// One mount that is to be attached.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The owner's name for it.
    pub key: Key,
    /// The mount, as a value of `--mount` in the strict dialect.
    pub mount: String,
    /// Where layerd is to mount it; nowhere if it is left to the runtime.
    pub target: Option<PathBuf>,
    /// The committed snapshot whose content goes into a volume that is empty.
    pub fill_from: Option<Key>,
    /// The SELinux label of the container's mounts, for `z` and `Z`.
    pub selinux_label: Option<String>,
    /// Set if a dialect implies `z`: without SELinux no note is given then.
    pub relabel_by_dialect: bool,
    /// Excludes other attachments of its volume, as long as it lasts.
    pub exclusive: bool,
}

/// An attachment as it is described to clients.
#[derive(Debug, Clone)]
pub struct AttachmentEntry {
    /// Its record.
    pub attachment: Arc<Attachment>,
    /// The request.
    pub spec: MountSpec,
    /// The name that its volume has now.
    pub volume: Option<VolumeName>,
    /// Its present state; waiting if its mount is gone.
    pub state: AttachState,
    /// For an OCI runtime.
    pub oci: Vec<OciMount>,
    /// Set if this call attached it.
    pub is_new: bool,
    /// Set if this call made the volume or host path.
    pub created: bool,
    /// Set if this call filled the volume.
    pub filled: bool,
    /// Omitted steps, a sentence each.
    pub notes: Vec<String>,
}

/// One mount of a call, checked as far as it can be without looking at anything.
struct Wanted<'r> {
    spec: MountSpec,
    /// The specification as it is recorded.
    canonical: String,
    /// The path to mount at, without `.` and `..`.
    target: Option<PathBuf>,
    request: &'r Attach,
}

/// One mount of a call that came to stand, or stood.
struct Done {
    entry: AttachmentEntry,
    /// Set unless an earlier call was acknowledged.
    is_new: bool,
    /// The source, as far as this call made it.
    made: MadeSource,
}

/// Attachments, and the mounts that are made for them.
#[derive(Debug)]
pub struct Attachments {
    root: Arc<Root>,
    layers: Arc<Layers>,
    volumes: Arc<Volumes>,
    mounter: Arc<dyn Mounter>,
    selinux: Selinux,
    features: OnceLock<Vec<Feature>>,
    /// One call at a time for an attachment.
    locks: KeyedLock<Key>,
    under_way: UnderWay,
    /// This boot of the machine: mounts of another one are gone. Where it cannot be told (empty), mounts
    /// are looked up by number alone.
    boot: String,
}

impl Attachments {
    /// No attachment is looked at before the first call.
    pub(crate) fn new(
        root: Arc<Root>,
        layers: Arc<Layers>,
        volumes: Arc<Volumes>,
        mounter: Arc<dyn Mounter>,
    ) -> Self {
        Self {
            root,
            layers,
            volumes,
            mounter,
            selinux: Selinux::of_host(),
            features: OnceLock::new(),
            locks: KeyedLock::default(),
            under_way: UnderWay::default(),
            boot: layerd_store::boot_id(),
        }
    }

    /// Features of the kernel that attachments use. Tried at the first call, in milliseconds.
    pub fn kernel_features(&self) -> &[Feature] {
        self.features.get_or_init(|| self.mounter.features())
    }

    /// Number of threads that wait for an attachment.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.locks.waiting()
    }

    /// Attaches all mounts of one owner, or none of them. Repeating the call answers the same,
    /// also after a crash of either side. Costs two durable writes a mount, one of them shared, and two
    /// more where a path of the host is made.
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
        let mut wanted = mounts
            .iter()
            .map(Wanted::parse)
            .collect::<Result<Vec<_>, _>>()?;
        // Held to the end: another call with one of these keys gets an answer that stays true.
        let keys: BTreeSet<&Key> = mounts.iter().map(|mount| &mount.key).collect();
        let _under_way = self.under_way.begin(owner, keys.iter().copied());
        let _guards: Vec<_> = keys.into_iter().map(|key| self.locks.lock(key)).collect();
        wanted.sort_by_key(|one| one.spec.target.depth());
        let attached = self.attach_all(owner, &wanted);
        let mut done = attached.inspect_err(|_| self.forget_interrupted(&wanted))?;
        // As the container mounts them.
        done.sort_by_cached_key(|one| {
            let key = &one.entry.attachment.key;
            wanted.iter().position(|wanted| wanted.key() == key)
        });
        let told = done.into_iter().map(|one| AttachmentEntry {
            is_new: one.is_new,
            ..one.entry
        });
        Ok(told.collect())
    }

    /// Attaches in the order in which mounts stand on each other. A failed call leaves what was there
    /// before it.
    fn attach_all(&self, owner: &Owner, wanted: &[Wanted<'_>]) -> Result<Vec<Done>, Error> {
        self.check_wanted(owner, wanted)?;
        let mut removed = self.unmount_stale(wanted)?;
        let mut done: Vec<Done> = Vec::new();
        for one in outer_first(wanted) {
            match self.attach_one(owner, one, &mut removed) {
                Ok(attached) => done.push(attached),
                Err(cause) => {
                    self.undo(&done);
                    self.put_back(removed);
                    for one in done.iter().filter(|one| !one.is_new) {
                        self.take_back_paths(&one.made, Some(one.entry.attachment.id));
                    }
                    return Err(cause);
                }
            }
        }
        Ok(done)
    }

    /// Refuses a set of which one mount cannot be had, before anything is made for the others.
    fn check_wanted(&self, owner: &Owner, wanted: &[Wanted<'_>]) -> Result<(), Error> {
        let view = self.root.store.records();
        for one in wanted {
            if let Some(there) = view.volumes().attachment(one.key()) {
                self.check_same(there, owner, one)?;
                self.check_image(&view, there.layer)?;
                continue;
            }
            let found = self.look_at(&one.spec, one.request.fill_from.as_ref())?;
            self.check_label(&one.spec, one.request.selinux_label.as_deref())?;
            self.check_place(one, wanted, None, found.is_dir)?;
        }
        Ok(())
    }

    /// Checks the target of a mount, if it has one, for a directory or a file. What lies inside
    /// another target of the call is there only once that one is mounted.
    fn check_place(
        &self,
        one: &Wanted<'_>,
        wanted: &[Wanted<'_>],
        own: Option<&Attachment>,
        is_dir: bool,
    ) -> Result<(), Error> {
        let outer = wanted.iter().filter_map(|other| other.target.as_deref());
        let Some(target) = &one.target else {
            return Ok(());
        };
        if target::lies_inside(target, outer) {
            return Ok(());
        }
        self.check_target(&one.spec, target, own)?;
        self.refuse_other_kind(target, is_dir)
    }

    /// The caller has the turn of the key.
    fn attach_one(
        &self,
        owner: &Owner,
        wanted: &Wanted<'_>,
        removed: &mut [Removed],
    ) -> Result<Done, Error> {
        let there = self
            .root
            .store
            .records()
            .volumes()
            .attachment(wanted.key())
            .cloned();
        if let Some(there) = there {
            self.check_same(&there, owner, wanted)?;
            return self.attach_recorded(wanted, there, removed);
        }
        let (attachment, made) = self.intend(owner, wanted)?;
        let mut filling = Filling::None;
        let finished = self.finish(wanted, &attachment, &mut filling);
        let finished = finished.inspect_err(|_| {
            self.forget_intent(&attachment, &made, filling == Filling::Done);
        })?;
        let entry = self.attached(wanted, finished, filling, made.is_some())?;
        Ok(Done {
            entry,
            is_new: true,
            made,
        })
    }

    /// Finds or makes the source and records the intent. From then on the source stays.
    fn intend(
        &self,
        owner: &Owner,
        wanted: &Wanted<'_>,
    ) -> Result<(Arc<Attachment>, MadeSource), Error> {
        /// A volume can be deleted, or be taken back by the call that made it, before it is held.
        const TRIES: usize = 8;
        let mut left = TRIES;
        loop {
            let ground = self.ground(&wanted.spec)?;
            left -= 1;
            match self.record_intent(owner, wanted, &ground) {
                Ok(attachment) => return self.make_missing_path(attachment, ground),
                Err(layerd_store::Error::Refused(Refusal::VolumeGone { .. })) if left > 0 => {}
                Err(cause) => {
                    self.take_back_volume(&ground.made, false);
                    return Err(cause.into());
                }
            }
        }
    }

    /// Makes a path of the host that the source of an intent lacks.
    fn make_missing_path(
        &self,
        attachment: Arc<Attachment>,
        ground: Ground,
    ) -> Result<(Arc<Attachment>, MadeSource), Error> {
        let mut made = ground.made;
        if let Some((path, kind)) = ground.missing {
            self.make_host_path(attachment.id, &path, kind, &mut made)
                .inspect_err(|_| self.forget_intent(&attachment, &made, false))?;
        }
        Ok((attachment, made))
    }

    fn record_intent(
        &self,
        owner: &Owner,
        wanted: &Wanted<'_>,
        ground: &Ground,
    ) -> Result<Arc<Attachment>, layerd_store::Error> {
        self.root.store.attach(Attachment {
            id: self.root.store.attachment_id()?,
            key: wanted.key().clone(),
            owner: owner.clone(),
            volume: ground.volume,
            layer: ground.layer,
            spec: wanted.canonical.clone(),
            target: wanted
                .target
                .as_ref()
                .map(|path| path.display().to_string()),
            exclusive: wanted.request.exclusive,
            state: AttachState::Preparing,
            mount: None,
            created: Timestamp::now(),
            made: ground.made.to_record(),
        })
    }

    /// Fills what an intent is recorded for, makes its mount, records that, and puts it in place.
    /// `filling` says what became of the filling, also after a failure.
    fn finish(
        &self,
        wanted: &Wanted<'_>,
        attachment: &Attachment,
        filling: &mut Filling,
    ) -> Result<Arc<Attachment>, Error> {
        let from = wanted.request.fill_from.as_ref();
        *filling = self.fill(&wanted.spec, attachment, from)?;
        // Until it is known to be in use, nothing exchanges its content.
        let _guard = attachment.volume.map(|id| self.volumes.locks.hold(id));
        let label = wanted.request.selinux_label.as_deref();
        self.relabel(&wanted.spec, attachment, label)?;
        let made = self.make_mount(&wanted.spec, attachment)?;
        let mount = made.as_ref().map(|made| made.at.clone());
        let attached = self
            .root
            .store
            .set_attached(attachment.id, AttachState::Attached, mount)?;
        made.map_or(Ok(()), |made| self.put_in_place(made))?;
        Ok(attached)
    }

    /// Drops an intent that was acknowledged to no caller, and what was `made` for it.
    fn forget_intent(&self, attachment: &Attachment, made: &MadeSource, filled: bool) {
        let forgotten = self.clear_place(attachment).and_then(|()| {
            // As long as a record names them.
            self.take_back_paths(made, Some(attachment.id));
            Ok(self.root.store.detach(attachment.id)?)
        });
        match forgotten {
            Ok(()) => self.take_back_volume(made, filled),
            Err(cause) => warn!(
                error = &cause as &dyn std::error::Error,
                key = attachment.key.as_str(),
                "drop the intent to attach"
            ),
        }
    }
}

impl<'r> Wanted<'r> {
    fn parse(request: &'r Attach) -> Result<Self, Error> {
        let mut spec = parse(&request.mount)?;
        if request.relabel_by_dialect && spec.relabel == Some(Relabel::Shared) {
            spec.relabel = Some(Relabel::SharedByDialect);
        }
        let canonical = spec.to_string();
        if canonical.len() > SPEC_MAX {
            let rule = format!(
                "is {} bytes long, at most {SPEC_MAX} are allowed",
                canonical.len()
            );
            return Err(BadInput::new("mount", rule).into());
        }
        Ok(Self {
            spec,
            canonical,
            target: request.target.as_deref().map(target::clean).transpose()?,
            request,
        })
    }

    fn key(&self) -> &Key {
        &self.request.key
    }
}

/// In the order given, but for those whose targets lie in other ones: they come after these.
fn outer_first<'w, 'r>(wanted: &'w [Wanted<'r>]) -> Vec<&'w Wanted<'r>> {
    let targets = || wanted.iter().filter_map(|one| one.target.as_deref());
    let outer = |target: &Path| {
        targets()
            .filter(|outer| target::lies_inside(target, std::iter::once(*outer)))
            .count()
    };
    let mut ordered: Vec<_> = wanted.iter().collect();
    ordered.sort_by_cached_key(|one| one.target.as_deref().map_or(0, outer));
    ordered
}

/// Number of names in a path.
fn depth(path: &Path) -> usize {
    path.components().count()
}

/// One value of `--mount`.
fn parse(mount: &str) -> Result<MountSpec, Error> {
    let request = ParseRequest {
        dialect: Dialect::Strict,
        mount_flags: vec![mount.to_owned()],
        ..ParseRequest::default()
    };
    let mut parsed = layerd_spec::parse(&request)?;
    parsed
        .pop()
        .ok_or_else(|| BadInput::new("mount", "must not be empty").into())
}
