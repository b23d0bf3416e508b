//! One batch of changes: decided against the newest state, written, published.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{io, mem};

use metrics::histogram;
use tracing::{error, warn};

use crate::call_phase::CallPhase;
use crate::codec;
use crate::database::{Database, LIMIT};
use crate::db::write_error;
use crate::db::{Db, Opened};
use crate::error::Error;
use crate::folder::io_error;
use crate::records::Records;
use crate::shared::{Files, Options, Shared};
use crate::space::Space;
use crate::stall::probe;
use crate::state::Edit;
use crate::wal::Rows;
use crate::worker_thread::run_with_timeout;

/// Bytes of rows after which a batch takes no further request.
const BATCH_BYTES: usize = 256 * 1024;
/// Ids reserved with every commit, above the highest that was handed out.
const ID_RESERVE: u64 = 256;
/// Least time between two attempts to rebuild a failed database.
const REBUILD_PAUSE: Duration = Duration::from_secs(1);
/// Time left for closing a database whose commit has used up [`LIMIT`]: all callers wait meanwhile.
const CLOSE_LIMIT_MIN: Duration = Duration::from_millis(500);
/// Limit for rebuilding a database.
const REBUILD_LIMIT: Duration = Duration::from_secs(120);

/// Phases of a call that waits for its batch.
const BARRIER: &str = "waiting for directories and content to be durable";
const RECORDING: &str = "waiting for its record to be durable";
const TOGETHER: &str = "waiting for directories, content and its record to be durable";

pub(crate) type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// An answer and the outcome to give it.
pub(crate) type Ready = (Answer, Result<(), Error>);
pub(crate) type Decide = Box<dyn FnOnce(&Records) -> (Vec<Edit>, Answer) + Send>;

/// Needs of a request besides the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing: it changes or drops existing records.
    Records,
    /// Files durable before the record.
    Files(Files),
    /// Free space, since it adds a record.
    New,
    /// Both.
    NewWithFiles(Files),
}

impl Class {
    fn files(self) -> Option<Files> {
        match self {
            Self::Files(files) | Self::NewWithFiles(files) => Some(files),
            Self::Records | Self::New => None,
        }
    }

    fn needs_space(self) -> bool {
        matches!(self, Self::New | Self::NewWithFiles(_))
    }
}

/// A change that a caller waits for.
pub(crate) struct Request {
    pub(crate) decide: Decide,
    /// Answers without deciding.
    pub(crate) fail: Box<dyn FnOnce(Error) + Send>,
    /// Tells its caller to lead.
    pub(crate) lead: Box<dyn FnOnce() + Send>,
    pub(crate) class: Class,
    /// Phase of the call that waits for it.
    pub(crate) phase: Option<Arc<CallPhase>>,
}

impl Request {
    pub(crate) fn enter(&self, doing: &'static str) {
        if let Some(phase) = &self.phase {
            phase.enter(doing);
        }
    }
}

/// Writes batches, for one caller at a time.
pub(crate) struct Batches {
    /// `None` after a failed write, until it is rebuilt.
    database: Option<Database>,
    folder: PathBuf,
    space: Space,
    shared: Arc<Shared>,
    options: Options,
    rebuild_after: Instant,
    /// Cause of the last failed write.
    last_failure: io::ErrorKind,
    /// Set if the last failed write released the reserve.
    is_released: bool,
}

impl Batches {
    pub(crate) fn new(
        opened: Opened,
        folder: &Path,
        space: Space,
        shared: Arc<Shared>,
        options: Options,
    ) -> io::Result<Self> {
        Ok(Self {
            database: Some(Database::new(opened, folder)?),
            folder: folder.to_owned(),
            space,
            shared,
            options,
            rebuild_after: Instant::now(),
            last_failure: io::ErrorKind::Other,
            is_released: false,
        })
    }

