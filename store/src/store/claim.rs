//! Keys that are claimed before their records are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Key, LayerId, Record};
use crate::shared::Shared;
use crate::state::Create;
use parking_lot::MutexGuard;

/// A snapshot in creation, which holds its key and id.
#[derive(Debug)]
pub struct Claim {
    pub(super) shared: Arc<Shared>,
    pub(super) create: Create,
    pub(super) id: LayerId,
    pub(super) parent: Option<Arc<Record>>,
    pub(super) has_deferred_parent: bool,
}

impl Claim {
    /// The new snapshot's id.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Its parent, as it was when the key was claimed.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Record>> {
        self.parent.as_ref()
    }

    /// Defers the parent: the snapshot may get it at Commit.
    #[must_use]
    pub fn with_deferred_parent(mut self) -> Self {
        self.has_deferred_parent = true;
        self
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock_claims(&self.shared).remove(&self.create.key);
    }
}

/// The map is whole even if a holder panicked: each use is one insert, remove or read.
pub(super) fn lock_claims(shared: &Shared) -> MutexGuard<'_, BTreeMap<Key, LayerId>> {
    shared.claims.lock()
}
