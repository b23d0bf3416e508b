//! Worker threads whose work may hang or panic, and which can be abandoned.
//!
//! sled waits for its own log threads without a limit, and after a failed write of theirs it may
//! wait for ever. The writer of the store must outlive that, or it could never take a change again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use crate::stall::{self, Probe};

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A value owned by a thread of its own.
#[derive(Debug)]
pub(crate) struct WorkerThread<T> {
    jobs: Sender<Job<T>>,
    ended: Receiver<()>,
}

impl<T: Send + 'static> WorkerThread<T> {
    pub(crate) fn new(name: &str, mut inner: T) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job<T>>();
        let (end, ended) = channel();
        thread::Builder::new().name(name.into()).spawn(move || {
            for job in queue {
                if catch_unwind(AssertUnwindSafe(|| job(&mut inner))).is_err() {
                    break;
                }
            }
            // It may panic again over what made it panic before.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(inner)));
            drop(end);
        })?;
        Ok(Self { jobs, ended })
    }

    /// Queues `act` behind everything that was started before.
    pub(crate) fn start<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Pending<R> {
        let (reply, outcome) = channel();
        let job: Job<T> = Box::new(move |inner| drop(reply.send(act(inner))));
        // If the thread is gone, so is now the other end of `outcome`.
        let _ = self.jobs.send(job);
        Pending(outcome)
    }

    /// Drops the value on its thread. Waits for that as [`Pending::wait`] does; false after a timeout,
    /// which leaves the thread running.
    pub(crate) fn close(self, limit: Duration, disk: Probe) -> bool {
        drop(self.jobs);
        // The thread drops its end without a message.
        stall::wait(&self.ended, limit, disk);
        matches!(self.ended.try_recv(), Err(TryRecvError::Disconnected))
    }
}

/// A queued job.
#[derive(Debug)]
pub(crate) struct Pending<R>(Receiver<R>);

impl<R> Pending<R> {
    /// Waits for its result; `None` if it panicked or takes longer than `limit` without waiting for
    /// the disk that `disk` probes. The worker is of no use after that.
    pub(crate) fn wait(&self, limit: Duration, disk: Probe) -> Option<R> {
        stall::wait(&self.0, limit, disk)
    }
}

/// Runs `act` on a new thread; `None` as for [`Pending::wait`].
pub(crate) fn run_with_timeout<R: Send + 'static>(
    limit: Duration,
    disk: Probe,
    act: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    let worker_thread = WorkerThread::new("store-apart", ()).ok()?;
    worker_thread.start(move |()| act()).wait(limit, disk)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{WorkerThread, run_with_timeout};
    use crate::stall::Probe;

    const LIMIT: Duration = Duration::from_secs(20);

    fn disk() -> Probe {
        Box::new(|| ())
    }

    #[test]
    fn gives_up_what_hangs_and_what_panics() {
        let worker = WorkerThread::new("test", 1).unwrap();
        let two = worker.start(|inner| *inner + 1);
        assert_eq!(two.wait(LIMIT, disk()), Some(2));
        let panicked = worker.start(|_| panic!("told to"));
        assert_eq!(panicked.wait(LIMIT, disk()), None::<()>);
        let late = worker.start(|_| ());
        assert_eq!(late.wait(LIMIT, disk()), None, "it is gone");
        assert!(worker.close(LIMIT, disk()));
        let slow = WorkerThread::new("test", ()).unwrap();
        let short = Duration::from_millis(200);
        let sleep = slow.start(move |()| std::thread::sleep(short * 20));
        assert_eq!(sleep.wait(short, disk()), None);
        assert!(!slow.close(short, disk()));
        assert_eq!(run_with_timeout(LIMIT, disk(), || 3), Some(3));
    }
}
