//! Snapshots that must not be used, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use layerd_store::{LayerId, Record, View};

use crate::Error;

/// How the reason begins when content was lost on its way to the disk.
pub(crate) const LOST: &str = "its content was lost on the way to the disk";

/// Kept in memory: start-up finds again what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    barred: RwLock<BTreeMap<LayerId, String>>,
    /// Reasons that are not in the records yet, because those could not be written.
    unsaved: Mutex<BTreeMap<LayerId, String>>,
}

impl Quarantine {
    /// Bars a layer.
    pub(crate) fn set(&self, id: LayerId, why: String) {
        self.barred
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, why);
    }

    /// Keeps a reason for when records can be written again.
    pub(crate) fn save_later(&self, id: LayerId, why: String) {
        self.unsaved().insert(id, why);
    }

    /// Takes what is to be saved.
    pub(crate) fn take_unsaved(&self) -> BTreeMap<LayerId, String> {
        std::mem::take(&mut self.unsaved())
    }

    fn unsaved(&self) -> MutexGuard<'_, BTreeMap<LayerId, String>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those go that were barred for what a look at the disk shows, and no longer does. Lost
    /// content shows nowhere but in the record, if that could be written at all: it stays.
    pub(crate) fn keep_only(&self, found: &BTreeSet<LayerId>) {
        let mut barred = self.barred.write().unwrap_or_else(PoisonError::into_inner);
        barred.retain(|id, why| found.contains(id) || why.starts_with(LOST));
    }

    /// Lets a layer go that was removed.
    pub(crate) fn forget(&self, id: LayerId) {
        self.barred
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    /// Number of layers that are barred.
    pub(crate) fn len(&self) -> usize {
        self.barred
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Refuses a snapshot that is barred.
    pub(crate) fn check(&self, record: &Record) -> Result<(), Error> {
        let barred = self.barred.read().unwrap_or_else(PoisonError::into_inner);
        match barred.get(&record.id) {
            None => Ok(()),
            Some(why) => Err(Error::Damaged {
                key: record.key.clone(),
                why: why.clone(),
            }),
        }
    }

    /// Refuses a snapshot that is barred or stands on one that is.
    pub(crate) fn check_stack(&self, view: &View, record: &Record) -> Result<(), Error> {
        if self.len() == 0 {
            return Ok(());
        }
        self.check(record)?;
        view.ancestors(record)
            .try_for_each(|layer| self.check(layer))
    }
}
