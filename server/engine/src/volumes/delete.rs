//! Deleting volumes: into the trash, and out of it for good.

use layerd_store::{Refusal, VolumeId, VolumeName};
use tracing::{info, warn};

use super::{Held, slot};
use crate::events::Topic;
use crate::trash::Discarded;
use crate::{Error, VolumeError, Volumes};

impl Volumes {
    /// Moves a volume to the trash: one durable write and a rename, whatever its size. Answers its
    /// id, or `None` if there is none of this name.
    ///
    /// # Errors
    /// `Refused` while it is attached or being copied, naming who uses it.
    pub fn delete_volume(&self, name: &VolumeName) -> Result<Option<VolumeId>, Error> {
        let held = match self.hold_volume(name) {
            Err(Error::Volume(VolumeError::NoVolume { .. })) => return Ok(None),
            held => held?,
        };
        let id = held.volume.id;
        self.mark_volume_removed(held)?;
        Ok(Some(id))
    }

    /// Deletes a volume that a failed call made, unless it is in use or holds something by now.
    /// One that the call `filled` goes to the trash, any other for good.
    pub(crate) fn drop_unused_volume(&self, id: VolumeId, filled: bool) -> Result<(), Error> {
        let look = |cause| Error::driver("look into a volume")(cause);
        let Some(held) = self.hold_volume_id(id) else {
            return Ok(());
        };
        if !filled && !self.is_empty(id)? {
            return Ok(());
        }
        match self.move_to_trash(held) {
            Err(Error::Store(layerd_store::Error::Refused(Refusal::VolumeInUse { .. }))) => {
                return Ok(());
            }
            other => other?,
        }
        let _pass = self.root.backlog.hold();
        // It was in sight until now.
        if self.dirs.is_trashed_empty(slot(id)).map_err(look)? {
            self.delete_trashed(id)?;
        } else {
            self.rest(id);
        }
        Ok(())
    }

    /// Deletes a volume in the trash for good, and its record. The caller keeps the reaper away.
    pub(super) fn delete_trashed(&self, id: VolumeId) -> Result<(), Error> {
        self.dirs
            .delete(slot(id), &|| !self.root.backlog.is_stopping())
            .map_err(Error::driver("delete a volume"))?;
        self.root.trash.deleted(Discarded::Volume(id));
        Ok(self.root.store.drop_volume_records(vec![id])?)
    }

    /// Moves a volume to the trash, where nothing of it stays mounted.
    pub(crate) fn mark_volume_removed(&self, held: Held<'_>) -> Result<(), Error> {
        let id = held.volume.id;
        self.move_to_trash(held)?;
        self.rest(id);
        Ok(())
    }

    /// An image that stays mounted in the trash is unmounted when it is deleted.
    fn rest(&self, id: VolumeId) {
        if let Err(cause) = self.dirs.rest(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "unmount a deleted volume");
        }
    }

    fn move_to_trash(&self, held: Held<'_>) -> Result<(), Error> {
        let volume = &held.volume;
        let name = &volume.name;
        self.pins.refuse(volume.id, name)?;
        self.root.store.mark_volume_removed(name, Some(volume.id))?;
        // The deletion is durable. If the rename fails, start-up does it.
        if let Err(cause) = self.dirs.retire(slot(volume.id)) {
            warn!(error = &cause as &dyn std::error::Error, %name, "move a deleted volume to the trash");
        }
        self.relink(name);
        self.root
            .events
            .tell(Topic::Volume, "deleted", name.as_str());
        info!(%name, id = %volume.id, "volume deleted; it can be taken back from the trash");
        Ok(())
    }
}
