//! Gives back the space of removed layers, and makes good what a crash left half done.
//!
//! There is one way to delete: into the trash by rename, then reap. What is deleted was removed by
//! a client, or is a directory whose id an earlier or failed call took without ever recording it.
//! Anything else that is found is reported and left alone: after a restored backup it may be the
//! only copy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layerd_mounts::{Found, Place};
use layerd_store::{Kind, LayerId, View};
use tracing::{debug, info, warn};

use crate::{Engine, Error, meta_folder, slot};

/// Records dropped in one write.
const FORGET_AT_ONCE: usize = 128;
/// Wait before a layer whose deletion failed is tried again; doubled each time, up to the maximum.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// What one pass of the reaper did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Layers deleted.
    pub deleted: usize,
    /// Layers that could not be deleted now; they are tried again later.
    pub failed: usize,
}

/// What the reaper has to do besides the retired records.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Directories whose ids were never recorded.
    orphans: Mutex<BTreeSet<LayerId>>,
    /// Deletions that failed, and when to try them again.
    failures: Mutex<BTreeMap<LayerId, Failure>>,
    /// One pass at a time.
    pass: Mutex<()>,
    stopping: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    wait: Duration,
    not_before: Instant,
}

impl Backlog {
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn is_due(&self, id: LayerId) -> bool {
        let failure = held(&self.failures).get(&id).copied();
        failure.is_none_or(|failure| failure.not_before <= Instant::now())
    }

    fn note_failure(&self, id: LayerId) {
        let mut failures = held(&self.failures);
        let wait = failures
            .get(&id)
            .map_or(BACK_OFF, |last| (last.wait * 2).min(BACK_OFF_MAX));
        let not_before = Instant::now() + wait;
        failures.insert(id, Failure { wait, not_before });
    }

    fn note_success(&self, id: LayerId) {
        held(&self.failures).remove(&id);
        held(&self.orphans).remove(&id);
    }
}

/// What start-up makes good.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Repair {
    /// Delete a directory that never got a record, or whose record was dropped already.
    Reap(LayerId),
    /// Make a work directory: they are not synced, a power cut may take them.
    MakeWork(LayerId),
    /// Tell people about it.
    Report(String),
}

/// Decides what to make good. `found` must be older than `view`.
fn plan(found: &[Found], view: &View, first_id: LayerId) -> BTreeSet<Repair> {
    let misplaced = found
        .iter()
        .filter_map(|entry| repair(entry, view, first_id));
    misplaced.chain(missing_work(found, view)).collect()
}

fn repair(entry: &Found, view: &View, first_id: LayerId) -> Option<Repair> {
    let (place, id) = match entry {
        Found::Slot(place, slot) => (*place, LayerId(slot.0)),
        Found::Stranger(path) => {
            return Some(Repair::Report(format!(
                "{} is not layerd's",
                path.display()
            )));
        }
    };
    let live = view.get(id).is_some();
    if view.get_retired(id).is_some() || (live && place != Place::Trash) {
        return None;
    }
    Some(if live {
        Repair::Report(format!(
            "layer {id} is in the trash, but its snapshot was not removed"
        ))
    } else if id < first_id {
        Repair::Reap(id)
    } else {
        Repair::Report(format!("layer {id} has an id that was never handed out"))
    })
}

/// Writable layers over others whose work directory is gone.
fn missing_work(found: &[Found], view: &View) -> BTreeSet<Repair> {
    let there: BTreeSet<_> = found
        .iter()
        .filter_map(|entry| match entry {
            Found::Slot(Place::Work, slot) => Some(LayerId(slot.0)),
            _ => None,
        })
        .collect();
    let stacked = view
        .iter()
        .filter(|record| record.kind == Kind::Active && record.parent.is_some());
    let missing = stacked.filter(|record| !there.contains(&record.id));
    missing.map(|record| Repair::MakeWork(record.id)).collect()
}

