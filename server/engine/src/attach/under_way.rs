//! Calls that attach and have not ended.
//!
//! A client that gave up on its call may have its owner detached while the call goes on, as when the disk
//! stalls: what it attaches later would have no one to detach it.

use layerd_store::{Key, Owner};
use parking_lot::Mutex;

/// The keys of calls, with their owners. A call is there as long as its guard.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<Vec<(Owner, Key)>>);

/// A call that goes on.
#[derive(Debug)]
pub(super) struct Call<'c> {
    all: &'c UnderWay,
    keys: Vec<(Owner, Key)>,
}

impl UnderWay {
    pub(super) fn begin<'k>(&self, owner: &Owner, keys: impl Iterator<Item = &'k Key>) -> Call<'_> {
        let keys: Vec<_> = keys.map(|key| (owner.clone(), key.clone())).collect();
        self.0.lock().extend(keys.iter().cloned());
        Call { all: self, keys }
    }

    /// Keys of the calls of an owner.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Key> {
        let all = self.0.lock();
        let own = all.iter().filter(|(one, _)| one == owner);
        own.map(|(_, key)| key.clone()).collect()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        for key in &self.keys {
            // Another call may have the same.
            if let Some(at) = all.iter().position(|one| one == key) {
                all.swap_remove(at);
            }
        }
    }
}
