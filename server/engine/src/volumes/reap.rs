//! Gives back the space of volumes: those whose time in the trash is up, and those that never came
//! to be.

use std::time::Duration;

use layerd_store::{Timestamp, VolumeId};
use tracing::warn;

use super::slot;
use crate::Engine;

/// How long a deleted volume can be taken back.
const KEEP_VOLUMES: Duration = Duration::from_secs(7 * 24 * 3600);

impl Engine {
    /// Deletes volumes whose time in the trash is up, or all that were there at `emptied`.
    pub(crate) fn reap_volumes(&self) {
        let now = Timestamp::now();
        let keep = i64::try_from(KEEP_VOLUMES.as_nanos()).unwrap_or(i64::MAX);
        let emptied = self.trash.emptied();
        let is_due = |retired: Timestamp| {
            retired.0.saturating_add(keep) <= now.0
                || emptied.is_some_and(|emptied| retired <= emptied)
        };
        let view = self.store.view();
        let due = view
            .volumes()
            .retired()
            .filter(|volume| volume.retired.is_some_and(is_due));
        let mut gone = Vec::new();
        for volume in due {
            let deleted = self.volume_dirs.retire(slot(volume.id));
            match deleted.and_then(|()| {
                self.volume_dirs
                    .delete(slot(volume.id), &|| !self.backlog.is_stopping())
            }) {
                Ok(()) => gone.push(volume.id),
                Err(layerd_mounts::Error::Stopped) => break,
                Err(cause) => {
                    warn!(error = &cause as &dyn std::error::Error, id = %volume.id, "a deleted volume cannot be deleted yet")
                }
            }
        }
        self.forget_deleted(gone);
    }

    /// Records that stay for want of a write are dropped at the next start.
    pub(crate) fn forget_deleted(&self, gone: Vec<VolumeId>) {
        if !gone.is_empty()
            && let Err(cause) = self.store.forget_volumes(gone)
        {
            warn!(
                error = &cause as &dyn std::error::Error,
                "drop the records of deleted volumes"
            );
        }
    }

    /// Start-up tries again.
    pub(crate) fn settle_volume(&self, id: VolumeId) {
        if let Err(cause) = self.volume_dirs.settle(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "take the mark off a new volume");
        }
    }

    /// A failure leaves a folder without a record, which start-up deletes.
    pub(super) fn drop_unrecorded(&self, id: VolumeId) {
        if let Err(cause) = self.volume_dirs.discard(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "delete the folder of a volume that was not created");
        }
    }
}
