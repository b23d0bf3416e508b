//! Group commit: one thread owns all writes.
//!
//! It takes what waits, decides each request against the newest state, writes one transaction,
//! waits for the disk once, publishes the new state, and answers everybody. It never waits for a
//! fuller batch: while the disk works, the next batch gathers by itself. A refusal also waits for
//! the flush, because it may rest on a change of the same batch.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tracing::error;

use crate::codec;
use crate::db::{Db, Rows};
use crate::error::Error;
use crate::state::{Decision, Edit};
use crate::store::{Barrier, Shared};
use crate::view::View;

/// Requests in one batch, at most.
const BATCH_MAX: usize = 256;
/// Bytes of rows after which a batch takes no further request.
const BATCH_BYTES: usize = 256 * 1024;
/// Requests that may wait; further callers wait to be let in.
const QUEUE: usize = 1024;
/// How far ahead of what was handed out ids are reserved with every commit.
const ID_RESERVE: u64 = 256;

type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;
type Decide = Box<dyn FnOnce(&View) -> (Vec<Edit>, Answer) + Send>;

struct Request {
    decide: Decide,
    /// Answers without deciding.
    fail: Box<dyn FnOnce(Error) + Send>,
    needs_barrier: bool,
}

/// The callers' end of the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    /// There until the end; its absence ends the thread.
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(db: Db, shared: Arc<Shared>, barrier: Barrier) -> std::io::Result<Self> {
        let (requests, queue) = sync_channel(QUEUE);
        let batches = Batches {
            db,
            shared,
            barrier,
            broken: false,
        };
        let thread = thread::Builder::new().name("store-writer".into());
        let thread = thread.spawn(move || batches.run(&queue))?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    /// Has `decide` decided, and waits until the outcome is durable.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        needs_barrier: bool,
        decide: impl FnOnce(&View) -> Decision<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, outcome) = sync_channel(1);
        let refuse = reply.clone();
        let request = Request {
            decide: Box::new(move |view| decided(decide(view), reply)),
            fail: Box::new(move |error| drop(refuse.send(Err(error)))),
            needs_barrier,
        };
        let requests = self.requests.as_ref().ok_or(Error::Closing)?;
        requests.send(request).map_err(|_| Error::Closing)?;
        outcome.recv().unwrap_or(Err(Error::Closing))
    }

    /// Waits until the ids handed out so far are reserved on disk.
    pub(crate) fn reserve(&self) -> Result<(), Error> {
        self.write(false, |_| Ok((Vec::new(), ())))
    }
}

/// Waits until what was asked for is written and the database is closed.
impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            error!("the store's writer panicked");
        }
    }
}

/// Splits a decision into what to write and the answer to give once that is durable.
fn decided<T: Send + 'static>(
    decision: Decision<T>,
    reply: SyncSender<Result<T, Error>>,
) -> (Vec<Edit>, Answer) {
    let (edits, result) = match decision {
        Ok((edits, value)) => (edits, Ok(value)),
        Err(refusal) => (Vec::new(), Err(Error::from(refusal))),
    };
    let answer = move |durable: Result<(), Error>| drop(reply.send(durable.and(result)));
    (edits, Box::new(answer))
}

struct Batches {
    db: Db,
    shared: Arc<Shared>,
    barrier: Barrier,
    broken: bool,
}

impl Batches {
    fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let mut waiting = VecDeque::from([first]);
            waiting.extend(queue.try_iter().take(BATCH_MAX - 1));
            self.pass_barrier(&mut waiting);
            while !waiting.is_empty() {
                self.batch(&mut waiting);
            }
        }
        if !self.broken {
            self.give_ids_back();
        }
    }

    /// Directories are durable before their records: one barrier serves all who wait.
    fn pass_barrier(&self, waiting: &mut VecDeque<Request>) {
        if !waiting.iter().any(|request| request.needs_barrier) {
            return;
        }
        let Err(cause) = (self.barrier)() else { return };
        let (failed, rest) = mem::take(waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|request| request.needs_barrier);
        waiting.extend(rest);
        for request in failed {
            let cause = Arc::clone(&cause);
            (request.fail)(Error::Barrier { cause });
        }
    }

    /// Writes as many requests as one batch takes.
    fn batch(&mut self, waiting: &mut VecDeque<Request>) {
        let mut draft = Draft::new(&self.shared.view.load());
        while draft.bytes < BATCH_BYTES
            && let Some(request) = waiting.pop_front()
        {
            draft.take(request);
        }
        let written = self.write(&draft.rows);
        if written.is_ok() {
            self.shared.view.store(Arc::new(draft.view));
        }
        for answer in draft.answers {
            answer(written.clone());
        }
    }

    fn write(&mut self, rows: &Rows) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Poisoned);
        }
        let ids_ran_out = self.shared.next_id.load(Ordering::Acquire)
            > self.shared.ids_below.load(Ordering::Acquire);
        if rows.is_empty() && !ids_ran_out {
            return Ok(());
        }
        let written = self.commit(rows, ID_RESERVE);
        if let Err(error) = &written {
            self.broken = true;
            self.shared.failed.store(true, Ordering::Release);
            error!(
                error = error as &dyn std::error::Error,
                "the database failed; no change is taken any more"
            );
        }
        written
    }

    fn commit(&mut self, rows: &Rows, reserve: u64) -> Result<(), Error> {
        let below = self.shared.next_id.load(Ordering::Acquire) + reserve;
        self.db.commit(rows, below)?;
        self.shared.ids_below.store(below, Ordering::Release);
        Ok(())
    }

    /// After a clean stop the reserved ids that nobody took are free again.
    fn give_ids_back(&mut self) {
        if let Err(error) = self.commit(&Rows::new(), 0).and_then(|()| self.db.seal()) {
            error!(
                error = &error as &dyn std::error::Error,
                "the last write of the store failed"
            );
        }
    }
}

/// A batch being decided.
struct Draft {
    view: View,
    rows: Rows,
    bytes: usize,
    answers: Vec<Answer>,
}

impl Draft {
    fn new(view: &View) -> Self {
        Self {
            view: view.clone(),
            rows: Rows::new(),
            bytes: 0,
            answers: Vec::new(),
        }
    }

    fn take(&mut self, request: Request) {
        let (edits, answer) = (request.decide)(&self.view);
        for edit in &edits {
            self.add_rows(edit);
            edit.apply(&mut self.view);
        }
        self.answers.push(answer);
    }

    /// Adds the rows in which the edit differs from what the record was.
    fn add_rows(&mut self, edit: &Edit) {
        let (id, new) = match edit {
            Edit::Put(record) => (record.id, codec::rows(record)),
            Edit::Forget(id) => (*id, BTreeMap::new()),
        };
        let old = self
            .view
            .stored(id)
            .map(|record| codec::rows(record))
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