/// An empty database must not take the place of one that was lost while its layers are there.
pub(crate) fn refuse_lost_records(root: &Path, found: &[Found]) -> Result<(), Error> {
    let meta = meta_folder(root);
    let layers = found
        .iter()
        .filter(|entry| matches!(entry, Found::Slot(Place::Layer, _)))
        .count();
    if layers == 0 || meta.join("format").exists() {
        return Ok(());
    }
    Err(Error::Unrecorded {
        root: root.to_owned(),
        meta,
        layers,
    })
}

impl Engine {
    /// Makes good what `found` shows; called before any request.
    pub(crate) fn recover(&self, found: &[Found]) -> Result<(), Error> {
        let repairs = plan(found, &self.store.view(), self.store.first_id());
        let mut orphans = held(&self.backlog.orphans);
        for repair in repairs {
            match repair {
                Repair::Reap(id) => drop(orphans.insert(id)),
                Repair::MakeWork(id) => self
                    .driver
                    .ensure_work(slot(id))
                    .map_err(Error::driver("make a missing work directory"))?,
                Repair::Report(text) => warn!("{text}; it was left alone"),
            }
        }
        if !orphans.is_empty() {
            info!(
                count = orphans.len(),
                "layers that an interrupted call left behind go to the trash"
            );
        }
        Ok(())
    }

    /// Hands the directories of a failed call to the reaper.
    pub(crate) fn abandon(&self, id: LayerId) {
        held(&self.backlog.orphans).insert(id);
    }

    /// Deletes what was removed, and answers how much. One failure does not keep the others from
    /// being tried; what failed waits longer each time. Ends early after [`stop`](Self::stop).
    /// A second call at the same time waits for the first and then looks again.
    pub fn reap(&self) -> Reaped {
        let _pass = held(&self.backlog.pass);
        let retired: Vec<_> = self
            .store
            .view()
            .retired()
            .map(|record| record.id)
            .collect();
        let orphans = held(&self.backlog.orphans).clone();
        let due = |id: &LayerId| self.backlog.is_due(*id);
        let mut reaped = Reaped::default();
        for id in orphans.into_iter().filter(due) {
            self.reap_one(id, &mut reaped);
        }
        let due: Vec<_> = retired.into_iter().filter(due).collect();
        for portion in due.chunks(FORGET_AT_ONCE) {
            let gone = portion.iter().filter(|id| self.reap_one(**id, &mut reaped));
            self.forget(gone.copied().collect());
        }
        if reaped != Reaped::default() {
            debug!(deleted = reaped.deleted, failed = reaped.failed, "reaped");
        }
        reaped
    }

    /// Whether there is nothing left for the reaper, now or later.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        held(&self.backlog.orphans).is_empty() && self.store.view().retired().next().is_none()
    }

    fn reap_one(&self, id: LayerId, reaped: &mut Reaped) -> bool {
        if self.backlog.is_stopping() {
            return false;
        }
        let keep_going = || !self.backlog.is_stopping();
        let slot = slot(id);
        let deleted = self
            .driver
            .retire(slot)
            .and_then(|()| self.driver.delete(slot, &keep_going));
        match deleted {
            Ok(()) => {
                debug!(%id, "deleted");
                self.backlog.note_success(id);
                self.meter.forget(id);
                reaped.deleted += 1;
                true
            }
            Err(layerd_mounts::Error::Stopped) => false,
            Err(cause) => {
                warn!(error = &cause as &dyn std::error::Error, %id, "a removed layer cannot be deleted yet");
                self.backlog.note_failure(id);
                reaped.failed += 1;
                false
            }
        }
    }

    /// A record that stays for want of a write is dropped by a later pass.
    fn forget(&self, ids: Vec<LayerId>) {
        if ids.is_empty() {
            return;
        }
        if let Err(cause) = self.store.forget(ids) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "drop the records of deleted layers"
            );
        }
    }
}

/// The data are whole even if a holder panicked: each use is one insert, remove or read.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
