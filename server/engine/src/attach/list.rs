//! Attachments as they are shown.

use std::path::Path;
use std::sync::Arc;

use layerd_store::{AttachState, Attachment, MountedAt, Owner, VolumeId};

use super::mount::as_recorded;
use super::same::with_current_name;
use super::{AttachmentEntry, parse};
use crate::{Attachments, Error};

impl Attachments {
    /// Attachments that match, in the order of their creation. Costs one look at the mount table.
    ///
    /// # Errors
    /// [`AttachError::Mount`](crate::AttachError) if that cannot be read.
    pub fn attachments(
        &self,
        owner: Option<&Owner>,
        volume: Option<VolumeId>,
    ) -> Result<Vec<AttachmentEntry>, Error> {
        let view = self.root.store.records();
        let all = view.volumes().attachments();
        let matching = all.filter(|one| owner.is_none_or(|owner| one.owner == *owner));
        let matching =
            matching.filter(|one| volume.is_none_or(|volume| one.volume == Some(volume)));
        let matching: Vec<_> = matching.cloned().collect();
        let stands = self.stand(&matching)?;
        let entries = matching.into_iter().zip(stands);
        let entries = entries.map(|(one, stands)| self.attachment_entry(one, stands));
        entries.collect()
    }

    /// Records of attachments, all or those of a volume, in the order of their creation. Reads memory
    /// only; whether their mounts stand is not looked at.
    #[must_use]
    pub fn attachment_records(&self, volume: Option<VolumeId>) -> Vec<Arc<Attachment>> {
        let view = self.root.store.records();
        match volume {
            Some(id) => view.volumes().holders(id).cloned().collect(),
            None => view.volumes().attachments().cloned().collect(),
        }
    }

    /// Number of attachments. Reads memory only.
    #[must_use]
    pub fn attachment_count(&self) -> usize {
        self.root.store.records().volumes().attachments().count()
    }

    /// For each attachment, true if its mount exists or it needs none.
    fn stand(&self, attachments: &[Arc<Attachment>]) -> Result<Vec<bool>, Error> {
        let mounts = attachments.iter().filter_map(|one| one.mount.as_ref());
        let recorded: Vec<_> = mounts
            .map(|mount| (Path::new(&mount.target), as_recorded(mount)))
            .collect();
        let mut standing = self.mounter.are_mounted(&recorded)?.into_iter();
        let of_this_boot = |mount: &MountedAt| mount.boot == self.boot;
        let stands = attachments.iter().map(|one| {
            let mount = one.mount.as_ref();
            mount.is_none_or(|mount| standing.next() == Some(true) && of_this_boot(mount))
        });
        Ok(stands.collect())
    }

    pub(super) fn attachment_entry(
        &self,
        attachment: Arc<Attachment>,
        stands: bool,
    ) -> Result<AttachmentEntry, Error> {
        let view = self.root.store.records();
        let spec = with_current_name(&view, &attachment, parse(&attachment.spec)?);
        let volume = attachment.volume.and_then(|id| view.volumes().get(id));
        Ok(AttachmentEntry {
            volume: volume.map(|volume| volume.name.clone()),
            state: match attachment.state {
                // An intent waits for nothing, with or without a mount.
                AttachState::Attached if !stands => AttachState::Waiting,
                recorded => recorded,
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
