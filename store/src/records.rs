//! All records, in memory.
//!
//! The maps are persistent trees: a clone costs a few reference counts, and a reader may keep its
//! clone while the writer goes on.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::error::Error;
use crate::item::Item;
use crate::model::{Key, Kind, LayerId, Record, Removal, SteadyTime};
use crate::volumes::Volumes;

/// A consistent set of all records, as of one commit. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Records {
    live: OrdMap<LayerId, Arc<Record>>,
    keys: OrdMap<Key, LayerId>,
    children: OrdSet<(LayerId, LayerId)>,
    removed: OrdMap<LayerId, Arc<Record>>,
    volumes: Volumes,
    sequence: u64,
}

impl Records {
    /// A set of `items`, as of commit number `sequence`.
    pub(crate) fn of(items: Vec<Item>, sequence: u64) -> Result<Self, Error> {
        let mut records = Self {
            sequence,
            ..Self::default()
        };
        for item in items {
            if let Some(what) = records.clash(&item) {
                return Err(Error::Damaged {
                    path: "the records".into(),
                    what,
                });
            }
            records.put_item(item);
        }
        Ok(records)
    }

    /// A description of the key or name that `item` shares with another record.
    fn clash(&self, item: &Item) -> Option<String> {
        match item {
            Item::Snapshot(record) => {
                let taken = record.removed.is_none() && self.find(&record.key).is_some();
                taken.then(|| format!("two snapshots have the key {:?}", record.key.as_str()))
            }
            Item::Volume(volume) => {
                let taken = volume.removed.is_none() && self.volumes.find(&volume.name).is_some();
                taken.then(|| format!("two volumes have the name {}", volume.name))
            }
            Item::Attachment(attachment) => {
                let taken = self.volumes.attachment(&attachment.key).is_some();
                taken.then(|| format!("two attachments have the key {:?}", attachment.key.as_str()))
            }
        }
    }

    /// Volumes and attachments.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub(crate) fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// All records of all kinds.
    pub(crate) fn items(&self) -> impl Iterator<Item = Item> {
        let snapshots = self.live.values().chain(self.removed.values());
        snapshots
            .cloned()
            .map(Item::Snapshot)
            .chain(self.volumes.all())
    }

    pub(crate) fn put_item(&mut self, item: Item) {
        match item {
            Item::Snapshot(record) => self.put(record),
            Item::Volume(volume) => self.volumes.put(volume),
            Item::Attachment(attachment) => self.volumes.put_attachment(attachment),
        }
    }

    /// Number of the last commit in this set.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// The snapshot with this key or name.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<&Arc<Record>> {
        self.live.get(self.keys.get(key)?)
    }

    /// The snapshot with this id.
    #[must_use]
    pub fn get(&self, id: LayerId) -> Option<&Arc<Record>> {
        self.live.get(&id)
    }

    /// The removed snapshot with this id, whose directory may still exist.
    #[must_use]
    pub fn get_removed(&self, id: LayerId) -> Option<&Arc<Record>> {
        self.removed.get(&id)
    }

    /// All snapshots in the order of their creation.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.live.values()
    }

    /// Snapshots whose id is above `after`, in order: for paging.
    pub fn iter_after(&self, after: LayerId) -> impl Iterator<Item = &Arc<Record>> {
        let from = LayerId(after.0.saturating_add(1));
        self.live.range(from..).map(|(_, record)| record)
    }

    /// Removed snapshots, whose directories may still exist.
    pub fn removed(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.removed.values()
    }

    /// Removal times of everything in the trash.
    fn all_removals(&self) -> impl Iterator<Item = Removal> {
        let layers = self.removed.values().filter_map(|record| record.removed);
        layers.chain(self.volumes.removed().filter_map(|volume| volume.removed))
    }

    /// True if neither a snapshot nor a volume is in the trash.
    #[must_use]
    pub fn is_trash_empty(&self) -> bool {
        self.all_removals().next().is_none()
    }

    /// True if an entry of the trash has no steady time, as earlier versions left them.
    pub(crate) fn has_unstamped(&self) -> bool {
        self.all_removals().any(|removed| removed.steady.is_none())
    }

    /// The latest steady time in a record; 0 without one.
    pub(crate) fn newest_stamp(&self) -> SteadyTime {
        let stamps = self.all_removals().filter_map(|removed| removed.steady);
        stamps.max().unwrap_or(SteadyTime(0))
    }

    /// Number of snapshots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// True without a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Snapshots directly above `id`.
    pub fn children(&self, id: LayerId) -> impl Iterator<Item = &Arc<Record>> {
        let all = (id, LayerId(0))..=(id, LayerId(u64::MAX));
        self.children
            .range(all)
            .filter_map(|(_, child)| self.live.get(child))
    }

    /// Name of the layer below `record`; empty without one.
    #[must_use]
    pub fn parent_name(&self, record: &Record) -> &str {
        let parent = record.parent.and_then(|id| self.live.get(&id));
        parent.map_or("", |parent| parent.key.as_str())
    }

    /// As [`parent_name`](Self::parent_name), but finds removed parents too.
    #[must_use]
    pub fn parent_name_of_any(&self, record: &Record) -> &str {
        let parent = record.parent.and_then(|id| self.stored(id));
        parent.map_or("", |parent| parent.key.as_str())
    }

    /// The layers below `record`, nearest first.
    pub fn ancestors(&self, record: &Record) -> impl Iterator<Item = &Arc<Record>> {
        let above = |id: Option<LayerId>| id.and_then(|id| self.live.get(&id));
        std::iter::successors(above(record.parent), move |layer| above(layer.parent))
    }

    /// Number of snapshots of one kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.iter().filter(|record| record.kind == kind).count()
    }

    pub(crate) fn stored(&self, id: LayerId) -> Option<&Arc<Record>> {
        self.live.get(&id).or_else(|| self.removed.get(&id))
    }

    /// Inserts a record, or replaces the one with the same id.
    fn put(&mut self, record: Arc<Record>) {
        self.drop_record(record.id);
        if record.removed.is_some() {
            self.removed.insert(record.id, record);
            return;
        }
        self.keys.insert(record.key.clone(), record.id);
        if let Some(parent) = record.parent {
            self.children.insert((parent, record.id));
        }
        self.live.insert(record.id, record);
    }

    /// Drops a record in any state.
    pub(crate) fn drop_record(&mut self, id: LayerId) {
        self.removed.remove(&id);
        let Some(old) = self.live.remove(&id) else {
            return;
        };
        self.keys.remove(&old.key);
        if let Some(parent) = old.parent {
            self.children.remove(&(parent, id));
        }
    }
}
