//! Volumes by their ids, which stay and are never used again while names change hands: for callers that
//! keep them for long.

use layerd_mounts::Space;
use layerd_store::{Refusal, VolumeId};

use super::sizes::SIZE;
use super::{VolumeEntry, VolumeRef, limit_of, size_asked, slot};
use crate::events::Topic;
use crate::reserve::Area;
use crate::{Error, Volumes};

impl Volumes {
    /// Describes a volume. Reads memory only.
    ///
    /// # Errors
    /// `Refused` if it is not there, or in the trash.
    pub fn volume_by_id(&self, id: VolumeId) -> Result<VolumeEntry, Error> {
        let records = self.root.store.records();
        let volume = records
            .volumes()
            .get(id)
            .ok_or(Refusal::VolumeGone { id })?;
        Ok(self.volume_entry(volume.clone()))
    }

    /// Moves a volume to the trash, as [`delete_volume`](Self::delete_volume). Answers whether it was
    /// there.
    ///
    /// # Errors
    /// `Refused` while it is attached or being copied, naming who uses it.
    pub fn delete_volume_by_id(&self, id: VolumeId) -> Result<bool, Error> {
        let Some(held) = self.hold_volume_id(id) else {
            return Ok(false);
        };
        self.mark_volume_removed(held)?;
        Ok(true)
    }

    /// Gives a volume a larger size; one that is larger already keeps its own. One that nothing holds to
    /// its size, which an older release recorded, has the new one recorded likewise. Durable on return.
    ///
    /// # Errors
    /// As for [`resize_volume`](Self::resize_volume).
    pub fn grow_volume(&self, id: VolumeId, bytes: u64) -> Result<VolumeEntry, Error> {
        let there = self.volume_by_id(id)?;
        if limit_of(&there.volume).is_some() {
            return match size_asked(&there.volume) {
                Some(have) if have >= bytes => Ok(there),
                _ => self.resize_volume(&VolumeRef::Id(id), bytes, false),
            };
        }
        let held = self.hold_volume_id(id).ok_or(Refusal::VolumeGone { id })?;
        if size_asked(&held.volume).is_some_and(|there| there >= bytes) {
            return Ok(self.volume_entry(held.volume.clone()));
        }
        let grown = self
            .root
            .store
            .set_volume_option(id, SIZE, bytes.to_string())?;
        self.root
            .events
            .tell(Topic::Volume, "updated", grown.name.as_str());
        Ok(self.volume_entry(grown))
    }

    /// Gives all that is in a volume to a group whose members may read and write it, as kubelet does
    /// for `fsGroup`: directories pass the group on. The top folder comes last, and if it is as wanted
    /// nothing is looked at. Costs a look at each file otherwise.
    ///
    /// # Errors
    /// [`Error::Driver`]; some of the files have the group then.
    pub(crate) fn give_group(&self, id: VolumeId, group: u32) -> Result<(), Error> {
        let failed = Error::driver("give a volume to a group");
        let keep_going = || !self.root.backlog.is_stopping();
        let given = self.dirs.give_group(slot(id), group, &keep_going);
        given.map_err(failed)
    }

    /// Bytes that a new volume may take now: what is free, without the reserve. One or two statfs(2).
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn bytes_left(&self) -> Result<u64, Error> {
        match self.root.look_at_reserve(Area::Volumes) {
            Some(reserved) => Ok(reserved.bytes_left()),
            None => self.space().map(|space| space.bytes_free),
        }
    }

    /// Room on the file system of the volumes, now. Nothing is kept free for sizes that were asked for.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn space(&self) -> Result<Space, Error> {
        self.dirs
            .space()
            .map_err(Error::driver("look for room on the disk"))
    }
}
