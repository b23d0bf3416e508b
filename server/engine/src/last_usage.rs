//! Disk usage of writable layers, as it was measured last.

use std::collections::HashMap;

use layerd_store::{LayerId, Usage};
use parking_lot::Mutex;

/// Results of the last finished walks of writable layers.
#[derive(Debug, Default)]
pub(crate) struct LastUsage(Mutex<HashMap<LayerId, Usage>>);

impl LastUsage {
    /// The last result for a layer.
    pub(crate) fn get(&self, id: LayerId) -> Option<Usage> {
        self.0.lock().get(&id).copied()
    }

    /// Notes a result.
    pub(crate) fn set(&self, id: LayerId, usage: Usage) {
        self.0.lock().insert(id, usage);
    }

    /// Drops the result of a layer that is deleted or committed.
    pub(crate) fn forget(&self, id: LayerId) {
        self.0.lock().remove(&id);
    }
}
