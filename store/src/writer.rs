//! Group commit: one caller at a time, the leader, writes for all waiting callers.
//!
//! It takes the waiting requests, decides each against the newest state, writes one entry of the
//! write-ahead log, waits for the disk once, publishes the new state, and answers the requests. It
//! never waits for a fuller batch: while the disk works, the next batch gathers, and its first
//! caller becomes the next leader. A lone caller writes on its own thread, without a context switch. A
//! refusal also waits for the flush, because it may rest on a change of the same batch.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::{fmt, mem};

use parking_lot::{Mutex, MutexGuard};
use tracing::error;

use crate::batches::{Answer, Batches, Class, Request};
use crate::call_phase;
use crate::error::Error;
use crate::records::Records;
use crate::state::{Decision, Edit};

/// Requests in one batch, at most.
const BATCH_MAX: usize = 256;
/// Phase of a call that waits for its batch.
const QUEUED: &str = "waiting for the changes before it to be durable";

/// Message to a waiting caller.
enum Message<T> {
    /// It leads now: it writes the waiting requests, its own among them.
    Lead,
    Done(Result<T, Error>),
}

/// The group commit of a store.
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    /// Locked by the leader; `None` after the end.
    batches: Mutex<Option<Batches>>,
}

/// Waiting requests in the order of arrival.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// Set while there is a leader, or a caller was told to lead.
    is_led: bool,
    /// Set once a leader panicked; there will be none again.
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

    /// Queues a request and blocks until its outcome is durable.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        class: Class,
        decide: impl FnOnce(&Records) -> Decision<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, messages) = channel();
        let (refuse, lead) = (reply.clone(), reply.clone());
        let request = Request {
            decide: Box::new(move |records| decided(decide(records), reply)),
            fail: Box::new(move |error| drop(refuse.send(Message::Done(Err(error))))),
            lead: Box::new(move || drop(lead.send(Message::Lead))),
            class,
            phase: call_phase::of_this_thread(),
        };
        request.enter(QUEUED);
        if self.enqueue(request)? {
            self.lead();
        }
        let outcome = loop {
            match messages.recv() {
                Ok(Message::Lead) => self.lead(),
                Ok(Message::Done(outcome)) => break outcome,
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

    /// Queues a request; true if its caller is to lead.
    fn enqueue(&self, request: Request) -> Result<bool, Error> {
        let mut queue = lock(&self.queue);
        if queue.is_broken {
            return Err(Error::Closing);
        }
        queue.waiting.push_back(request);
        Ok(!mem::replace(&mut queue.is_led, true))
    }

    /// Writes one batch, appoints the next leader, and answers.
    fn lead(&self) {
        let unwound = Unwound(self);
        let mut batches = lock(&self.batches);
        let first: VecDeque<_> = {
            let mut queue = lock(&self.queue);
            let count = queue.waiting.len().min(BATCH_MAX);
            queue.waiting.drain(..count).collect()
        };
        let ready = match batches.as_mut() {
            Some(batches) => batches.serve(first),
            None => Vec::new(),
        };
        drop(batches);
        let mut queue = lock(&self.queue);
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

/// Guard that fails all waiting requests if the leader panics.
struct Unwound<'w>(&'w Writer);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        error!("the store's writer panicked");
        let mut queue = lock(&self.0.queue);
        queue.is_broken = true;
        queue.waiting.clear();
    }
}

/// Closes the database. No caller waits any more.
impl Drop for Writer {
    fn drop(&mut self) {
        if lock(&self.queue).is_broken {
            return;
        }
        call_phase::enter("closing the database");
        if let Some(batches) = lock(&self.batches).take() {
            batches.end();
        }
    }
}

/// Locks a mutex also after a panic: `is_broken` keeps the state from being used then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Splits a decision into the edits to write and the answer to give once they are durable.
fn decided<T: Send + 'static>(
    decision: Decision<T>,
    reply: Sender<Message<T>>,
) -> (Vec<Edit>, Answer) {
    let (edits, result) = match decision {
        Ok((edits, value)) => (edits, Ok(value)),
        Err(refusal) => (Vec::new(), Err(Error::from(refusal))),
    };
    let answer =
        move |durable: Result<(), Error>| drop(reply.send(Message::Done(durable.and(result))));
    (edits, Box::new(answer))
}
