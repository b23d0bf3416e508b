//! Removed snapshots, and taking them back.

use layerd_store::{LayerId, Record};
use tracing::info;

use crate::events::Topic;
use crate::stack::has_own;
use crate::trash::Discarded;
use crate::{Error, LayerError, Layers, slot};

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
            return Err(Error::Layer(LayerError::Damaged {
                key: record.key.clone(),
                why: "its layer is deleted already, or part of it".to_owned(),
            }));
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

    /// Takes back everything that is in the trash, parents first, which releases the mass-removal guard if
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
        self.root.release_empty_trash();
        done
    }
}
