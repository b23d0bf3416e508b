//! Gives back the space of removed layers.
//!
//! There is one way to delete: into the trash by rename, and there. What is deleted was removed by
//! a client, or is a directory whose id an earlier or failed call took without ever recording it.

use std::time::Duration;

use metrics::counter;
use tracing::debug;

use crate::Engine;
use crate::events::Topic;
use crate::trash::Discarded;

/// Result of one pass of the reaper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Layers deleted.
    pub deleted: usize,
    /// Layers that could not be deleted now; they are tried again later.
    pub failed: usize,
    /// When the next layer in the trash may be deleted.
    pub next_in: Option<Duration>,
}

impl Reaped {
    /// True if an entry may be deleted now; otherwise records the time at which it may.
    pub(crate) fn is_now(&mut self, left: Option<Duration>) -> bool {
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.next_in = Some(self.next_in.map_or(left, |next| next.min(left)));
        }
        left == Some(Duration::ZERO)
    }
}

impl Engine {
    /// Deletes what was removed and may go, and answers how much. One failure does not keep the
    /// others from being tried; what failed waits longer each time. Ends early after
    /// [`stop`](Self::stop). A second call at the same time waits for the first and then looks
    /// again.
    pub fn reap(&self) -> Reaped {
        let _pass = self.root.backlog.hold();
        let mut reaped = Reaped::default();
        let is_urgent = self.root.is_space_wanted();
        self.layers.reap_layers(is_urgent, &mut reaped);
        self.volumes.reap_volumes(&mut reaped);
        self.root.store.keep_ages();
        counter!("layerd_deleted_layers_total").increment(reaped.deleted as u64);
        counter!("layerd_deletion_failures_total").increment(reaped.failed as u64);
        if reaped.deleted > 0 {
            let count = reaped.deleted.to_string();
            self.root.events.tell(Topic::Trash, "deleted", &count);
        }
        if reaped.deleted + reaped.failed > 0 {
            debug!(deleted = reaped.deleted, failed = reaped.failed, "reaped");
        }
        reaped
    }

    /// Layers and volumes whose last deletion failed, and why; they are tried again.
    #[must_use]
    pub fn failed_deletions(&self) -> Vec<(Discarded, String)> {
        self.root.backlog.failures()
    }

    /// True if the reaper has no work, now or later.
    #[must_use]
    pub fn is_reaped(&self) -> bool {
        self.root.backlog.is_empty() && self.root.store.records().removed().next().is_none()
    }
}

#[cfg(test)]
mod tests;
