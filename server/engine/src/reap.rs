//! Gives back the space of removed layers.
//!
//! There is one way to delete: into the trash by rename, and there. What is deleted was removed by
//! a client, or is a directory whose id an earlier or failed call took without ever recording it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use layerd_drivers::Driver;
use layerd_store::{LayerId, Removal};
use metrics::counter;
use nix::sys::statvfs::statvfs;
use tracing::{debug, warn};

use crate::events::Topic;
use crate::keyed_lock::{KeyedGuard, KeyedLock};
use crate::trash::Discarded;
use crate::{Engine, Layers, Root, slot};

/// Records dropped in one write.
const FORGET_AT_ONCE: usize = 128;
/// Wait before a layer whose deletion failed is tried again; doubled each time, up to the maximum.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Work between two rests of deletions, and how long the rest after it is, in quarters of the work.
const STRETCH: Duration = Duration::from_millis(4);
const REST: u32 = 3;
/// Rests between two times that deletions are made durable.
const RESTS_PER_SYNC: u32 = 4;

/// Pauses during one pass of the reaper. On a file system with one journal, the next sync of any
/// process waits for all deletions in it; so they are synced while there are few.
#[derive(Debug)]
struct Pace<'d> {
    driver: &'d dyn Driver,
    /// When work began, or none where there is no time to rest.
    begun: Option<Cell<Instant>>,
    rests: Cell<u32>,
}

impl<'d> Pace<'d> {
    fn new(driver: &'d dyn Driver, is_urgent: bool) -> Self {
        let begun = (!is_urgent).then(|| Cell::new(Instant::now()));
        Self {
            driver,
            begun,
            rests: Cell::new(0),
        }
    }

    /// Sleeps if there was work for a while; to be called often.
    fn rest(&self) {
        let Some(begun) = &self.begun else { return };
        let worked = begun.get().elapsed();
        if worked < STRETCH {
            return;
        }
        self.rests.set(self.rests.get() + 1);
        if self.rests.get().is_multiple_of(RESTS_PER_SYNC)
            && self.driver.shared_journal_device().is_some()
        {
            // Nothing rests on it; who needs it waits again, and is told what is wrong.
            let _ = self.driver.sync();
        }
        sleep(worked * REST / 4);
        begun.set(Instant::now());
    }
}

/// Result of one pass of the reaper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Layers deleted.
    pub deleted: usize,
    /// Layers that could not be deleted now; they are tried again later.
    pub failed: usize,
    /// When the next layer in the trash may be deleted.
    pub next_in: Option<Duration>,
}

impl Reaped {
    /// True if an entry may be deleted now; otherwise records the time at which it may.
    pub(crate) fn is_now(&mut self, left: Option<Duration>) -> bool {
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.next_in = Some(self.next_in.map_or(left, |next| next.min(left)));
        }
        left == Some(Duration::ZERO)
    }
}

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

impl Engine {
    /// Deletes what was removed and may go, and answers how much. One failure does not keep the
    /// others from being tried; what failed waits longer each time. Ends early after
    /// [`stop`](Self::stop). A second call at the same time waits for the first and then looks
    /// again.
    pub fn reap(&self) -> Reaped {
        let _pass = self.root.backlog.hold();
        let mut reaped = Reaped::default();
        let is_urgent = self.root.is_space_wanted();
        self.layers.reap_layers(is_urgent, &mut reaped);
        self.volumes.reap_volumes(&mut reaped);
        self.root.store.keep_ages();
        counter!("layerd_deleted_layers_total").increment(reaped.deleted as u64);
        counter!("layerd_deletion_failures_total").increment(reaped.failed as u64);
        if reaped.deleted > 0 {
            let count = reaped.deleted.to_string();
            self.root.events.tell(Topic::Trash, "deleted", &count);
        }
        if reaped.deleted + reaped.failed > 0 {
            debug!(deleted = reaped.deleted, failed = reaped.failed, "reaped");
        }
        reaped
    }

    /// Layers and volumes whose last deletion failed, and why; they are tried again.
    #[must_use]
    pub fn failed_deletions(&self) -> Vec<(Discarded, String)> {
        let failures = held(&self.root.backlog.failures);
        let failures = failures.iter();
        failures
            .map(|(what, failure)| (*what, failure.reason.clone()))
            .collect()
    }

    /// True if the reaper has no work, now or later.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        held(&self.root.backlog.orphans).is_empty()
            && held(&self.root.backlog.pending_workdirs).is_empty()
            && self.root.store.records().removed().next().is_none()
    }
}

