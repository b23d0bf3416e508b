//! The store: the calls of this crate.

mod age;
mod claim;
mod opening;
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::MutexGuard;
use tracing::warn;

use crate::batches::{Batches, Class};
use crate::call_phase;
use crate::clock::Clock;
use crate::db::Db;
use crate::error::{Error, Refusal};
use crate::export::{self, Export, Exporter};
use crate::folder::io_error;
use crate::lock::Lock;
use crate::model::{Key, LabelChange, LayerId, Record, Timestamp, Usage};
use crate::records::Records;
use crate::shared::{Files, Options, Shared};
use crate::space::Space;
use crate::stall;
use crate::state::{self, Checked, Commit, Create};
use crate::wal;
use crate::writer::Writer;
pub use claim::Claim;
use claim::lock_claims;
use opening::{
    above, check_format, has_records, open_database, open_folder, refuse_lost_commits, write_format,
};

/// The records of one root.
///
/// A call that changes records blocks until the change is durable; all waiting calls share one
/// flush. Reads do not block. Dropping the store writes waiting changes, exports all records and
/// closes the database.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    // Dropped in this order: the exporter writes the state that the writer left.
    writer: Writer,
    _exporter: Exporter,
    lock: HeldLock,
    folder: PathBuf,
    fresh: bool,
    /// Set while the disk is too full for new records.
    full: Arc<AtomicBool>,
    /// First id that the records do not know as reserved by an earlier process.
    recorded: u64,
    first_id: u64,
}

