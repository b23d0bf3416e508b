//! Locks by key: callers with the same key exclude each other, others do not.

use std::collections::BTreeSet;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Locks by key.
#[derive(Debug)]
pub(crate) struct KeyedLock<K> {
    held: Mutex<BTreeSet<K>>,
    released: Condvar,
    /// Threads that wait.
    #[cfg(test)]
    waiting: std::sync::atomic::AtomicUsize,
}

/// The held lock of one key, released on drop.
#[derive(Debug)]
pub(crate) struct KeyedGuard<'t, K: Ord> {
    lock: &'t KeyedLock<K>,
    key: K,
}

impl<K> Default for KeyedLock<K> {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            released: Condvar::new(),
            #[cfg(test)]
            waiting: Default::default(),
        }
    }
}

impl<K: Ord + Clone> KeyedLock<K> {
    /// Waits until the lock of `key` is free, and takes it. Not fair.
    pub(crate) fn lock(&self, key: &K) -> KeyedGuard<'_, K> {
        let is_held = |held: &mut BTreeSet<K>| held.contains(key);
        let mut held = self.held();
        #[cfg(test)]
        let _waits = held.contains(key).then(|| Waits::new(&self.waiting));
        self.released.wait_while(&mut held, is_held);
        held.insert(key.clone());
        KeyedGuard {
            lock: self,
            key: key.clone(),
        }
    }
}

#[cfg(test)]
impl<K: Ord> KeyedLock<K> {
    /// True if the lock of this key is held.
    pub(crate) fn is_held(&self, key: &K) -> bool {
        self.held().contains(key)
    }
}

impl<K> KeyedLock<K> {
    /// Number of waiting threads.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The set is whole even if a holder panicked: each use is one insert or remove.
    fn held(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.held.lock()
    }
}

impl<K: Ord> Drop for KeyedGuard<'_, K> {
    fn drop(&mut self) {
        self.lock.held().remove(&self.key);
        self.lock.released.notify_all();
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
