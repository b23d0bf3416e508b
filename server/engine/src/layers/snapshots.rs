//! The operations on snapshots, one short function each.

use std::io::ErrorKind;
use std::sync::Arc;

use layerd_drivers::{Images, Stack};
use layerd_mounts::Mount;
use layerd_mounts::limit::Limit;
use layerd_store::{
    Checked, Claim, Commit, Create, Key, Kind, LabelChange, LayerId, Record, Records, Refusal,
    Usage,
};
use tracing::{debug, error, warn};

use crate::call_phase::enter;
use crate::events::Topic;
use crate::keyed_lock::KeyedGuard;
use crate::layers::limits::keep_limits;
use crate::list::{Entry, Listing};
use crate::reserve::Area;
use crate::stack::{Top, base};
use crate::{Error, LayerError, Layers, slot};

/// Mounts of a snapshot.
pub type Mounted = Vec<Mount>;

/// Numbers of snapshots, and their disk usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Active snapshots.
    pub active: u64,
    /// Views.
    pub views: u64,
    /// Committed snapshots.
    pub committed: u64,
    /// Removed ones whose directories may still be there.
    pub removed: u64,
    /// Bytes of disk of those whose figure is known.
    pub bytes: u64,
    /// Those whose figure is not known.
    pub unmeasured: u64,
    /// Images, also those of removed layers until their deletion begins.
    pub images: u64,
    /// Those of them that are mounted.
    pub images_mounted: u64,
    /// Those of the mounted ones that take a loop device.
    pub image_loop_devices: u64,
    /// Bytes of disk of snapshots that are images.
    pub image_bytes: u64,
}

/// A layer that is being committed, kept from others.
struct Taken<'e> {
    _guard: KeyedGuard<'e, LayerId>,
    view: Arc<Records>,
    checked: Checked,
}

impl Layers {
    /// Creates an active snapshot or a view, and answers how to mount it.
    ///
    /// Durable on return: its directories and its record, for one or two waits for the disk that
    /// all callers of the moment share, whatever the size of the parent. Mounts nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`](crate::ErrorKind) if the parent is unknown, `Invalid` if it is not
    /// committed or a label breaks a rule, `Exists` if the key is taken or being made, `Refused`
    /// if the stack is too high to mount, `Full` if the disk is or its reserve is reached. Nothing is visible
    /// then.
    pub fn create(&self, mut create: Create) -> Result<Mounted, Error> {
        self.save_damage();
        let limit = self.limit_of_new(&mut create)?;
        let (claim, pooled) = self.claim_layer(&create, limit)?;
        let has_deferred_parent = self.defers_parent(&create);
        let checked = self.root.check_reserve(Area::Layers);
        let planned =
            checked.and_then(|()| self.plan_new(&create, &claim, has_deferred_parent, limit));
        let (stack, mounts) = planned.inspect_err(|_| {
            if pooled {
                self.pool.give_back(claim.id());
            }
        })?;
        let claim = if has_deferred_parent {
            claim.with_deferred_parent()
        } else {
            claim
        };
        self.make_directories(&claim, &stack, pooled)?;
        let (id, waits) = (claim.id(), stack.own.is_some() && !pooled);
        let recorded = self.root.store.record(claim, waits);
        let record = recorded.inspect_err(|_| self.root.backlog.abandon(id))?;
        self.make_mountable(&create.key, &stack)?;
        debug!(key = record.key.as_str(), %id, kind = record.kind.as_str(), "created");
        let what = match record.kind {
            Kind::View => "viewed",
            Kind::Active | Kind::Committed => "prepared",
        };
        self.root
            .events
            .tell(Topic::Snapshot, what, record.key.as_str());
        Ok(mounts)
    }

    /// Plans the layers and mounts of a claimed snapshot. Makes nothing.
    fn plan_new(
        &self,
        create: &Create,
        claim: &Claim,
        has_deferred_parent: bool,
        limit: Option<Limit>,
    ) -> Result<(Stack, Mounted), Error> {
        let ids = self.mappings(&create.labels)?;
        let view = self.root.store.records();
        if let Some(parent) = claim.parent() {
            self.quarantine.check_stack(&view, parent)?;
        }
        let top = Top::new(create, claim, ids)
            .deferred(has_deferred_parent)
            .limited(limit);
        let stack = top.stack(&view);
        let mounts = self.plan(&create.key, &stack)?;
        Ok((stack, mounts))
    }

