//! Locks by name: those who ask for the same one wait for each other.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who has a turn.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    taken: Mutex<BTreeSet<K>>,
    given_back: Condvar,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'t, K: Ord> {
    turns: &'t Turns<K>,
    name: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// Waits for the turn of a name.
    pub(crate) fn take(&self, name: &K) -> Turn<'_, K> {
        let is_taken = |taken: &mut BTreeSet<K>| taken.contains(name);
        let taken = self.given_back.wait_while(self.taken(), is_taken);
        taken
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone());
        Turn {
            turns: self,
            name: name.clone(),
        }
    }
}

#[cfg(test)]
impl<K: Ord> Turns<K> {
    /// Whether a turn of this name is under way.
    pub(crate) fn is_taken(&self, name: &K) -> bool {
        self.taken().contains(name)
    }
}

impl<K> Turns<K> {
    /// The set is whole even if a holder panicked: each use is one insert or remove.
    fn taken(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.taken().remove(&self.name);
        self.turns.given_back.notify_all();
    }
}