impl Root {
    fn is_space_wanted(&self) -> bool {
        // Where this cannot be told, the time decides.
        let Ok(disk) = statvfs(&self.path) else {
            return false;
        };
        let percent = disk.blocks_available().saturating_mul(100) / disk.blocks().max(1);
        percent < self.trash.min_free_percent()
    }
}

impl Layers {
    /// Deletes layers that may be deleted; notes when the next one may.
    fn reap_layers(&self, is_urgent: bool, reaped: &mut Reaped) {
        let pace = Pace::new(self.driver.as_ref(), is_urgent);
        for id in self.due_orphans() {
            self.reap_one(id, &pace, reaped);
        }
        self.drop_pending_workdirs(reaped);
        let due = self.due(is_urgent, reaped);
        for portion in due.chunks(FORGET_AT_ONCE) {
            let gone = portion.iter().filter(|(id, removed)| {
                let what = Discarded::Layer(*id);
                self.root
                    .trash
                    .begin(what, *removed, &self.root.trash_look(is_urgent))
                    && self.reap_one(*id, &pace, reaped)
            });
            self.drop_records(gone.map(|(id, _)| *id).collect());
        }
    }

    /// Directories of failed calls. A record whose write failed may be on disk all the same until
    /// the database is built anew; after a crash before that it would have no directory. What was
    /// used since is no such directory, whatever it is.
    fn due_orphans(&self) -> Vec<LayerId> {
        if self.root.store.has_failed() {
            return Vec::new();
        }
        let mut orphans = held(&self.root.backlog.orphans);
        orphans.retain(|id| !self.is_used(*id));
        let due = orphans
            .iter()
            .filter(|id| self.root.backlog.is_due(Discarded::Layer(**id)));
        due.copied().collect()
    }

    fn drop_pending_workdirs(&self, reaped: &mut Reaped) {
        let pending = held(&self.root.backlog.pending_workdirs).clone();
        for id in pending {
            match self.drop_work(id) {
                Ok(()) => drop(held(&self.root.backlog.pending_workdirs).remove(&id)),
                Err(cause) => {
                    warn!(error = &cause as &dyn std::error::Error, %id, "drop the work directory of a layer");
                    reaped.failed += 1;
                }
            }
        }
    }

    /// Removed layers that may be deleted, oldest first; notes when the next one may.
    fn due(&self, space_wanted: bool, reaped: &mut Reaped) -> Vec<(LayerId, Removal)> {
        let (look, view) = (
            self.root.trash_look(space_wanted),
            self.root.store.records(),
        );
        let removed = view
            .removed()
            .filter(|record| self.root.backlog.is_due(Discarded::Layer(record.id)))
            .filter_map(|record| Some((record.id, record.removed?)));
        let is_due = |(id, removed): &(LayerId, Removal)| {
            let left = self
                .root
                .trash
                .due_in(Discarded::Layer(*id), *removed, &look);
            reaped.is_now(left)
        };
        let mut due: Vec<_> = removed.filter(is_due).collect();
        due.sort_unstable_by_key(|(id, removed)| (removed.steady, *id));
        due
    }

    fn reap_one(&self, id: LayerId, pace: &Pace<'_>, reaped: &mut Reaped) -> bool {
        if self.root.backlog.is_stopping() {
            return false;
        }
        let keep_going = || {
            pace.rest();
            !self.root.backlog.is_stopping()
        };
        let slot = slot(id);
        let deleted = self
            .driver
            .discard(slot)
            .and_then(|()| self.driver.delete(slot, &keep_going))
            .and_then(|()| self.digest_files.unmark_all(id))
            .and_then(|()| self.digest_files.remove(id));
        match deleted {
            Ok(_) => {
                debug!(%id, "deleted");
                self.root.backlog.note_success(Discarded::Layer(id));
                self.usage_scanner.forget(id);
                self.root.trash.deleted(Discarded::Layer(id));
                self.quarantine.forget(id);
                self.unpacks.forget(id);
                reaped.deleted += 1;
                true
            }
            Err(layerd_mounts::Error::Stopped) => false,
            Err(cause) => {
                warn!(error = &cause as &dyn std::error::Error, %id, "a removed layer cannot be deleted yet");
                self.root.backlog.note_failure(Discarded::Layer(id), &cause);
                reaped.failed += 1;
                false
            }
        }
    }

    /// A record that stays for want of a write is dropped by a later pass.
    fn drop_records(&self, ids: Vec<LayerId>) {
        if ids.is_empty() {
            return;
        }
        if let Err(cause) = self.root.store.drop_records(ids) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "drop the records of deleted layers"
            );
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
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
