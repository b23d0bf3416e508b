//! Runs what may hang or panic on a thread that can be given up.
//!
//! sled waits for its own log threads without a limit, and when one of their writes fails, now and
//! then nobody wakes it. The writer of the store must outlive that, or no change could ever be
//! made again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Something that lives on a thread of its own.
#[derive(Debug)]
pub(crate) struct Apart<T> {
    jobs: Sender<Job<T>>,
    ended: Receiver<()>,
}

impl<T: Send + 'static> Apart<T> {
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

    /// Has `act` run after all that was started before.
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

    /// Drops it on its thread and waits for that, but no longer than `limit`; answers whether it
    /// ended.
    pub(crate) fn close(self, limit: Duration) -> bool {
        drop(self.jobs);
        let waited = self.ended.recv_timeout(limit);
        !matches!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout))
    }
}

/// What is being run.
#[derive(Debug)]
pub(crate) struct Pending<R>(Receiver<R>);

impl<R> Pending<R> {
    /// Waits for it; `None` if it panicked or takes longer than `limit`. After that nothing more
    /// can be had from where it runs.
    pub(crate) fn wait(&self, limit: Duration) -> Option<R> {
        self.0.recv_timeout(limit).ok()
    }
}

/// Runs `act` on a thread of its own; `None` if it panicked or took longer than `limit`.
pub(crate) fn within<R: Send + 'static>(
    limit: Duration,
    act: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    let apart = Apart::new("store-apart", ()).ok()?;
    apart.start(move |()| act()).wait(limit)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Apart, within};

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn gives_up_what_hangs_and_what_panics() {
        let apart = Apart::new("test", 1).unwrap();
        assert_eq!(apart.start(|inner| *inner + 1).wait(LIMIT), Some(2));
        assert_eq!(apart.start(|_| panic!("told to")).wait(LIMIT), None::<()>);
        assert_eq!(apart.start(|_| ()).wait(LIMIT), None, "it is gone");
        assert!(apart.close(LIMIT));
        let slow = Apart::new("test", ()).unwrap();
        let short = Duration::from_millis(20);
        assert_eq!(
            slow.start(move |()| std::thread::sleep(short * 20))
                .wait(short),
            None
        );
        assert!(!slow.close(short));
        assert_eq!(within(LIMIT, || 3), Some(3));
    }
}
