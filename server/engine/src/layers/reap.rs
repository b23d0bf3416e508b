//! Gives back the space of removed layers.

use std::cell::Cell;
use std::thread::sleep;
use std::time::{Duration, Instant};

use layerd_drivers::Driver;
use layerd_store::{LayerId, Removal};
use tracing::{debug, warn};

use crate::reap::Reaped;
use crate::trash::Discarded;
use crate::{Layers, slot};

/// Records dropped in one write.
const FORGET_AT_ONCE: usize = 128;
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
        sleep(rest_after(worked));
        begun.set(Instant::now());
    }
}

/// Length of the rest after work that took `worked`.
fn rest_after(worked: Duration) -> Duration {
    worked * REST / 4
}

impl Layers {
    /// Deletes layers that may be deleted; notes when the next one may.
    pub(crate) fn reap_layers(&self, is_urgent: bool, reaped: &mut Reaped) {
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
        self.root.backlog.due_orphans(|id| self.is_used(id))
    }

    fn drop_pending_workdirs(&self, reaped: &mut Reaped) {
        for id in self.root.backlog.pending_workdirs() {
            match self.drop_work(id) {
                Ok(()) => self.root.backlog.note_dropped_workdir(id),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::rest_after;

    #[test]
    fn three_quarters_of_the_work_are_rested() {
        for millis in [4, 400] {
            let rest = rest_after(Duration::from_millis(millis));
            assert_eq!(rest, Duration::from_millis(millis * 3 / 4));
        }
    }
}
