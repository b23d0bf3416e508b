//! Bounds on the calls of one kind of work that run and that wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::traces;

/// Phase noted for a queued call.
const QUEUED: &str = "waiting for other calls to end";

/// Permits and queue of one kind of work.
#[derive(Debug)]
pub(super) struct Pool {
    permits: Arc<Semaphore>,
    /// Permits to wait.
    queue: Arc<Semaphore>,
    permits_max: usize,
    queue_max: usize,
    /// Description of its calls, for messages.
    work: &'static str,
}

impl Pool {
    pub(super) fn new(permits_max: usize, queue_max: usize, work: &'static str) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits_max)),
            queue: Arc::new(Semaphore::new(queue_max)),
            permits_max,
            queue_max,
            work,
        }
    }

    /// Calls that have a permit.
    pub(super) fn running(&self) -> usize {
        let free = self.permits.available_permits();
        self.permits_max.saturating_sub(free)
    }

    /// Calls that wait for one.
    pub(super) fn queued(&self) -> usize {
        let free = self.queue.available_permits();
        self.queue_max.saturating_sub(free)
    }

    /// Takes a permit, in the order of arrival.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the queue is full, DEADLINE_EXCEEDED if `until` passes first.
    pub(super) async fn enter(&self, until: Instant) -> Result<OwnedSemaphorePermit, Status> {
        let permits = self.permits.clone();
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let begun = std::time::Instant::now();
        let (most, queue, work) = (self.permits_max, self.queue_max, self.work);
        let Ok(_waiting) = self.queue.try_acquire() else {
            let text = format!(
                "{most} calls that {work} are under way and {queue} more wait; try again later"
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        };
        let entered = timeout_at(until, permits.acquire_owned()).await;
        traces::waited(QUEUED, begun);
        match entered {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Status::unavailable("layerd is stopping")),
            Err(_) => {
                let text = format!(
                    "it waited for one of {most} calls that {work} to end; nothing was done"
                );
                Err(Status::new(Code::DeadlineExceeded, text))
            }
        }
    }
}