impl Store {
    /// Opens the store in `folder`, or creates it there. Reads every record: about 0.5 s for a
    /// million rows.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Newer`] and [`Error::Damaged`] leave everything as it was;
    /// [`Error::Io`] names the unusable file.
    pub fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        call_phase::enter_at("taking the lock of the records", folder);
        let lock = open_folder(folder)?;
        call_phase::enter_at("reserving space for the records", folder);
        let mut space = Space::new(folder);
        let has_format = check_format(folder)?;
        let fresh = !has_format && !has_records(folder)?;
        call_phase::enter_at("opening the database", folder);
        let mut opened = open_database(folder, fresh, &mut space)?;
        call_phase::enter_at("looking for newer exports of the records", folder);
        refuse_lost_commits(folder, opened.wal.last())?;
        if !has_format {
            write_format(folder)?;
        }
        let records = Records::of(mem::take(&mut opened.records), opened.wal.last())?;
        call_phase::enter_at("noting the holder of the lock", folder);
        lock.note_holder();
        let recorded = opened.ids_below;
        let next = above(recorded, &options.ids_on_disk);
        if next > recorded {
            warn!(
                recorded,
                next, "the records are older than what is on disk; ids go on above that"
            );
        }
        call_phase::enter_at("reading and saving the clock", folder);
        let clock = Clock::open(folder, records.newest_stamp());
        let shared = Arc::new(Shared::new(records, (next, recorded), clock));
        let lock = HeldLock {
            shared: shared.clone(),
            lock,
        };
        call_phase::enter_at("starting the threads of the records", folder);
        let exporter = Exporter::start(folder, shared.clone());
        let exporter = exporter.map_err(io_error("start the exporter of", folder))?;
        let full = space.low();
        let batches = Batches::new(opened, folder, space, shared.clone(), options);
        Ok(Self {
            writer: Writer::new(batches.map_err(io_error("start the threads of", folder))?),
            _exporter: exporter,
            lock,
            shared,
            folder: folder.to_owned(),
            fresh,
            full,
            recorded,
            first_id: next,
        })
    }

    /// Reads all records, and the first id that was never handed out, without changing anything: from a
    /// copy of the database in the folder for temporary files. A missing folder holds no records.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn inspect(folder: &Path) -> Result<(Records, LayerId), Error> {
        if !folder.exists() {
            return Ok((Records::default(), LayerId(0)));
        }
        let _lock = Lock::take(folder)?;
        check_format(folder)?;
        let copy =
            tempfile::tempdir().map_err(io_error("create", Path::new("a temporary folder")))?;
        let opened = Db::inspect(folder, copy.path())?;
        let records = Records::of(opened.records, opened.wal.last())?;
        Ok((records, LayerId(opened.ids_below)))
    }

    /// Replaces the database by an export. The old one is kept as `db.old.<sequence>`. Ids go on above
    /// the export's and `ids_on_disk`, as for [`open`](Self::open). The daemon must not be running.
    /// Durable on return.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Newer`], [`Error::Damaged`] if the export is, [`Error::Io`],
    /// [`Error::Write`]; the database is unchanged.
    pub fn restore(folder: &Path, export: &Export, ids_on_disk: &[u64]) -> Result<(), Error> {
        let lock = open_folder(folder)?;
        // An export has its own format, so an unreadable format file is replaced.
        let has_format = match check_format(folder) {
            Err(Error::Damaged { .. }) => false,
            other => other?,
        };
        let records = Records::of(export.items.clone(), export.meta.sequence)?;
        let ids_below = above(export.meta.ids_below, ids_on_disk);
        let exported = export::newer_whole(folder, export.meta.sequence)?;
        let exported = exported.map_or(export.meta.sequence, |(sequence, _)| sequence);
        let sequence = exported.max(Db::last_sequence(folder));
        let (opened, _) = Db::rebuild(folder, &records, sequence, ids_below)?;
        drop(opened);
        if !has_format {
            write_format(folder)?;
        }
        lock.ended_cleanly();
        Ok(())
    }

    /// The newest records in a store's folder that cannot be opened: what the damaged database still
    /// holds, or the newest whole export. Changes nothing; the daemon must not be running. Copies the
    /// database to the folder for temporary files; without space there it takes the export.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn newest_copy(folder: &Path) -> Result<Option<Export>, Error> {
        let exported = Export::newest(folder)?;
        let least = exported.as_ref().map_or(0, Export::sequence);
        let salvaged = Self::salvage(folder).filter(|found| found.sequence() >= least);
        Ok(salvaged.or(exported))
    }

    /// All records as of one commit, which may not be the last, read from a copy of a damaged database.
    /// `None` if they do not add up.
    fn salvage(folder: &Path) -> Option<Export> {
        let _lock = Lock::take(folder).ok()?;
        let spare = tempfile::tempdir().ok()?;
        let opened = Db::salvage(folder, spare.path())?;
        let path = folder.join("db");
        let written = fs::metadata(path.join(wal::NAME)).and_then(|data| data.modified());
        Some(Export {
            path,
            taken: written.map_or_else(|_| Timestamp::now(), Timestamp::from),
            meta: opened.meta(),
            items: opened.records,
        })
    }

    /// True if there are records in `folder`, in whatever state: a database, an export, or the number of
    /// a commit.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn exists(folder: &Path) -> Result<bool, Error> {
        Ok(folder.exists() && (folder.join("format").exists() || has_records(folder)?))
    }

    /// Writes all records to a file that [`Export::read`] reads.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn export_to(&self, target: &Path) -> Result<(), Error> {
        export::write(
            target,
            &self.records(),
            self.shared.ids_below.load(Ordering::Acquire),
        )
    }

    /// As [`export_to`](Self::export_to), into memory.
    ///
    /// # Errors
    /// [`Error::Io`], in theory.
    pub fn export(&self) -> Result<Vec<u8>, Error> {
        let below = self.shared.ids_below.load(Ordering::Acquire);
        export::write_to(Vec::new(), &self.records(), below)
            .map_err(io_error("write the export", Path::new("memory")))
    }

    /// True if a directory on disk has an id that the records never handed out, as after an older
    /// export was restored.
    #[must_use]
    pub fn is_older_than_disk(&self) -> bool {
        self.first_id > self.recorded
    }

    /// True if the last process with the store open was killed, or the power was cut.
    #[must_use]
    pub fn was_unclean(&self) -> bool {
        self.lock.lock.was_unclean()
    }

    /// True if [`open`](Self::open) created the store.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// True if the last write failed. Each further change first rebuilds the database from the
    /// acknowledged records; until that succeeds, only reads are answered.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// True while nothing new is taken for want of space or inodes, as of the last change.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// True once the database hangs. It takes no change any more; only a new process helps.
    #[must_use]
    pub fn has_hung(&self) -> bool {
        self.shared.has_hung()
    }

    /// How long the writer has been waiting for the disk with what it writes now; zero if nothing
    /// is to be written.
    #[must_use]
    pub fn writing_for(&self) -> Duration {
        let begun = *self.shared.writing.lock();
        begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// Waits until the disk has made a small write durable. An error of the disk is an answer, too.
    pub fn probe_disk(&self) {
        stall::probe(&self.folder)();
    }

    /// All records as of the last durable change. Lock-free, in constant time.
    #[must_use]
    pub fn records(&self) -> Arc<Records> {
        self.shared.records.load_full()
    }

    /// True if an id may have been handed out, by the records; after a restored export, these do not
    /// know the ids handed out after it.
    #[must_use]
    pub fn is_issued(&self, id: u64) -> bool {
        id < self.recorded || self.is_issued_now(id)
    }

    /// True if an id was handed out by this process: its directory may be in creation.
    #[must_use]
    pub fn is_issued_now(&self, id: u64) -> bool {
        (self.first_id..self.shared.next_id.load(Ordering::Acquire)).contains(&id)
    }

    /// Ids of layers in creation: claimed, not yet recorded. To tell abandoned directories from new
    /// ones, read directories first, then this, then the records.
    #[must_use]
    pub fn claimed(&self) -> Vec<LayerId> {
        self.claims().values().copied().collect()
    }

    /// Claims a key and a fresh id for a new snapshot; in memory, unless ids ran out. Dropping the
    /// claim frees the key.
    ///
    /// # Errors
    /// [`Error::Refused`] if the parent is missing or not committed, or the key is taken or being
    /// made; [`Error::Write`] if new ids could not be reserved.
    pub fn claim(&self, create: Create) -> Result<Claim, Error> {
        self.claim_as(create, self.fresh_id()?)
    }

    /// As [`claim`](Self::claim), with an id from [`fresh_id`](Self::fresh_id). In memory.
    ///
    /// # Errors
    /// As for `claim`, but for [`Error::Write`].
    pub fn claim_as(&self, create: Create, id: LayerId) -> Result<Claim, Error> {
        let mut claims = self.claims();
        let parent = state::check_create(&self.records(), &create)?;
        if claims.contains_key(&create.key) {
            return Err(Refusal::Taken { key: create.key }.into());
        }
        claims.insert(create.key.clone(), id);
        Ok(Claim {
            shared: self.shared.clone(),
            create,
            id,
            parent,
            has_deferred_parent: false,
        })
    }

    /// Records a claimed snapshot. Set `files` if directories were created for it: they become durable
    /// first.
    ///
    /// # Errors
    /// [`Error::Refused`] if the parent was removed meanwhile, also if another snapshot has its
    /// name by now; [`Error::Barrier`],
    /// [`Error::Write`]: the snapshot does not exist.
    pub fn record(&self, claim: Claim, files: bool) -> Result<Arc<Record>, Error> {
        let (create, has_deferred_parent) = (claim.create.clone(), claim.has_deferred_parent);
        let ids = (claim.id, claim.parent().map(|parent| parent.id));
        let now = Timestamp::now();
        let class = if files {
            Class::NewWithFiles(Files::Layers)
        } else {
            Class::New
        };
        self.writer.write(class, move |records| {
            state::create(records, create, ids, has_deferred_parent, now)
        })
    }

    /// Checks that a commit is allowed; returns its layers, or `None` if the same commit is recorded.
    /// In memory.
    ///
    /// # Errors
    /// [`Error::Refused`] as for [`commit`](Self::commit).
    pub fn check_commit(
        &self,
        records: &Records,
        commit: &Commit,
    ) -> Result<Option<Checked>, Error> {
        Ok(state::check_commit(records, commit)?)
    }

    /// Commits an active snapshot, if its layers are still those that were `checked`; a repeated call
    /// needs no `checked` and returns the recorded snapshot. With `files`, the barrier is called first.
    ///
    /// # Errors
    /// [`Error::Refused`] as [`Refusal`] lists, `Missing` if another snapshot has the key by now;
    /// [`Error::Barrier`], [`Error::Write`].
    pub fn commit(
        &self,
        commit: Commit,
        checked: Option<Checked>,
        files: bool,
    ) -> Result<Arc<Record>, Error> {
        let now = Timestamp::now();
        let class = if files {
            Class::Files(Files::Layers)
        } else {
            Class::Records
        };
        self.writer.write(class, move |records| {
            state::commit(records, commit, checked.as_ref(), now)
        })
    }

    /// Frees a key and marks its record removed; the caller deals with the directory.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or has children; [`Error::Write`].
    pub fn remove(&self, key: &Key) -> Result<Arc<Record>, Error> {
        let (key, shared) = (key.clone(), self.shared.clone());
        self.writer.write(Class::Records, move |records| {
            state::remove(records, &key, shared.removal_now())
        })
    }

    /// Changes labels, in order.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or its labels would exceed their limit;
    /// [`Error::Write`].
    pub fn update(&self, key: &Key, changes: Vec<LabelChange>) -> Result<Arc<Record>, Error> {
        let (key, now) = (key.clone(), Timestamp::now());
        self.writer.write(Class::Records, move |records| {
            state::update(records, &key, &changes, now)
        })
    }

    /// Records the disk usage of a committed layer; no change if it is gone.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn set_usage(&self, id: LayerId, usage: Usage) -> Result<(), Error> {
        self.writer.write(Class::Records, move |records| {
            state::measured(records, id, usage)
        })
    }

    /// Restores a removed snapshot under its old key.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there, its key is taken or its parent is gone.
    pub fn restore_removed(&self, id: LayerId) -> Result<Arc<Record>, Error> {
        let now = Timestamp::now();
        self.writer.write(Class::Records, move |records| {
            state::restore(records, id, now)
        })
    }

    /// Quarantines a layer, for the reason `why`; no change if it is gone.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn set_quarantine(&self, id: LayerId, why: String) -> Result<(), Error> {
        self.writer.write(Class::Records, move |records| {
            state::quarantined(records, id, why)
        })
    }

    /// Drops the records of removed layers whose directories are gone. Their deletion becomes durable
    /// first: a directory that comes back after a power cut has a record.
    ///
    /// # Errors
    /// [`Error::Barrier`], [`Error::Write`].
    pub fn drop_records(&self, ids: Vec<LayerId>) -> Result<(), Error> {
        self.writer
            .write(Class::Files(Files::Layers), move |records| {
                state::drop_records(records, &ids)
            })
    }

    /// Commits an empty change; does not return while the disk hangs.
    ///
    /// # Errors
    /// [`Error::Write`] if writes fail.
    pub fn ping(&self) -> Result<(), Error> {
        self.writer.reserve()
    }

    /// Hands out an id. Ids are reserved with every commit; a call waits for a write only when a burst
    /// has outrun the reserve.
    ///
    /// # Errors
    /// [`Error::Write`] if new ids could not be reserved.
    pub fn fresh_id(&self) -> Result<LayerId, Error> {
        let id = self.shared.next_id.fetch_add(1, Ordering::AcqRel);
        if id >= self.shared.ids_below.load(Ordering::Acquire) {
            self.writer.reserve()?;
        }
        Ok(LayerId(id))
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<Key, LayerId>> {
        lock_claims(&self.shared)
    }
}

/// The lock file, held until writer and exporter have ended.
#[derive(Debug)]
struct HeldLock {
    shared: Arc<Shared>,
    lock: Lock,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        call_phase::enter("noting the orderly end");
        if self.shared.failed.load(Ordering::Acquire) {
            warn!("the store did not end in order: its last write failed");
        } else {
            self.lock.ended_cleanly();
        }
    }
}
