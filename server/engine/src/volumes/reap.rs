//! Gives back the space of volumes: those whose time in the trash is up, and those that never came
//! to be.

use layerd_store::{Volume, VolumeId};
use tracing::warn;

use super::slot;
use crate::trash::Discarded;
use crate::{Reaped, Volumes};

impl Volumes {
    /// Deletes volumes that may be deleted; notes when the next one may.
    pub(crate) fn reap_volumes(&self, reaped: &mut Reaped) {
        let view = self.root.store.records();
        let may_go = |volume: &Volume, reaped: &mut Reaped| {
            let (what, look) = (Discarded::Volume(volume.id), self.root.trash_look(false));
            let Some(removed) = volume.removed else {
                return false;
            };
            reaped.is_now(self.root.trash.due_in(what, removed, &look))
                && self.root.trash.begin(what, removed, &look)
        };
        let mut gone = Vec::new();
        let removed = view.volumes().removed();
        for volume in removed.filter(|one| self.root.backlog.is_due(Discarded::Volume(one.id))) {
            let _guard = self.locks.hold(volume.id);
            // The deletion may be under way, and its folder not moved yet.
            let newest = self.root.store.records();
            let newest = newest.volumes().get_removed(volume.id);
            if !newest
                .is_some_and(|newest| newest.removed == volume.removed && may_go(newest, reaped))
            {
                continue;
            }
            let what = Discarded::Volume(volume.id);
            let deleted = self.dirs.retire(slot(volume.id));
            match deleted.and_then(|()| {
                self.dirs
                    .delete(slot(volume.id), &|| !self.root.backlog.is_stopping())
            }) {
                Ok(()) => {
                    self.root.trash.deleted(what);
                    self.root.backlog.note_success(what);
                    gone.push(volume.id);
                }
                Err(layerd_mounts::Error::Stopped) => break,
                Err(cause) => {
                    warn!(error = &cause as &dyn std::error::Error, id = %volume.id, "a deleted volume cannot be deleted yet");
                    self.root.backlog.note_failure(what, &cause);
                    reaped.failed += 1;
                }
            }
        }
        self.forget_deleted(gone);
    }

    /// Records that stay for want of a write are dropped at the next start.
    pub(crate) fn forget_deleted(&self, gone: Vec<VolumeId>) {
        if !gone.is_empty()
            && let Err(cause) = self.root.store.drop_volume_records(gone)
        {
            warn!(
                error = &cause as &dyn std::error::Error,
                "drop the records of deleted volumes"
            );
        }
    }

    /// Start-up tries again.
    pub(crate) fn settle_volume(&self, id: VolumeId) {
        if let Err(cause) = self.dirs.clear_marker(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "take the mark off a new volume");
        }
    }

    /// A failure leaves a folder without a record, which start-up deletes.
    pub(super) fn drop_unrecorded(&self, id: VolumeId) {
        if let Err(cause) = self.dirs.discard(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "delete the folder of a volume that was not created");
        }
    }
}
