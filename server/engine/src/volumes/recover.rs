//! What start-up makes good of volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use layerd_mounts::Slot;
use layerd_store::{Volume, VolumeId};
use tracing::{error, info, warn};

use super::slot;
use crate::{Engine, Error};

impl Engine {
    /// Deletes what was staged, moves what was deleted to the trash, reports what is unknown or
    /// missing, drops the records of what was deleted for good, and makes the links for people anew.
    /// Called before any request.
    pub(crate) fn recover_volumes(&self) -> Result<(), Error> {
        let found = self
            .volume_dirs
            .list()
            .map_err(Error::driver("list the volumes"))?;
        let view = self.store.view();
        let volumes = view.volumes();
        for staged in found.staged {
            note(
                self.volume_dirs.drop_stage(staged),
                "delete what an interrupted call staged",
            );
        }
        for there in &found.live {
            let id = VolumeId(there.0);
            if volumes.get(id).is_some() {
                self.settle_volume(id);
            } else if volumes.retired().any(|volume| volume.id == id) {
                note(
                    self.volume_dirs.retire(*there),
                    "move a deleted volume to the trash",
                );
            } else {
                self.unrecorded(*there);
            }
        }
        for volume in volumes
            .iter()
            .filter(|volume| !found.live.contains(&slot(volume.id)))
        {
            if found.trashed.contains(&slot(volume.id)) {
                note(
                    self.volume_dirs.restore(slot(volume.id)).map(drop),
                    "move a volume back out of the trash",
                );
            } else {
                error!(name = %volume.name, id = %volume.id, "the folder of a volume is missing; put it back from a backup, or delete the volume");
            }
        }
        let is_gone = |volume: &&Arc<Volume>| {
            let slot = slot(volume.id);
            !found.trashed.contains(&slot) && !found.live.contains(&slot)
        };
        let gone = volumes.retired().filter(is_gone).map(|volume| volume.id);
        self.forget_deleted(gone.collect());
        let names: BTreeMap<_, _> = volumes
            .iter()
            .map(|volume| (volume.name.as_str().to_owned(), slot(volume.id)))
            .collect();
        note(
            self.volume_dirs.link_all(&names),
            "link the names of volumes",
        );
        Ok(())
    }

    /// A folder that no record names. A new or empty one is what an interrupted call left; anything
    /// else may be the only copy.
    fn unrecorded(&self, there: Slot) {
        let is_new = self.volume_dirs.is_new(there);
        if matches!(is_new, Ok(true)) || matches!(self.volume_dirs.is_empty(there), Ok(true)) {
            note(
                self.volume_dirs.discard(there),
                "delete the folder of an interrupted call",
            );
            info!(id = %there, "an interrupted call left a volume without a record; it is gone");
        } else {
            warn!(path = %self.volume_dirs.data_path(there).display(), "no record names this volume; it was left alone");
        }
    }
}

fn note(outcome: Result<(), layerd_mounts::Error>, attempt: &'static str) {
    if let Err(cause) = outcome {
        warn!(error = &cause as &dyn std::error::Error, "{attempt}");
    }
}
