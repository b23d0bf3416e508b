//! Locks by name: those who ask for the same one wait for each other.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks by key.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    taken: Mutex<BTreeSet<K>>,
    given_back: Condvar,
    /// Threads that wait.
    #[cfg(test)]
    waiting: std::sync::atomic::AtomicUsize,
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
            #[cfg(test)]
            waiting: Default::default(),
        }
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// Waits for the turn of a name.
    pub(crate) fn take(&self, name: &K) -> Turn<'_, K> {
        let is_taken = |taken: &mut BTreeSet<K>| taken.contains(name);
        let taken = self.taken();
        #[cfg(test)]
        let _waits = taken.contains(name).then(|| Waits::new(&self.waiting));
        let taken = self.given_back.wait_while(taken, is_taken);
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
    /// True if the lock of this key is held.
    pub(crate) fn is_taken(&self, name: &K) -> bool {
        self.taken().contains(name)
    }
}

impl<K> Turns<K> {
    /// Number of threads that wait for a turn.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(std::sync::atomic::Ordering::SeqCst)
    }

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

/// Counts a thread that waits.
#[cfg(test)]
struct Waits<'t>(&'t std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl<'t> Waits<'t> {
    fn new(waiting: &'t std::sync::atomic::AtomicUsize) -> Self {
        waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self(waiting)
    }
}

#[cfg(test)]
impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}
