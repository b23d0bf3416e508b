//! The store's operations on volumes and attachments. Each is durable when it returns.

use std::sync::Arc;

use super::Store;
use crate::batches::Class;
use crate::error::{Error, Refusal};
use crate::model::{LabelChange, Timestamp, Usage};
use crate::shared::Files;
use crate::volume::{
    AttachState, Attachment, AttachmentId, MadeSource, MountedAt, Volume, VolumeId, VolumeName,
};
use crate::volume_state;

impl Store {
    /// Hands out an id for a volume.
    ///
    /// # Errors
    /// [`Error::Write`] if new ids could not be reserved.
    pub fn volume_id(&self) -> Result<VolumeId, Error> {
        Ok(VolumeId(self.fresh_id()?.0))
    }

    /// Hands out an id for an attachment.
    ///
    /// # Errors
    /// [`Error::Write`] if new ids could not be reserved.
    pub fn attachment_id(&self) -> Result<AttachmentId, Error> {
        Ok(AttachmentId(self.fresh_id()?.0))
    }

    /// Records a volume whose directory exists; the barrier is called first.
    ///
    /// # Errors
    /// [`Error::Refused`] if the name is taken; [`Error::Barrier`], [`Error::Full`],
    /// [`Error::Write`].
    pub fn create_volume(&self, volume: Volume) -> Result<Arc<Volume>, Error> {
        self.writer
            .write(Class::NewWithFiles(Files::Volumes), move |records| {
                volume_state::create(records, volume)
            })
    }

    /// Changes labels of a volume, in order.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or its labels would exceed their limit;
    /// [`Error::Write`].
    pub fn relabel_volume(
        &self,
        name: &VolumeName,
        changes: Vec<LabelChange>,
    ) -> Result<Arc<Volume>, Error> {
        let (name, now) = (name.clone(), Timestamp::now());
        self.writer.write(Class::Records, move |records| {
            volume_state::relabel(records, &name, &changes, now)
        })
    }

    /// Gives a volume one option, in place of the value that it has.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing; [`Error::Write`].
    pub fn set_volume_option(
        &self,
        id: VolumeId,
        key: &'static str,
        value: String,
    ) -> Result<Arc<Volume>, Error> {
        let now = Timestamp::now();
        self.writer.write(Class::Records, move |records| {
            volume_state::set_option(records, id, key, value, now)
        })
    }

    /// Gives a volume another name. Attachments do not notice.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or the new name is taken; [`Error::Write`].
    pub fn rename_volume(&self, name: &VolumeName, new: VolumeName) -> Result<Arc<Volume>, Error> {
        let (name, now) = (name.clone(), Timestamp::now());
        self.writer.write(Class::Records, move |records| {
            volume_state::rename(records, &name, new, now)
        })
    }

    /// Frees the name of a volume and marks its record removed, unless an attachment holds it. With
    /// `only`, the name must still belong to that volume.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is missing or in use; [`Error::Write`].
    pub fn mark_volume_removed(
        &self,
        name: &VolumeName,
        only: Option<VolumeId>,
    ) -> Result<Arc<Volume>, Error> {
        let (name, shared) = (name.clone(), self.shared.clone());
        self.writer.write(Class::Records, move |records| {
            let found = records.volumes().find(&name);
            if only.is_some_and(|id| found.is_none_or(|volume| volume.id != id)) {
                return Err(Refusal::VolumeMissing { name });
            }
            volume_state::mark_removed(records, &name, shared.removal_now())
        })
    }

    /// Restores a deleted volume, under its old name or another one.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not in the trash or the name is taken; [`Error::Write`].
    pub fn restore_volume(
        &self,
        id: VolumeId,
        name: Option<VolumeName>,
    ) -> Result<Arc<Volume>, Error> {
        self.writer.write(Class::Records, move |records| {
            volume_state::restore(records, id, name)
        })
    }

    /// Records the disk usage of a volume, measured at `taken`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn set_volume_usage(
        &self,
        id: VolumeId,
        usage: Usage,
        taken: Timestamp,
    ) -> Result<(), Error> {
        self.writer.write(Class::Records, move |records| {
            volume_state::measured(records, id, usage, taken)
        })
    }

    /// Records the source that a volume was filled from; its content is made durable first.
    ///
    /// # Errors
    /// [`Error::Barrier`], [`Error::Write`].
    pub fn set_volume_filled(&self, id: VolumeId, from: String) -> Result<(), Error> {
        self.writer
            .write(Class::Files(Files::Volumes), move |records| {
                volume_state::filled(records, id, from)
            })
    }

    /// Drops the records of deleted volumes whose directories are gone, which becomes durable first.
    ///
    /// # Errors
    /// [`Error::Barrier`], [`Error::Write`].
    pub fn drop_volume_records(&self, ids: Vec<VolumeId>) -> Result<(), Error> {
        self.writer
            .write(Class::Files(Files::Volumes), move |records| {
                volume_state::drop_records(records, &ids)
            })
    }

    /// Records the intent to attach. From then on its volume or layer cannot be removed.
    ///
    /// # Errors
    /// [`Error::Refused`] if the key is taken or its volume or layer is gone; [`Error::Full`],
    /// [`Error::Write`].
    pub fn attach(&self, attachment: Attachment) -> Result<Arc<Attachment>, Error> {
        self.writer.write(Class::New, move |records| {
            volume_state::attach(records, attachment)
        })
    }

    /// Records paths and volume that are made for an attachment, until its mount is recorded.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not exist; [`Error::Write`].
    pub fn set_made(&self, id: AttachmentId, made: MadeSource) -> Result<(), Error> {
        let written = self.writer.write(Class::Records, move |records| {
            volume_state::made(records, id, made)
        });
        written.map(drop)
    }

    /// Records state and mount of an attachment.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not exist; [`Error::Write`].
    pub fn set_attached(
        &self,
        id: AttachmentId,
        state: AttachState,
        mount: Option<MountedAt>,
    ) -> Result<Arc<Attachment>, Error> {
        self.writer.write(Class::Records, move |records| {
            volume_state::attached(records, id, state, mount)
        })
    }

    /// Makes an attachment an intent again, with what was made for it: it was acknowledged to no caller, and is
    /// about to be undone.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not exist; [`Error::Write`].
    pub fn revoke_attached(&self, id: AttachmentId, made: MadeSource) -> Result<(), Error> {
        let written = self.writer.write(Class::Records, move |records| {
            volume_state::revoked(records, id, made)
        });
        written.map(drop)
    }

    /// Drops an attachment whose mount is gone.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn detach(&self, id: AttachmentId) -> Result<(), Error> {
        self.writer.write(Class::Records, move |records| {
            volume_state::detached(records, id)
        })
    }
}
