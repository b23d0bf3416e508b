//! Group commit: one caller at a time writes for all who wait.
//!
//! It takes what waits, decides each request against the newest state, writes one entry of the journal,
//! waits for the disk once, publishes the new state, and answers everybody. It never waits for a
//! fuller batch: while the disk works, the next batch gathers by itself, and the first in it is
//! told to lead. A caller who is alone thus writes on its own thread, and wakes nobody. A refusal
//! also waits for the flush, because it may rest on a change of the same batch.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, mem};

use tracing::error;

use crate::batches::{Answer, Batches, Class, Request};
use crate::call_phase;
use crate::error::Error;
use crate::records::Records;
use crate::state::{Decision, Edit};

/// Requests in one batch, at most.
const BATCH_MAX: usize = 256;
/// Stage of a call that waits for its turn.
const QUEUED: &str = "waiting for the changes before it to be durable";

/// What a caller who waits is told.
enum Told<T> {
    /// To write what waits, its own request among it.
    Lead,
    Done(Result<T, Error>),
}

/// Writes for all callers.
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    /// Held by who leads; gone at the end.
    batches: Mutex<Option<Batches>>,
}

/// In the order of arrival.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// Somebody leads, or has been told to.
    is_led: bool,
    /// One who led panicked, and nobody will lead again.
    is_broken: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) fn new(batches: Batches) -> Self {
        Self {
            queue: Mutex::default(),
            batches: Mutex::new(Some(batches)),
        }
    }

    /// Has `decide` decided, and waits until the outcome is durable.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        class: Class,
        decide: impl FnOnce(&Records) -> Decision<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, told) = channel();
        let (refuse, lead) = (reply.clone(), reply.clone());
        let request = Request {
            decide: Box::new(move |records| decided(decide(records), reply)),
            fail: Box::new(move |error| drop(refuse.send(Told::Done(Err(error))))),
            lead: Box::new(move || drop(lead.send(Told::Lead))),
            class,
            phase: call_phase::of_this_thread(),
        };
        request.enter(QUEUED);
        if self.enqueue(request)? {
            self.lead();
        }
        let outcome = loop {
            match told.recv() {
                Ok(Told::Lead) => self.lead(),
                Ok(Told::Done(outcome)) => break outcome,
                Err(_) => break Err(Error::Closing),
            }
        };
        call_phase::enter(call_phase::WORKING);
        outcome
    }

    /// Waits until the ids handed out so far are reserved on disk.
    pub(crate) fn reserve(&self) -> Result<(), Error> {
        self.write(Class::Records, |_| Ok((Vec::new(), ())))
    }

    /// Answers whether the caller is to lead.
    fn enqueue(&self, request: Request) -> Result<bool, Error> {
        let mut queue = held(&self.queue);
        if queue.is_broken {
            return Err(Error::Closing);
        }
        queue.waiting.push_back(request);
        Ok(!mem::replace(&mut queue.is_led, true))
    }

    /// Writes what waits, tells the next who waits to lead, and answers.
    fn lead(&self) {
        let unwound = Unwound(self);
        let mut batches = held(&self.batches);
        let first: VecDeque<_> = {
            let mut queue = held(&self.queue);
            let count = queue.waiting.len().min(BATCH_MAX);
            queue.waiting.drain(..count).collect()
        };
        let ready = match batches.as_mut() {
            Some(batches) => batches.serve(first),
            None => Vec::new(),
        };
        drop(batches);
        let mut queue = held(&self.queue);
        match queue.waiting.front_mut() {
            Some(next) => mem::replace(&mut next.lead, Box::new(|| ()))(),
            None => queue.is_led = false,
        }
        drop(queue);
        for (answer, outcome) in ready {
            answer(outcome);
        }
        mem::forget(unwound);
    }
}

/// Lets nobody wait for one who panicked.
struct Unwound<'w>(&'w Writer);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        error!("the store's writer panicked");
        let mut queue = held(&self.0.queue);
        queue.is_broken = true;
        queue.waiting.clear();
    }
}

/// Waits until the database is closed. Nobody waits for an answer any more.
impl Drop for Writer {
    fn drop(&mut self) {
        if held(&self.queue).is_broken {
            return;
        }
        if let Some(batches) = held(&self.batches).take() {
            batches.end();
        }
    }
}

/// What one who panicked held is not used again.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Splits a decision into what to write and the answer to give once that is durable.
fn decided<T: Send + 'static>(
    decision: Decision<T>,
    reply: Sender<Told<T>>,
) -> (Vec<Edit>, Answer) {
    let (edits, result) = match decision {
        Ok((edits, value)) => (edits, Ok(value)),
        Err(refusal) => (Vec::new(), Err(Error::from(refusal))),
    };
    let answer =
        move |durable: Result<(), Error>| drop(reply.send(Told::Done(durable.and(result))));
    (edits, Box::new(answer))
}
