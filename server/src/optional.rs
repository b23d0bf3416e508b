//! Services that storage does not depend on, such as metrics: one that fails is named to operators
//! and stops nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Failures of optional services; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Failures {
    /// Notes that the service that `key` of the configuration asks for does not work.
    pub(crate) fn add(&self, key: &'static str, reason: String) {
        let mut all = self.0.lock();
        all.insert(key, reason);
    }

    /// Notes that the service works; true if it did not before.
    pub(crate) fn clear(&self, key: &'static str) -> bool {
        let mut all = self.0.lock();
        all.remove(key).is_some()
    }

    /// Reasons by key of the configuration.
    pub(crate) fn all(&self) -> BTreeMap<&'static str, String> {
        let all = self.0.lock();
        all.clone()
    }
}
