//! The usage scanner: measures the disk usage of layers on threads of its own.
//!
//! A requested usage comes from a walk that began after the request: a walk under way may have passed
//! files written since. All requests made before a walk begins share it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use layerd_drivers::Driver;
use layerd_store::{Kind, LayerId, Store, Usage};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::warn;

use crate::call_phase::enter;
use crate::last_usage::LastUsage;
use crate::{Error, LayerError, slot};

/// Number of threads: two, so that one huge layer does not delay the others.
const THREADS: usize = 2;

/// The threads and their queue.
#[derive(Debug)]
pub(crate) struct UsageScanner {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    driver: Arc<dyn Driver>,
    last: Arc<LastUsage>,
    queue: Mutex<Queue>,
    /// Signalled when the queue grows, and at the end.
    asked: Condvar,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<LayerId>,
    /// Walks that have not begun.
    waiting: HashMap<LayerId, Arc<Walk>>,
}

/// One walk, with its waiting calls.
#[derive(Debug, Default)]
struct Walk {
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

type Outcome = Result<Usage, Arc<layerd_mounts::Error>>;

impl UsageScanner {
    /// Starts the threads. Committed layers without a recorded usage are queued first.
    pub(crate) fn start(
        store: Arc<Store>,
        driver: Arc<dyn Driver>,
        last: Arc<LastUsage>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            store,
            driver,
            last,
            queue: Mutex::default(),
            asked: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let mut usage_scanner = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let shared = usage_scanner.shared.clone();
            let thread = thread::Builder::new()
                .name("meter".into())
                .spawn(move || shared.run());
            usage_scanner
                .threads
                .push(thread.map_err(|cause| Error::Thread {
                    name: "meter",
                    cause,
                })?);
        }
        let view = usage_scanner.shared.store.records();
        let unmeasured = |kind, usage: Option<Usage>| kind == Kind::Committed && usage.is_none();
        for record in view
            .iter()
            .filter(|record| unmeasured(record.kind, record.usage))
        {
            usage_scanner.measure(record.id);
        }
        Ok(usage_scanner)
    }

    /// Queues a layer without waiting.
    pub(crate) fn measure(&self, id: LayerId) {
        self.ask(id);
    }

    /// Waits for a walk that begins from now on. Costs one stat(2) a file.
    pub(crate) fn exact(&self, id: LayerId) -> Result<Usage, Error> {
        let outcome = self
            .ask(id)
            .wait(None)
            .unwrap_or(Err(Arc::new(layerd_mounts::Error::Stopped)));
        outcome.map_err(|cause| measure_error(id, cause))
    }

    /// As [`exact`](Self::exact), but after `patience` returns the result of the last finished walk, if
    /// there is one.
    pub(crate) fn recent(&self, id: LayerId, patience: Duration) -> Result<Usage, Error> {
        let walk = self.ask(id);
        if let Some(outcome) = walk.wait(Some(patience)) {
            return outcome.map_err(|cause| measure_error(id, cause));
        }
        match self.last(id) {
            Some(usage) => Ok(usage),
            None => self.exact(id),
        }
    }

    /// Result of the last finished walk of a writable layer.
    pub(crate) fn last(&self, id: LayerId) -> Option<Usage> {
        self.shared.last.get(id)
    }

    /// Drops the last usage of a deleted layer.
    pub(crate) fn forget(&self, id: LayerId) {
        self.shared.last.forget(id);
    }

    /// Cancels all walks; calls that wait for one get [`Error::Stopping`].
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut self.shared.queue().waiting);
        for walk in waiting.into_values() {
            walk.end(Err(Arc::new(layerd_mounts::Error::Stopped)));
        }
        self.shared.asked.notify_all();
    }

    fn ask(&self, id: LayerId) -> Arc<Walk> {
        let mut queue = self.shared.queue();
        if let Some(walk) = queue.waiting.get(&id) {
            return walk.clone();
        }
        let walk = Arc::new(Walk::default());
        if self.shared.is_stopping() {
            walk.end(Err(Arc::new(layerd_mounts::Error::Stopped)));
            return walk;
        }
        queue.waiting.insert(id, walk.clone());
        queue.order.push_back(id);
        self.shared.asked.notify_one();
        walk
    }
}

impl Drop for UsageScanner {
    fn drop(&mut self) {
        enter("ending the measuring of a layer");
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a meter thread panicked");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some((id, walk)) = self.next() {
            let was_final = self.is_committed(id);
            let outcome = self.driver.usage(slot(id), &|| !self.is_stopping());
            let outcome = outcome.map_err(Arc::new).map(|usage| Usage {
                bytes: usage.bytes,
                inodes: usage.inodes,
            });
            if let Ok(usage) = outcome {
                self.keep(id, usage, was_final);
            }
            walk.end(outcome);
        }
    }

    /// Waits for the next queued walk; `None` at the end.
    fn next(&self) -> Option<(LayerId, Arc<Walk>)> {
        let mut queue = self.queue();
        loop {
            if self.is_stopping() {
                return None;
            }
            let first = queue.order.pop_front();
            if let Some(id) = first
                && let Some(walk) = queue.waiting.remove(&id)
            {
                return Some((id, walk));
            }
            if first.is_none() {
                self.asked.wait(&mut queue);
            }
        }
    }

    fn is_committed(&self, id: LayerId) -> bool {
        let view = self.store.records();
        view.get(id)
            .is_some_and(|record| record.kind == Kind::Committed)
    }

    /// Stores the result of a walk. That of a layer committed before the walk began is final and is
    /// recorded. That of a layer committed during the walk may miss its last writes, and must not
    /// replace the one taken by Commit. A failed write of the record is harmless: the layer is measured
    /// again at the next start.
    fn keep(&self, id: LayerId, usage: Usage, was_final: bool) {
        let view = self.store.records();
        match view.get(id).map(|record| record.kind) {
            Some(Kind::Committed) if was_final => {
                self.last.forget(id);
                if let Err(cause) = self.store.set_usage(id, usage) {
                    warn!(error = &cause as &dyn std::error::Error, %id, "keep the figure of a layer");
                }
            }
            Some(Kind::Committed) => self.last.forget(id),
            Some(_) => self.last.set(id, usage),
            None => {}
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The queue is whole even if a holder panicked: each use is a few inserts or removes.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Walk {
    fn end(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.ended.notify_all();
    }

    /// Waits for the result; `None` if it did not come within `patience`.
    fn wait(&self, patience: Option<Duration>) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        let pending = |outcome: &mut Option<Outcome>| outcome.is_none();
        match patience {
            None => self.ended.wait_while(&mut outcome, pending),
            Some(patience) => {
                self.ended.wait_while_for(&mut outcome, pending, patience);
            }
        }
        outcome.clone()
    }
}

fn measure_error(id: LayerId, cause: Arc<layerd_mounts::Error>) -> Error {
    match *cause {
        layerd_mounts::Error::Stopped => Error::Stopping,
        _ => Error::Layer(LayerError::Measure { id, cause }),
    }
}

#[cfg(test)]
mod tests;
