//! Snapshots that must not be used, and why.
//!
//! Damage belongs to a layer, by its id, and stays with it until it is deleted: a record says so,
//! through removal, restart and restore,
//! and a mark beside the layer through a backup of the records that is put back. What is not in the records, because it shows on the disk or
//! could not be recorded yet, is kept here.

mod marks;

use std::collections::{BTreeMap, BTreeSet};

use layerd_store::{LayerId, Record, Records};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tracing::{error, warn};

use crate::{Error, LayerError, Layers};

/// Layers that are damaged, besides those whose records say so.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    barred: RwLock<BTreeMap<LayerId, String>>,
    /// Reasons that are not in the records yet, because those could not be written.
    unsaved: Mutex<BTreeMap<LayerId, String>>,
}

impl Quarantine {
    /// Bars a layer.
    pub(crate) fn set(&self, id: LayerId, why: String) {
        self.barred.write().insert(id, why);
    }

    fn unsaved(&self) -> MutexGuard<'_, BTreeMap<LayerId, String>> {
        self.unsaved.lock()
    }

    /// Lets those go that were barred for what a look at the disk shows, and no longer does.
    pub(crate) fn keep_only(&self, found: &BTreeSet<LayerId>) {
        let mut barred = self.barred.write();
        let unsaved = self.unsaved();
        barred.retain(|id, _| found.contains(id) || unsaved.contains_key(id));
    }

    /// Lets a layer go that was deleted.
    pub(crate) fn forget(&self, id: LayerId) {
        self.barred.write().remove(&id);
        self.unsaved().remove(&id);
    }

    /// Why a snapshot must not be used, if that is so.
    fn why(&self, record: &Record) -> Option<String> {
        let barred = self.barred.read();
        let barred = barred.get(&record.id);
        barred.or(record.quarantine.as_ref()).cloned()
    }

    /// Refuses a snapshot that is barred.
    pub(crate) fn check(&self, record: &Record) -> Result<(), Error> {
        match self.why(record) {
            None => Ok(()),
            Some(why) => Err(Error::Layer(LayerError::Damaged {
                key: record.key.clone(),
                why,
            })),
        }
    }

    /// Refuses a snapshot that is barred or stands on one that is.
    pub(crate) fn check_stack(&self, view: &Records, record: &Record) -> Result<(), Error> {
        self.check(record)?;
        view.ancestors(record)
            .try_for_each(|layer| self.check(layer))
    }
}

impl Layers {
    /// Bars a layer for good: also after a restart, and after it was removed and taken back. If that
    /// cannot be recorded now, it is tried again.
    pub(crate) fn bar(&self, id: LayerId, why: String) {
        error!(%id, "a layer is barred: {why}");
        self.quarantine.set(id, why.clone());
        self.quarantine.unsaved().insert(id, why.clone());
        self.mark_quarantined(id, &why);
        self.save_damage();
    }

    /// Records what is known to be damaged, if that could not be recorded before: what made the
    /// content fail may have made the record fail too. Tried again with every change and every
    /// second, so that it outlives this process.
    pub(crate) fn save_damage(&self) {
        let unsaved = self.quarantine.unsaved().clone();
        for (id, why) in unsaved {
            match self.root.store.set_quarantine(id, why) {
                Ok(()) => drop(self.quarantine.unsaved().remove(&id)),
                Err(cause) => {
                    let cause = &cause as &dyn std::error::Error;
                    warn!(error = cause, %id, "note that a layer is damaged");
                }
            }
        }
    }

    /// Number of snapshots that cannot be trusted. Costs a walk through memory.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let view = self.root.store.records();
        let damaged = |record: &&std::sync::Arc<Record>| self.quarantine.why(record).is_some();
        view.iter().filter(damaged).count()
    }
}

#[cfg(test)]
pub(crate) mod tests;