    /// Answers how to mount a snapshot: always the same. Reads memory only, but for what the driver has
    /// to make mountable: nothing with overlayfs.
    ///
    /// # Errors
    /// `Missing`; `Refused` if it is committed.
    pub fn mounts(&self, key: &Key) -> Result<Mounted, Error> {
        let view = self.root.store.records();
        let record = find(&view, key)?;
        if record.kind == Kind::Committed {
            return Err(Error::Layer(LayerError::NotMountable { key: key.clone() }));
        }
        self.quarantine.check_stack(&view, record)?;
        self.unpacks.distrust(record.id);
        let ids = self.mappings(&record.labels)?;
        let stack = Top::recorded(&view, record, ids).stack(&view);
        let mounts = self.plan(key, &stack)?;
        self.make_mountable(key, &stack)?;
        Ok(mounts)
    }

    /// Turns an active snapshot into a committed one; a repeated call answers success.
    ///
    /// Durable on return: the record and, with [`Durability::Full`](crate::Durability::Full), the content of the layer. For
    /// that, dirty files are written back and one journal commit is waited for, which calls of the
    /// same moment share; no other files are, and no lock is held. Where the file system has no
    /// journal for all files, other programs' dirty files on it are waited for. It costs a look at each
    /// file, which gives the layer's figure as well; not so for a layer that was unpacked by
    /// [`apply`](Self::apply) and left alone since. With [`Durability::Metadata`](crate::Durability::Metadata) the call takes
    /// the same time for a layer of any size, and the layer is measured afterwards.
    ///
    /// The layer that is committed is the one whose content this call looked at: where the key, or
    /// the name of the parent to give it, changes hands meanwhile, nothing is committed. Of several
    /// calls for one layer each waits for the one before.
    ///
    /// # Errors
    /// `Missing` if the key or the parent to give it is unknown, also if it was removed meanwhile,
    /// `Exists` if the name is taken,
    /// `Refused` if the snapshot is not active, holds part of a layer, or the parent is not
    /// committed, `Invalid` if it has
    /// another parent already, `Damaged` if content did not reach the disk: the snapshot is
    /// quarantined then, since the kernel would call a second try a success.
    pub fn commit(&self, mut commit: Commit) -> Result<(), Error> {
        self.save_damage();
        let key = commit.key.clone();
        let taken = self.take_to_commit(&commit)?;
        if let Some(Taken { view, checked, .. }) = &taken {
            let prepared = self.prepare_commit(view, &checked.active, &commit);
            let frozen =
                prepared.and_then(|usage| self.freeze(view, &checked.active).map(|()| usage));
            let usage = frozen.map_err(|cause| self.unless_removed(&checked.active, cause))?;
            // What was measured is in the image, and not yet what is left of it.
            commit.usage = usage.filter(|_| !self.is_limited(checked.active.id));
        }
        let checked = taken.as_ref().map(|taken| taken.checked.clone());
        let record = self.root.store.commit(commit, checked, self.is_full())?;
        self.after_commit(&record);
        debug!(key = key.as_str(), name = record.key.as_str(), id = %record.id, "committed");
        self.root
            .events
            .tell(Topic::Snapshot, "committed", record.key.as_str());
        Ok(())
    }

