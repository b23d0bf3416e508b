//! The trash, and who may be deleted from it.
//!
//! A removed layer is in the trash for a while: its record says so, and its directories stay where
//! they are; likewise a deleted volume. `guard.rs` decides what may go.

mod guard;

use layerd_store::{LayerId, Record};
use tracing::info;

pub use guard::{Discarded, TrashOptions};
pub(crate) use guard::{Look, Trash, hold_if_older, hold_older};

use crate::check::has_own;
use crate::events::Topic;
use crate::{Engine, Error, Layers, Root, slot};

/// A removed snapshot that could be restored.
#[derive(Debug, Clone)]
pub struct Removed {
    /// Its record.
    pub record: std::sync::Arc<Record>,
    /// Name of its parent; empty for none.
    pub parent: String,
}

impl Layers {
    /// Removed snapshots whose layers are still there, oldest first.
    #[must_use]
    pub fn trash(&self) -> Vec<Removed> {
        let view = self.root.store.records();
        let removed = view.removed().map(|record| Removed {
            parent: view.parent_name_of_any(record).to_owned(),
            record: record.clone(),
        });
        let mut removed: Vec<_> = removed.collect();
        let age = |record: &Record| record.removed.and_then(|removed| removed.steady);
        removed.sort_by_key(|removed| (age(&removed.record), removed.record.id));
        removed
    }

    /// Takes a removed snapshot back under its old key: one durable write. Waits for a deletion under
    /// way to end.
    ///
    /// # Errors
    /// `Invalid` if it is not in the trash, `Exists` if its key is taken, `Refused` if its parent
    /// was removed too, `Damaged` if its deletion has begun.
    pub fn restore(&self, id: LayerId) -> Result<(), Error> {
        let _pass = self.root.backlog.hold();
        if let Some(record) = self.root.store.records().get_removed(id)
            && has_own(record)
            && !self.has_layer(id)?
        {
            return Err(Error::Damaged {
                key: record.key.clone(),
                why: "its layer is deleted already, or part of it".to_owned(),
            });
        }
        let record = self.root.store.restore_removed(id)?;
        self.root.trash.restored(Discarded::Layer(id));
        info!(key = record.key.as_str(), %id, "restored");
        self.root
            .events
            .tell(Topic::Snapshot, "restored", record.key.as_str());
        Ok(())
    }

    fn has_layer(&self, id: LayerId) -> Result<bool, Error> {
        let there = self.driver.has(slot(id));
        there.map_err(Error::driver("look at a layer"))
    }

    /// Takes back everything that is in the trash, parents first, which releases the brake if
    /// nothing is left. Answers what became of each.
    pub fn restore_all(&self) -> Vec<(Removed, Result<(), Error>)> {
        let mut waiting = self.trash();
        waiting.sort_by_key(|removed| removed.record.id);
        let mut done = Vec::new();
        loop {
            let view = self.root.store.records();
            let is_next = |removed: &Removed| {
                removed
                    .record
                    .parent
                    .is_none_or(|id| view.get(id).is_some())
            };
            let (next, rest) = waiting.into_iter().partition::<Vec<_>, _>(is_next);
            let is_last = next.is_empty();
            // Those whose parent is not to be had are tried too, for their error.
            for removed in if is_last { &rest } else { &next } {
                done.push((removed.clone(), self.restore(removed.record.id)));
            }
            if is_last {
                break;
            }
            waiting = rest;
        }
        if self.root.store.records().removed().next().is_none() {
            self.root.release_trash();
        }
        done
    }
}

impl Engine {
    /// Why the trash is not deleted, if that is so.
    #[must_use]
    pub fn brake(&self) -> Option<String> {
        self.root.trash.brake()
    }

    /// True if nothing is deleted because the records are those of a backup, older than the directories.
    #[must_use]
    pub fn has_older_records(&self) -> bool {
        self.root.trash.is_held_for_older()
    }

    /// Releases the brake and lets everything that is in the trash now be deleted, whatever its age.
    pub fn empty_trash(&self) {
        let view = self.root.store.records();
        let layers = view
            .removed()
            .filter_map(|record| Some((Discarded::Layer(record.id), record.removed?)));
        let volumes = view.volumes().removed();
        let volumes =
            volumes.filter_map(|volume| Some((Discarded::Volume(volume.id), volume.removed?)));
        self.root
            .tell_release(self.root.trash.empty(layers.chain(volumes).collect()));
        self.root.events.tell(Topic::Trash, "emptied", "on demand");
    }

    /// Releases the brake; what is in the trash goes when its time is up.
    pub fn release_brake(&self) {
        self.root.release_trash();
    }
}

impl Root {
    /// Releases the brake; what is in the trash goes when its time is up.
    fn release_trash(&self) {
        self.tell_release(self.trash.release(Vec::new()));
    }

    fn tell_release(&self, was_held: bool) {
        if was_held {
            self.events.tell(Topic::Trash, "released", "the brake");
        }
    }

    /// Inputs, as of now, to the decision about deletions.
    pub(crate) fn trash_look(&self, space_wanted: bool) -> Look {
        Look {
            now: self.store.steady_now(),
            live: self.store.records().len(),
            space_wanted,
        }
    }
}