    /// Writes everything in `waiting`. The caller gives the answers, after the writer's locks are released.
    pub(crate) fn serve(&mut self, mut waiting: VecDeque<Request>) -> Vec<Ready> {
        self.shared.writing_since(Some(Instant::now()));
        self.refuse_without_space(&mut waiting);
        self.pass_barriers(&mut waiting);
        let mut ready = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            self.batch(&mut waiting, &mut ready);
        }
        self.shared.writing_since(None);
        ready
    }

    fn refuse_without_space(&mut self, waiting: &mut VecDeque<Request>) {
        if waiting.iter().any(|request| request.class.needs_space()) && self.space.look() {
            let folder = &self.folder;
            let full = || Error::Full {
                folder: folder.clone(),
            };
            fail_all(waiting, Class::needs_space, full);
        }
    }

    /// Makes files durable before the records that rely on them: one barrier of each kind for all waiting
    /// requests, none where files and records share a journal. Only records that rely on it fail with it:
    /// volumes may be on a disk of their own.
    fn pass_barriers(&self, waiting: &mut VecDeque<Request>) {
        if self.shares_journal() {
            return;
        }
        for files in Files::ALL {
            self.pass_barrier(files, waiting);
        }
    }

    fn pass_barrier(&self, files: Files, waiting: &mut VecDeque<Request>) {
        let relies = |class: Class| class.files() == Some(files);
        let relying = waiting.iter().filter(|request| relies(request.class));
        if relying.map(|request| request.enter(BARRIER)).count() == 0 {
            return;
        }
        let begun = Instant::now();
        let passed = (self.options.barrier)(files);
        histogram!("layerd_barrier_seconds").record(begun.elapsed());
        if let Err(cause) = passed {
            let failed = || Error::Barrier {
                cause: cause.clone(),
            };
            fail_all(waiting, relies, failed);
        }
    }

    /// True if one journal of a file system orders files and records. False without a database: the
    /// rebuilt one may be on another device.
    fn shares_journal(&self) -> bool {
        let database = self.database.as_ref();
        database
            .is_some_and(|database| Some(database.device()) == self.options.shared_journal_device)
    }

    /// Writes requests up to [`BATCH_BYTES`] as one commit.
    fn batch(&mut self, waiting: &mut VecDeque<Request>, ready: &mut Vec<Ready>) {
        let mut draft = Draft::new(&self.shared.records.load(), self.shares_journal());
        while draft.bytes < BATCH_BYTES
            && let Some(request) = waiting.pop_front()
        {
            draft.take(request);
        }
        let begun = Instant::now();
        let written = self.write(&mut draft);
        if matches!(written, Ok(Some(_))) {
            histogram!("layerd_commit_seconds").record(begun.elapsed());
            if draft.after_files && draft.shares_journal {
                histogram!("layerd_barrier_seconds").record(begun.elapsed());
            }
            histogram!("layerd_commit_batch_changes").record(draft.served());
        }
        if let Ok(Some(sequence)) = written {
            draft.records.set_sequence(sequence);
            self.shared.publish(draft.records);
        }
        let written = written.map(drop);
        let answers = draft.answers.into_iter();
        ready.extend(answers.map(|answer| (answer, written.clone())));
    }

    /// Answers the number of the commit, or `None` if there was nothing to commit. On a full disk, a
    /// draft with more than new records is tried once more after the reserve was released.
    fn write(&mut self, draft: &mut Draft) -> Result<Option<u64>, Error> {
        let rows = mem::take(&mut draft.rows);
        let ids_ran_out = self.shared.next_id.load(Ordering::Acquire)
            > self.shared.ids_below.load(Ordering::Acquire);
        if rows.is_empty() && !ids_ran_out && self.database.is_some() {
            return Ok(None);
        }
        let again = draft.frees.then(|| rows.clone());
        let mut written = self.try_to_commit(rows, draft);
        if let (Some(rows), Err(error)) = (again, &written)
            && error.is_full()
            && self.is_released
            && !self.shared.has_hung()
        {
            self.rebuild_after = Instant::now();
            written = self.try_to_commit(rows, draft);
        }
        written.map(Some)
    }

    fn try_to_commit(&mut self, rows: Rows, draft: &Draft) -> Result<u64, Error> {
        let begun = Instant::now();
        let written = self.commit(rows, ID_RESERVE, draft.after_files);
        self.is_released = false;
        if let Err(error) = &written {
            error!(
                error = error as &dyn std::error::Error,
                "the database failed"
            );
            self.shared.failed.store(true, Ordering::Release);
            self.last_failure = match error.is_full() {
                true => io::ErrorKind::StorageFull,
                false => io::ErrorKind::Other,
            };
            // Before it is closed, which may take space too.
            self.is_released = error.is_full() && draft.frees && self.space.release();
            self.close(LIMIT.saturating_sub(begun.elapsed()));
        }
        written
    }

    /// Closes the database, for at most `limit`: sled writes on drop, and after a failed write may panic
    /// or hang there.
    fn close(&mut self, limit: Duration) {
        let Some(database) = self.database.take() else {
            return;
        };
        if self.shared.has_hung() || !database.close(limit.max(CLOSE_LIMIT_MIN)) {
            self.give_up();
        }
    }

    /// Marks the store as hung until the process ends: sled's threads share locks across databases, so
    /// one hung database hangs every other one in the process.
    fn give_up(&self) {
        if !self.shared.hung.swap(true, Ordering::AcqRel) {
            error!("the database hangs; layerd must be started anew");
        }
    }

    fn commit(&mut self, rows: Rows, reserve: u64, after_files: bool) -> Result<u64, Error> {
        let below = self.shared.next_id.load(Ordering::Acquire) + reserve;
        // sled does not survive a log write for which there is no space.
        if self
            .database
            .as_ref()
            .is_none_or(Database::is_near_checkpoint)
            && self.space.look()
        {
            self.space.release();
        }
        if self.database.is_none() {
            self.database = Some(self.rebuild(below)?);
        }
        let after_files = after_files && self.shares_journal();
        let database = self.database.as_mut().ok_or_else(|| gone("it is closed"))?;
        let sequence = database.commit(rows, below, after_files)?;
        self.shared.ids_below.store(below, Ordering::Release);
        self.shared.failed.store(false, Ordering::Release);
        Ok(sequence)
    }

    /// Rebuilds the database from memory, which holds everything acknowledged: after a failed write the
    /// content of the disk is unknown.
    fn rebuild(&mut self, ids_below: u64) -> Result<Database, Error> {
        let now = Instant::now();
        if now < self.rebuild_after {
            let why = "an earlier write failed; the next try is due in a second";
            return Err(write_error(io::Error::new(self.last_failure, why)));
        }
        if self.shared.has_hung() {
            return Err(gone("the database hangs; layerd must be started anew"));
        }
        self.rebuild_after = now + REBUILD_PAUSE;
        let (records, folder) = (self.shared.records.load_full(), self.folder.clone());
        // The failed commit may be on disk after all; the new database must not seem older.
        let sequence = records.sequence().max(Db::last_sequence(&self.folder)) + 1;
        let built = run_with_timeout(REBUILD_LIMIT, probe(&self.folder), move || {
            let (opened, old) = Db::rebuild(&folder, &records, sequence, ids_below)?;
            Db::discard(&old)?;
            Ok(opened)
        });
        let opened = built.unwrap_or_else(|| {
            self.give_up();
            Err(gone("building the database anew hangs or panicked"))
        })?;
        warn!("the database was built anew after a failed write; nothing acknowledged was lost");
        Database::new(opened, &self.folder).map_err(io_error("start the thread of", &self.folder))
    }

    /// Closes the database in order: makes the files durable, returns unused reserved ids, checkpoints
    /// the log and seals it.
    pub(crate) fn end(mut self) {
        if self.database.is_none() {
            return;
        }
        // After an orderly end, no power cut takes back what was done after the last record.
        let files = Files::ALL.map(&self.options.barrier);
        let mut records = Records::clone(&self.shared.records.load());
        let last = self.commit(Rows::new(), 0, false);
        // On a full disk the commits stay in the write-ahead log.
        let is_low = self.space.look();
        let finish = |database: &mut Database| match is_low {
            true => database.seal(),
            false => database.finish(),
        };
        let finished = self.database.as_mut().map_or(Ok(()), finish);
        match last.and_then(|sequence| finished.map(|()| sequence)) {
            Ok(sequence) => {
                records.set_sequence(sequence);
                self.shared.publish(records);
            }
            Err(error) => {
                self.shared.failed.store(true, Ordering::Release);
                error!(
                    error = &error as &dyn std::error::Error,
                    "the last write of the store failed"
                );
            }
        }
        if let Some(cause) = files.into_iter().find_map(Result::err) {
            self.shared.failed.store(true, Ordering::Release);
            error!(
                error = &*cause as &dyn std::error::Error,
                "the last changes of files are not durable"
            );
        }
        self.close(LIMIT);
    }
}

