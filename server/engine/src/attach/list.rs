//! Attachments as they are shown.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use layerd_mounts::mounter::MountId;
use layerd_store::{AttachState, Attachment, MountedAt, Owner, VolumeId};

use super::same::with_current_name;
use super::{AttachmentEntry, parse};
use crate::{Engine, Error};

impl Engine {
    /// Attachments that match, in the order of their creation. Costs one look at the mount table.
    ///
    /// # Errors
    /// [`Error::Mount`] if that cannot be read.
    pub fn attachments(
        &self,
        owner: Option<&Owner>,
        volume: Option<VolumeId>,
    ) -> Result<Vec<AttachmentEntry>, Error> {
        let view = self.store.view();
        let all = view.volumes().attachments();
        let matching = all.filter(|one| owner.is_none_or(|owner| one.owner == *owner));
        let matching =
            matching.filter(|one| volume.is_none_or(|volume| one.volume == Some(volume)));
        let matching: Vec<_> = matching.cloned().collect();
        let standing = self.standing(&matching)?;
        let entries = matching
            .into_iter()
            .map(|one| self.attachment_entry(one, &|mount| standing.contains(&mount)));
        entries.collect()
    }

    /// Number of attachments. Reads memory only.
    #[must_use]
    pub fn attachment_count(&self) -> usize {
        self.store.view().volumes().attachments().count()
    }

    /// Numbers of the mounts that stand, if any of the attachments has one.
    fn standing(&self, attachments: &[Arc<Attachment>]) -> Result<BTreeSet<MountId>, Error> {
        if attachments.iter().all(|one| one.mount.is_none()) {
            return Ok(BTreeSet::new());
        }
        let mounts = self.mounter.mounts_below(Path::new("/"))?;
        Ok(mounts.into_iter().map(|mount| mount.id).collect())
    }

    pub(super) fn attachment_entry(
        &self,
        attachment: Arc<Attachment>,
        stands: &dyn Fn(MountId) -> bool,
    ) -> Result<AttachmentEntry, Error> {
        let is_gone = |mount: &MountedAt| mount.boot != self.boot || !stands(mount.unique_id);
        let view = self.store.view();
        let spec = with_current_name(&view, &attachment, parse(&attachment.spec)?);
        let volume = attachment.volume.and_then(|id| view.volumes().get(id));
        Ok(AttachmentEntry {
            volume: volume.map(|volume| volume.name.clone()),
            state: match attachment.mount.as_ref().is_some_and(is_gone) {
                true => AttachState::Waiting,
                false => attachment.state,
            },
            oci: self.oci_mounts(&spec, &attachment),
            spec,
            attachment,
            is_new: false,
            created: false,
            filled: false,
            notes: Vec::new(),
        })
    }
}
