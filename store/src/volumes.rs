//! All volumes and attachments, in memory.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::item::Item;
use crate::model::{Key, LayerId};
use crate::volume::{Attachment, AttachmentId, Volume, VolumeId, VolumeName};

/// A consistent set of volumes and attachments. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    live: OrdMap<VolumeId, Arc<Volume>>,
    names: OrdMap<VolumeName, VolumeId>,
    removed: OrdMap<VolumeId, Arc<Volume>>,
    attachments: OrdMap<AttachmentId, Arc<Attachment>>,
    keys: OrdMap<Key, AttachmentId>,
    holders: OrdSet<(VolumeId, AttachmentId)>,
    layer_holders: OrdSet<(LayerId, AttachmentId)>,
}

impl Volumes {
    /// The volume with this name.
    #[must_use]
    pub fn find(&self, name: &VolumeName) -> Option<&Arc<Volume>> {
        self.live.get(self.names.get(name)?)
    }

    /// The volume with this id.
    #[must_use]
    pub fn get(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.live.get(&id)
    }

    /// All volumes in the order of their creation.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.live.values()
    }

    /// Deleted volumes, whose directories may still exist.
    pub fn removed(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.removed.values()
    }

    /// The deleted volume with this id, whose directory may still exist.
    #[must_use]
    pub fn get_removed(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.removed.get(&id)
    }

    /// The attachment with this key.
    #[must_use]
    pub fn attachment(&self, key: &Key) -> Option<&Arc<Attachment>> {
        self.attachments.get(self.keys.get(key)?)
    }

    /// All attachments in the order of their creation.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Attachment>> {
        self.attachments.values()
    }

    /// Attachments of a volume.
    pub fn holders(&self, id: VolumeId) -> impl Iterator<Item = &Arc<Attachment>> {
        let all = (id, AttachmentId(0))..=(id, AttachmentId(u64::MAX));
        self.holders
            .range(all)
            .filter_map(|(_, holder)| self.attachments.get(holder))
    }

    /// An attachment of a layer, if there is one.
    #[must_use]
    pub fn holder_of_layer(&self, id: LayerId) -> Option<&Arc<Attachment>> {
        let all = (id, AttachmentId(0))..=(id, AttachmentId(u64::MAX));
        let (_, holder) = self.layer_holders.range(all).next()?;
        self.attachments.get(holder)
    }

    pub(crate) fn stored(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.live.get(&id).or_else(|| self.removed.get(&id))
    }

    pub(crate) fn stored_attachment(&self, id: AttachmentId) -> Option<&Arc<Attachment>> {
        self.attachments.get(&id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Item> {
        let volumes = self.live.values().chain(self.removed.values());
        let attachments = self.attachments.values();
        volumes
            .cloned()
            .map(Item::Volume)
            .chain(attachments.cloned().map(Item::Attachment))
    }

    pub(crate) fn put(&mut self, volume: Arc<Volume>) {
        self.drop_record(volume.id);
        if volume.removed.is_some() {
            self.removed.insert(volume.id, volume);
            return;
        }
        self.names.insert(volume.name.clone(), volume.id);
        self.live.insert(volume.id, volume);
    }

    pub(crate) fn drop_record(&mut self, id: VolumeId) {
        self.removed.remove(&id);
        if let Some(old) = self.live.remove(&id) {
            self.names.remove(&old.name);
        }
    }

    pub(crate) fn put_attachment(&mut self, attachment: Arc<Attachment>) {
        self.drop_attachment(attachment.id);
        self.keys.insert(attachment.key.clone(), attachment.id);
        if let Some(volume) = attachment.volume {
            self.holders.insert((volume, attachment.id));
        }
        if let Some(layer) = attachment.layer {
            self.layer_holders.insert((layer, attachment.id));
        }
        self.attachments.insert(attachment.id, attachment);
    }

    pub(crate) fn drop_attachment(&mut self, id: AttachmentId) {
        let Some(old) = self.attachments.remove(&id) else {
            return;
        };
        self.keys.remove(&old.key);
        if let Some(volume) = old.volume {
            self.holders.remove(&(volume, id));
        }
        if let Some(layer) = old.layer {
            self.layer_holders.remove(&(layer, id));
        }
    }
}