/// A write error without an operating system's cause.
fn gone(why: &'static str) -> Error {
    Error::Write {
        cause: Arc::new(io::Error::other(why)),
    }
}

/// Fails the requests whose class `needs` the missing resource; the others stay.
fn fail_all(
    waiting: &mut VecDeque<Request>,
    needs: impl Fn(Class) -> bool,
    error: impl Fn() -> Error,
) {
    let all = mem::take(waiting).into_iter();
    let (failed, rest) = all.partition::<Vec<_>, _>(|request| needs(request.class));
    waiting.extend(rest);
    for request in failed {
        (request.fail)(error());
    }
}

/// A batch being decided.
struct Draft {
    records: Records,
    rows: Rows,
    bytes: usize,
    /// Set if a request relies on files; with `shares_journal` these become durable with the records.
    after_files: bool,
    shares_journal: bool,
    /// Set if a request does not only add a record: such batches may use the reserve.
    frees: bool,
    answers: Vec<Answer>,
}

impl Draft {
    fn new(records: &Records, shares_journal: bool) -> Self {
        Self {
            records: records.clone(),
            rows: Rows::new(),
            bytes: 0,
            after_files: false,
            shares_journal,
            frees: false,
            answers: Vec::new(),
        }
    }

    fn take(&mut self, request: Request) {
        let needs_files = request.class.files().is_some();
        self.after_files |= needs_files;
        self.frees |= !request.class.needs_space();
        request.enter(if needs_files && self.shares_journal {
            TOGETHER
        } else {
            RECORDING
        });
        let (edits, answer) = (request.decide)(&self.records);
        for edit in &edits {
            self.add_rows(edit);
            edit.apply(&mut self.records);
        }
        self.answers.push(answer);
    }

    /// Number of calls in this batch, for the metrics.
    fn served(&self) -> f64 {
        u32::try_from(self.answers.len()).map_or(f64::INFINITY, f64::from)
    }

    /// Adds the rows in which the edit differs from the present record.
    fn add_rows(&mut self, edit: &Edit) {
        let new = edit.after().map(codec::rows).unwrap_or_default();
        let old = edit
            .before(&self.records)
            .map(|item| codec::rows(&item))
            .unwrap_or_default();
        for (key, value) in &new {
            if old.get(key) != Some(value) {
                self.bytes += key.1.len() + value.len();
                self.rows.insert(key.clone(), Some(value.clone()));
            }
        }
        for (key, _) in old {
            if !new.contains_key(&key) {
                self.rows.insert(key, None);
            }
        }
    }
}