    /// Locks the layer of a commit against other commits and unpacking, and returns it as it is then.
    /// `None` if the same commit is recorded.
    fn take_to_commit(&self, commit: &Commit) -> Result<Option<Taken<'_>>, Error> {
        let check = |view: &Records| self.root.store.check_commit(view, commit);
        loop {
            let Some(seen) = check(&self.root.store.records())? else {
                return Ok(None);
            };
            let _guard = self.unpacks.lock(seen.active.id);
            let view = self.root.store.records();
            match check(&view)? {
                None => return Ok(None),
                Some(checked) if checked.active.id == seen.active.id => {
                    return Ok(Some(Taken {
                        _guard,
                        view,
                        checked,
                    }));
                }
                // The key is another snapshot's by now.
                Some(_) => {}
            }
        }
    }

    /// Has a layer hold on the disk what its record will promise; answers what that is, if known.
    fn prepare_commit(
        &self,
        view: &Records,
        active: &Record,
        commit: &Commit,
    ) -> Result<Option<Usage>, Error> {
        self.quarantine.check(active)?;
        let usage = match self.image_usage(active)? {
            Some(usage) => Some(usage),
            None => self.unpacked(active)?,
        };
        self.keep_digests_if_trusted(active, usage.is_some())?;
        let usage = self.rebase_onto_parent(view, active, commit, usage)?;
        match usage {
            None if self.is_full() => self.write_back(active).map(Some),
            usage => Ok(usage),
        }
    }

    /// Has the driver finish a layer whose content is complete.
    fn freeze(&self, view: &Records, active: &Record) -> Result<(), Error> {
        let id = active.id;
        enter("finishing the layer");
        let stack = Top::recorded(view, active, None).stack(view);
        let frozen = self.driver.freeze(&stack);
        frozen.map_err(|cause| Error::Layer(LayerError::WriteBack { id, cause }))
    }

    /// A layer that was removed during a call may be gone from the disk, which is no fault.
    fn unless_removed(&self, record: &Record, cause: Error) -> Error {
        match self.root.store.records().get(record.id) {
            Some(_) => cause,
            None => Refusal::Missing {
                key: record.key.clone(),
            }
            .into(),
        }
    }

    pub(crate) fn write_back(&self, active: &Record) -> Result<Usage, Error> {
        let id = active.id;
        enter("writing the content of the layer to the disk");
        let written = self.driver.write_back(slot(id));
        let usage = written.map_err(|cause| {
            if matches!(cause, layerd_mounts::Error::Lost { .. }) {
                self.bar(
                    id,
                    format!("its content was lost on the way to the disk: {cause}"),
                );
            }
            self.note_bad_image(&cause);
            Error::Layer(LayerError::WriteBack { id, cause })
        })?;
        Ok(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        })
    }

    /// The record is durable; what is left needs no answer. Start-up makes good what fails.
    fn after_commit(&self, record: &Record) {
        self.unpacks.forget(record.id);
        if let Err(cause) = self.drop_work(record.id) {
            warn!(error = &cause as &dyn std::error::Error, id = %record.id, "drop the work directory of a layer");
            self.root.backlog.note_pending_workdir(record.id);
        }
        if record.usage.is_none() {
            self.usage_scanner.measure(record.id);
        }
    }

    /// Removes a snapshot: one durable write, whatever its size. Its directories stay in their place
    /// until the reaper gives the space back.
    ///
    /// # Errors
    /// `Missing`; `Refused` if it has children.
    pub fn remove(&self, key: &Key) -> Result<(), Error> {
        self.save_damage();
        let removal = self.root.trash.removal();
        let record = self.root.store.remove(key)?;
        self.unpacks.end(record.id);
        debug!(key = key.as_str(), id = %record.id, "removed");
        self.root
            .events
            .tell(Topic::Snapshot, "removed", key.as_str());
        let left = self.root.store.records().len();
        if let Some(reason) = removal.done(record.id, record.removed, left) {
            self.root.events.tell(Topic::Trash, "held", &reason);
        }
        Ok(())
    }

    /// Describes a snapshot. Reads memory only.
    ///
    /// # Errors
    /// `Missing`; `Damaged` if it is quarantined.
    pub fn stat(&self, key: &Key) -> Result<Entry, Error> {
        let view = self.root.store.records();
        let record = find(&view, key)?.clone();
        self.quarantine.check(&record)?;
        Ok(Entry::new(&view, record))
    }

    /// Changes labels, in order, and answers the description. Durable on return.
    ///
    /// # Errors
    /// `Missing`; `Invalid` if a label breaks a rule.
    pub fn update(&self, key: &Key, changes: Vec<LabelChange>) -> Result<Entry, Error> {
        self.save_damage();
        let changes = match self.root.store.records().find(key) {
            Some(record) => keep_limits(record, changes)?,
            None => changes,
        };
        let record = self.root.store.update(key, changes)?;
        debug!(key = key.as_str(), id = %record.id, "updated");
        self.root
            .events
            .tell(Topic::Snapshot, "updated", key.as_str());
        Ok(Entry::new(&self.root.store.records(), record))
    }

    /// Lists the snapshots that match any of `filters`, as of this moment. Delays no other call, however
    /// slowly the answer is read.
    ///
    /// # Errors
    /// `Invalid` if a filter does not parse.
    pub fn list(&self, filters: &[String]) -> Result<Listing, Error> {
        Listing::new(self.root.store.records(), filters)
    }

    /// Answers what a snapshot itself holds on disk, its parents excluded.
    ///
    /// A committed one's figure is kept; only where it was committed a moment ago does the call
    /// wait until it is measured. A writable layer is measured anew, by another thread; where that
    /// takes longer than [`Options::usage_patience`](crate::Options), the answer is the last
    /// finished figure, if there is one. A view holds nothing.
    ///
    /// # Errors
    /// `Missing`, also if it is removed meanwhile; `Internal` if the layer cannot be read.
    pub fn usage(&self, key: &Key) -> Result<Usage, Error> {
        let view = self.root.store.records();
        let record = find(&view, key)?;
        self.quarantine.check(record)?;
        enter("measuring the layer");
        let figure = match (record.kind, record.usage) {
            (Kind::View, _) => return Ok(Usage::default()),
            (_, Some(usage)) => return Ok(usage),
            (Kind::Active, None) => match self.unpacked(record) {
                Ok(Some(usage)) => return Ok(usage),
                _ => self
                    .usage_scanner
                    .recent(record.id, self.root.options.usage_patience),
            },
            (Kind::Committed, None) => self.usage_scanner.exact(record.id),
        };
        figure.or_else(|cause| {
            // A layer that went meanwhile is no error; its key may be another's by now.
            let is_same = find(&self.root.store.records(), key)?.id == record.id;
            if is_same { Err(cause) } else { self.usage(key) }
        })
    }

    /// Counts what there is. Costs a walk through memory.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let view = self.root.store.records();
        let images = self.driver.images().map(Images::counts).unwrap_or_default();
        let mut counts = Counts {
            removed: view.removed().count() as u64,
            images: images.images as u64,
            images_mounted: images.mounted as u64,
            image_loop_devices: images.loop_devices as u64,
            ..Counts::default()
        };
        for record in view.iter() {
            let figure = match record.kind {
                Kind::View => Some(Usage::default()),
                Kind::Active => self.usage_scanner.last(record.id),
                Kind::Committed => record.usage,
            };
            match record.kind {
                Kind::Active => counts.active += 1,
                Kind::View => counts.views += 1,
                Kind::Committed => counts.committed += 1,
            }
            match figure {
                Some(usage) => counts.bytes += usage.bytes,
                None => counts.unmeasured += 1,
            }
            if self.is_image(record.id) {
                counts.image_bytes += figure.map_or(0, |usage| usage.bytes);
            }
        }
        counts
    }

    /// Answers as well whether the layer was made ahead. A view of a layer needs no directories, and one
    /// that is held to a size others.
    fn claim_layer(&self, create: &Create, limit: Option<Limit>) -> Result<(Claim, bool), Error> {
        if limit.is_some() || create.kind == Kind::View && create.parent.is_some() {
            return Ok((self.root.store.claim(create.clone())?, false));
        }
        self.pool.claim(create.clone())
    }

    fn make_directories(&self, claim: &Claim, stack: &Stack, pooled: bool) -> Result<(), Error> {
        let (id, Some(own)) = (claim.id(), stack.own) else {
            return Ok(());
        };
        let base = base(stack);
        enter("making the directories of the layer");
        let created = match self.driver.pool().filter(|_| pooled) {
            Some(pool) => pool.take(own, &base),
            None => self.driver.create(own, &base),
        };
        created.map_err(|cause| {
            // An existing directory was made by another process.
            if cause.io_kind() != Some(ErrorKind::AlreadyExists) {
                self.root.backlog.abandon(id);
            }
            self.note_missing_parent(claim, &cause);
            Error::Layer(LayerError::Create { id, cause })
        })
    }

    /// A parent whose directory is gone must not be built upon again.
    fn note_missing_parent(&self, claim: &Claim, cause: &layerd_mounts::Error) {
        let Some(parent) = claim.parent() else { return };
        let still_there = self.root.store.records().get(parent.id).is_some();
        let is_gone = || matches!(self.driver.has(slot(parent.id)), Ok(false));
        if still_there && cause.io_kind() == Some(ErrorKind::NotFound) && is_gone() {
            error!(key = parent.key.as_str(), id = %parent.id, "the directory of a layer is missing");
            self.quarantine
                .set(parent.id, "its directory is missing".to_owned());
        }
    }
}

pub(crate) fn find<'v>(view: &'v Records, key: &Key) -> Result<&'v Arc<Record>, Error> {
    let missing = || Refusal::Missing { key: key.clone() };
    view.find(key).ok_or_else(|| missing().into())
}
