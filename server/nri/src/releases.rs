//! Containers that are gone and whose attachments are not let go yet: layerd may be away, and the runtime is
//! not made to wait for it. Nothing is kept on disk: the runtime's list at the next start shows what is left.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::layerd::{Failed, Layerd, within};

/// Pause before layerd is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Attachments that are to be let go.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// Containers that are gone, and when to let go of what they have.
    gone: Vec<(Instant, String)>,
    /// The containers that there are; what others have is to be let go.
    living: Option<BTreeSet<String>>,
}

impl Releases {
    /// Has layerd let go of what a container has, after a time.
    pub(crate) fn gone(&self, container: &str, after: Duration) {
        let due = Instant::now() + after;
        self.lock().gone.push((due, container.to_owned()));
        self.changed.notify_one();
    }

    /// Has layerd let go of what containers have that are not among these.
    pub(crate) fn living(&self, all: BTreeSet<String>) {
        self.lock().living = Some(all);
        self.changed.notify_one();
    }

    /// Notes a container that is younger than the list of those that there are.
    pub(crate) fn born(&self, container: &str) {
        if let Some(living) = &mut self.lock().living {
            living.insert(container.to_owned());
        }
    }

    /// Whole even after a panic: each use is one change.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }

    /// Lets go for ever.
    pub(crate) async fn run(&self, layerd: &Layerd) {
        loop {
            let pause = match self.compare(layerd).await {
                Ok(()) => self.release_due(layerd).await,
                Err(failed) => {
                    warn!(reason = %failed, "cannot ask layerd what containers have");
                    Some(Instant::now() + RETRY)
                }
            };
            let pause = async {
                match pause {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Adds the containers that have something and are not among the living to those that are gone.
    async fn compare(&self, layerd: &Layerd) -> Result<(), Failed> {
        if self.lock().living.is_none() {
            return Ok(());
        }
        let holding = within(LIMIT, layerd.containers()).await?;
        let mut pending = self.lock();
        let Some(living) = pending.living.take() else {
            return Ok(());
        };
        let now = Instant::now();
        let dead = holding.difference(&living).map(|one| (now, one.clone()));
        pending.gone.extend(dead);
        Ok(())
    }

    /// Answers when the next one is due.
    async fn release_due(&self, layerd: &Layerd) -> Option<Instant> {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut pending = self.lock();
            let all = std::mem::take(&mut pending.gone);
            let (due, later) = all.into_iter().partition(|(due, _)| *due <= now);
            pending.gone = later;
            due
        };
        for (_, container) in due {
            match within(LIMIT, layerd.detach(&container)).await {
                Ok(()) => info!(container, "let go of what a container had that is gone"),
                Err(failed) => {
                    warn!(container, reason = %failed, "cannot let go of what a container had");
                    self.lock().gone.push((now + RETRY, container));
                }
            }
        }
        self.lock().gone.iter().map(|(due, _)| *due).min()
    }
}
