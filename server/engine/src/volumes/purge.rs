//! Deleting one volume from the trash for good.

use layerd_store::{VolumeId, VolumeName};
use tracing::info;

use super::{VolumeEntry, slot};
use crate::events::Topic;
use crate::{Error, VolumeError, Volumes};

/// A volume that was deleted for good.
#[derive(Debug, Clone)]
pub struct Purged {
    /// The purged volume.
    pub volume: VolumeEntry,
    /// Number of volumes that are in the trash then.
    pub left: usize,
}

impl Volumes {
    /// Deletes a volume from the trash for good, by id or by a name that only one in the trash had.
    /// Waits for a pass of the reaper under way. Costs one look at each file; durable on return.
    ///
    /// # Errors
    /// `Missing` if it is not in the trash; `Refused` if a volume has this name and is not in the
    /// trash; `Invalid` if several had the name. After another failure part of it may be gone, and
    /// it stays in the trash.
    pub fn purge_volume(
        &self,
        id: Option<VolumeId>,
        name: Option<&VolumeName>,
    ) -> Result<Purged, Error> {
        let _pass = self.root.backlog.hold();
        let view = self.root.store.records();
        let id = match (id, self.deleted_id(name)) {
            (Some(id), _) | (None, Ok(id)) => id,
            (None, Err(cause)) => return Err(self.not_deleted(name).unwrap_or(cause)),
        };
        let mut deleted = view.volumes().removed();
        let Some(volume) = deleted.find(|volume| volume.id == id).cloned() else {
            let live = view.volumes().get(id).map(|volume| &volume.name);
            let missing = layerd_store::Refusal::NotInTrash { id };
            return Err(self.not_deleted(live).unwrap_or(missing.into()));
        };
        // Its folder stays where it was if moving it failed at its deletion.
        self.dirs
            .retire(slot(id))
            .map_err(Error::driver("move a deleted volume to the trash"))?;
        self.delete_trashed(id)?;
        info!(name = %volume.name, %id, "volume deleted for good");
        self.root
            .events
            .tell(Topic::Volume, "purged", volume.name.as_str());
        let left = self.volumes_in_trash();
        Ok(Purged {
            volume: self.volume_entry(volume),
            left,
        })
    }

    /// The refusal for a volume that is there.
    fn not_deleted(&self, name: Option<&VolumeName>) -> Option<Error> {
        let name = name?.clone();
        let is_there = self.root.store.records().volumes().find(&name).is_some();
        is_there.then_some(Error::Volume(VolumeError::NotDeleted { name }))
    }
}
