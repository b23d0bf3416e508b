//! Work that the reaper has besides removed records, and deletions to try again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use layerd_store::LayerId;
use parking_lot::{Mutex, MutexGuard};

use crate::keyed_lock::{KeyedGuard, KeyedLock};
use crate::trash::Discarded;

/// Wait before a layer whose deletion failed is tried again; doubled each time, up to the maximum.
pub(crate) const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Work of the reaper besides removed records.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Directories whose ids were never recorded.
    orphans: Mutex<BTreeSet<LayerId>>,
    /// Work directories of committed layers that could not be dropped.
    pending_workdirs: Mutex<BTreeSet<LayerId>>,
    /// Deletions that failed, and when to try them again.
    failures: Mutex<BTreeMap<Discarded, Failure>>,
    /// One pass at a time.
    pass: KeyedLock<()>,
    stopping: AtomicBool,
}

#[derive(Debug, Clone)]
struct Failure {
    wait: Duration,
    not_before: Instant,
    reason: String,
}

impl Backlog {
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Hands the directories of a failed call to the reaper.
    pub(crate) fn abandon(&self, id: LayerId) {
        held(&self.orphans).insert(id);
    }

    /// Has a work directory dropped later.
    pub(crate) fn note_pending_workdir(&self, id: LayerId) {
        held(&self.pending_workdirs).insert(id);
    }

    /// Work directories that are to be dropped.
    pub(crate) fn pending_workdirs(&self) -> BTreeSet<LayerId> {
        held(&self.pending_workdirs).clone()
    }

    /// Forgets a work directory that was dropped.
    pub(crate) fn note_dropped_workdir(&self, id: LayerId) {
        held(&self.pending_workdirs).remove(&id);
    }

    /// Directories of failed calls that may be deleted now; forgets those in use.
    pub(crate) fn due_orphans(&self, is_used: impl Fn(LayerId) -> bool) -> Vec<LayerId> {
        let mut orphans = held(&self.orphans);
        orphans.retain(|id| !is_used(*id));
        let due = orphans
            .iter()
            .filter(|id| self.is_due(Discarded::Layer(**id)));
        due.copied().collect()
    }

    /// Entries that could not be deleted, each with the reason.
    pub(crate) fn failures(&self) -> Vec<(Discarded, String)> {
        let failures = held(&self.failures);
        let reasons = failures.iter();
        reasons
            .map(|(what, failure)| (*what, failure.reason.clone()))
            .collect()
    }

    /// True if there are no directories to delete but those of records.
    pub(crate) fn is_empty(&self) -> bool {
        held(&self.orphans).is_empty() && held(&self.pending_workdirs).is_empty()
    }

    /// Directories that the next pass will delete, for all that is known.
    pub(crate) fn awaited(&self) -> Vec<LayerId> {
        let failures = held(&self.failures).clone();
        let orphans = held(&self.orphans);
        let has_failed = |id: LayerId| failures.contains_key(&Discarded::Layer(id));
        let awaited = orphans.iter().filter(|id| !has_failed(**id));
        awaited.copied().collect()
    }

    /// Keeps passes of the reaper away.
    pub(crate) fn hold(&self) -> KeyedGuard<'_, ()> {
        self.pass.lock(&())
    }

    /// Number of threads that wait for a pass to end.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.pass.waiting()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// False while something waits after a failed deletion.
    pub(crate) fn is_due(&self, what: Discarded) -> bool {
        let failures = held(&self.failures);
        let failure = failures.get(&what);
        failure.is_none_or(|failure| failure.not_before <= Instant::now())
    }

    /// Has a failed deletion tried again later.
    pub(crate) fn note_failure(&self, what: Discarded, cause: &layerd_mounts::Error) {
        let mut failures = held(&self.failures);
        let wait = failures
            .get(&what)
            .map_or(BACK_OFF, |last| (last.wait * 2).min(BACK_OFF_MAX));
        let not_before = Instant::now() + wait;
        let failure = Failure {
            wait,
            not_before,
            reason: reason(cause),
        };
        failures.insert(what, failure);
    }

    /// Forgets what was deleted.
    pub(crate) fn note_success(&self, what: Discarded) {
        held(&self.failures).remove(&what);
        if let Discarded::Layer(id) = what {
            held(&self.orphans).remove(&id);
        }
    }
}

/// An error with its causes, on one line.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// The data are whole even if a holder panicked: each use is one insert, remove or read.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use layerd_store::LayerId;

    use super::{BACK_OFF, BACK_OFF_MAX, Backlog, held};
    use crate::trash::Discarded;

    fn wait_of(backlog: &Backlog, what: Discarded) -> Duration {
        held(&backlog.failures)[&what].wait
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_five_minutes() {
        let backlog = Backlog::default();
        let what = Discarded::Layer(LayerId(7));
        assert!(backlog.is_due(what));
        let mut wanted = BACK_OFF;
        for _ in 0..12 {
            let before = Instant::now();
            backlog.note_failure(what, &layerd_mounts::Error::Stopped);
            assert_eq!(wait_of(&backlog, what), wanted);
            let not_before = held(&backlog.failures)[&what].not_before;
            assert!(not_before >= before + wanted);
            assert!(!backlog.is_due(what));
            wanted = (wanted * 2).min(BACK_OFF_MAX);
        }
        assert_eq!(wait_of(&backlog, what), BACK_OFF_MAX);
        assert!(
            backlog.is_due(Discarded::Layer(LayerId(8))),
            "others do not wait"
        );
        backlog.note_success(what);
        assert!(backlog.is_due(what));
        backlog.note_failure(what, &layerd_mounts::Error::Stopped);
        assert_eq!(wait_of(&backlog, what), BACK_OFF, "it starts anew");
    }
}
