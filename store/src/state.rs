//! The states of a record and the legal moves between them, as pure functions of the records and a
//! request; the result is a list of edits or a refusal.
//!
//! ```text
//!  create ──> Active ──commit──> Committed ──remove──> removed ──drop_records──> gone
//!    │           └───────────────remove──────────────────^
//!    └─────> View ───────────────remove──────────────────┘
//! ```
//!
//! The order of the checks is containerd's: clients tell cases apart by the first one that fails.

use std::sync::Arc;

use crate::error::Refusal;
use crate::item::Item;
use crate::model::{
    BadInput, Key, Kind, LabelChange, Labels, LayerId, Record, Removal, SteadyTime, Timestamp,
    Usage,
};
use crate::records::Records;
use crate::volume::{AttachmentId, Volume, VolumeId};

/// One change to the records.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Put(Item),
    Drop(LayerId),
    DropVolume(VolumeId),
    DropAttachment(AttachmentId),
}

impl Edit {
    /// The record before the edit.
    pub(crate) fn before(&self, records: &Records) -> Option<Item> {
        let snapshot = |id| records.stored(id).cloned().map(Item::Snapshot);
        let volume = |id| records.volumes().stored(id).cloned().map(Item::Volume);
        let attachment = |id| {
            records
                .volumes()
                .stored_attachment(id)
                .cloned()
                .map(Item::Attachment)
        };
        match self {
            Self::Put(Item::Snapshot(record)) => snapshot(record.id),
            Self::Put(Item::Volume(record)) => volume(record.id),
            Self::Put(Item::Attachment(record)) => attachment(record.id),
            Self::Drop(id) => snapshot(*id),
            Self::DropVolume(id) => volume(*id),
            Self::DropAttachment(id) => attachment(*id),
        }
    }

    /// The record after the edit; `None` if it is dropped.
    pub(crate) fn after(&self) -> Option<&Item> {
        match self {
            Self::Put(item) => Some(item),
            Self::Drop(_) | Self::DropVolume(_) | Self::DropAttachment(_) => None,
        }
    }

    pub(crate) fn apply(&self, records: &mut Records) {
        match self {
            Self::Put(item) => records.put_item(item.clone()),
            Self::Drop(id) => records.drop_record(*id),
            Self::DropVolume(id) => records.volumes_mut().drop_record(*id),
            Self::DropAttachment(id) => records.volumes_mut().drop_attachment(*id),
        }
    }
}

/// Edits of a request, and its answer once they are durable.
pub(crate) type Decision<T> = Result<(Vec<Edit>, T), Refusal>;

/// A new active snapshot or view.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its key.
    pub key: Key,
    /// [`Kind::Active`] or [`Kind::View`].
    pub kind: Kind,
    /// Name of its parent.
    pub parent: Option<Key>,
    /// Its labels.
    pub labels: Labels,
}

/// A commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Name of the committed snapshot.
    pub name: Key,
    /// The active snapshot.
    pub key: Key,
    /// The committed snapshot's labels; those of the active one are not kept.
    pub labels: Labels,
    /// The parent to give it, if it has none.
    pub parent: Option<Key>,
    /// Its disk usage, if already known.
    pub usage: Option<Usage>,
}

/// The layers of a checked commit. A key may pass to another layer before the commit is recorded;
/// work done meanwhile counts for these layers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The active snapshot.
    pub active: Arc<Record>,
    /// The parent it will have.
    pub parent: Option<LayerId>,
}

/// Checks that `create` is allowed; returns its parent.
pub(crate) fn check_create(
    records: &Records,
    create: &Create,
) -> Result<Option<Arc<Record>>, Refusal> {
    let parent = create
        .parent
        .as_ref()
        .map(|name| committed(records, name, false))
        .transpose()?;
    if records.find(&create.key).is_some() {
        return Err(Refusal::Taken {
            key: create.key.clone(),
        });
    }
    Ok(parent)
}

pub(crate) fn create(
    records: &Records,
    create: Create,
    (id, claimed): (LayerId, Option<LayerId>),
    has_deferred_parent: bool,
    now: Timestamp,
) -> Decision<Arc<Record>> {
    let parent = check_create(records, &create)?;
    // Its directories and mounts were made for the parent of the claim.
    if let (Some(parent), Some(name)) = (&parent, &create.parent)
        && claimed != Some(parent.id)
    {
        return Err(Refusal::ParentMissing {
            parent: name.clone(),
        });
    }
    put(Record {
        id,
        key: create.key,
        kind: create.kind,
        parent: parent.map(|parent| parent.id),
        created: now,
        updated: now,
        labels: create.labels,
        usage: None,
        origin: None,
        removed: None,
        quarantine: None,
        has_deferred_parent,
    })
}

/// Checks that `commit` is allowed; returns its layers, or `None` if the commit of this name and key
/// is recorded: containerd repeats one after a crash between our answer and its own write.
pub(crate) fn check_commit(records: &Records, commit: &Commit) -> Result<Option<Checked>, Refusal> {
    let Some(active) = records.find(&commit.key) else {
        return repeated(records, commit).map(|_| None);
    };
    if records.find(&commit.name).is_some() {
        return Err(Refusal::Taken {
            key: commit.name.clone(),
        });
    }
    if active.kind != Kind::Active {
        return Err(Refusal::NotActive {
            key: commit.key.clone(),
            kind: active.kind,
        });
    }
    Ok(Some(Checked {
        active: active.clone(),
        parent: parent_at_commit(records, active, commit)?,
    }))
}

/// Commits the layers that were `checked`, and no others of the same names. A repeated commit
/// answers the recorded snapshot and needs no `checked`.
pub(crate) fn commit(
    records: &Records,
    commit: Commit,
    checked: Option<&Checked>,
    now: Timestamp,
) -> Decision<Arc<Record>> {
    let Some(found) = check_commit(records, &commit)? else {
        return Ok((Vec::new(), repeated(records, &commit)?));
    };
    let active = found.active;
    let checked = checked.filter(|checked| checked.active.id == active.id);
    let missing = || Refusal::Missing {
        key: commit.key.clone(),
    };
    let checked = checked.ok_or_else(missing)?;
    if let Some(parent) = &commit.parent
        && checked.parent != found.parent
    {
        return Err(Refusal::ParentMissing {
            parent: parent.clone(),
        });
    }
    put(Record {
        id: active.id,
        parent: found.parent,
        key: commit.name,
        kind: Kind::Committed,
        created: now,
        updated: now,
        labels: commit.labels,
        usage: commit.usage,
        origin: Some(commit.key),
        removed: None,
        quarantine: active.quarantine.clone(),
        has_deferred_parent: false,
    })
}

fn repeated(records: &Records, commit: &Commit) -> Result<Arc<Record>, Refusal> {
    match records.find(&commit.name) {
        Some(done) if done.origin.as_ref() == Some(&commit.key) => Ok(done.clone()),
        _ => Err(Refusal::Missing {
            key: commit.key.clone(),
        }),
    }
}

fn parent_at_commit(
    records: &Records,
    active: &Record,
    commit: &Commit,
) -> Result<Option<LayerId>, Refusal> {
    let recorded = active.parent.and_then(|id| records.get(id));
    let Some(asked) = &commit.parent else {
        return Ok(active.parent);
    };
    if let Some(recorded) = recorded
        && recorded.key != *asked
    {
        return Err(Refusal::OtherParent {
            key: commit.key.clone(),
            recorded: recorded.key.clone(),
            asked: asked.clone(),
        });
    }
    Ok(Some(committed(records, asked, true)?.id))
}

pub(crate) fn remove(records: &Records, key: &Key, now: Removal) -> Decision<Arc<Record>> {
    let record = existing(records, key)?;
    if let Some(child) = records.children(record.id).next() {
        return Err(Refusal::HasChildren {
            key: key.clone(),
            count: records.children(record.id).count(),
            child: child.key.clone(),
        });
    }
    if let Some(holder) = records.volumes().holder_of_layer(record.id) {
        return Err(Refusal::Attached {
            key: key.clone(),
            owner: holder.owner.clone(),
        });
    }
    put(Record {
        removed: Some(now),
        ..Record::clone(record)
    })
}

pub(crate) fn update(
    records: &Records,
    key: &Key,
    changes: &[LabelChange],
    now: Timestamp,
) -> Decision<Arc<Record>> {
    let record = existing(records, key)?;
    put(Record {
        labels: record.labels.changed(changes)?,
        // The clock may have gone back.
        updated: now.max(record.created),
        ..Record::clone(record)
    })
}

/// Records the usage of a committed layer; no edit if it is gone.
pub(crate) fn measured(records: &Records, id: LayerId, usage: Usage) -> Decision<()> {
    let committed = records
        .get(id)
        .filter(|record| record.kind == Kind::Committed);
    let edit = committed.map(|record| {
        Edit::Put(Item::Snapshot(Arc::new(Record {
            usage: Some(usage),
            ..Record::clone(record)
        })))
    });
    Ok((edit.into_iter().collect(), ()))
}

/// Restores a removed record.
pub(crate) fn restore(records: &Records, id: LayerId, now: Timestamp) -> Decision<Arc<Record>> {
    let Some(record) = records.get_removed(id) else {
        return Err(BadInput::new("id", format!("no removed snapshot has the id {id}")).into());
    };
    if records.find(&record.key).is_some() {
        return Err(Refusal::Taken {
            key: record.key.clone(),
        });
    }
    if let Some(parent) = record.parent
        && records.get(parent).is_none()
    {
        return Err(Refusal::ParentRemoved {
            key: record.key.clone(),
            parent: records.stored(parent).map(|parent| parent.key.clone()),
        });
    }
    put(Record {
        removed: None,
        updated: now.max(record.created),
        ..Record::clone(record)
    })
}

/// Quarantines a layer, also a removed one, which can be restored; no edit if it is gone.
pub(crate) fn quarantined(records: &Records, id: LayerId, why: String) -> Decision<()> {
    let edit = records.stored(id).map(|record| {
        Edit::Put(Item::Snapshot(Arc::new(Record {
            quarantine: Some(why),
            ..Record::clone(record)
        })))
    });
    Ok((edit.into_iter().collect(), ()))
}

/// Stamps entries of the trash without a steady time, as earlier versions left them.
pub(crate) fn stamp(records: &Records, now: SteadyTime) -> Decision<()> {
    let stamped = |removed: Option<Removal>| {
        let removed = removed.filter(|removed| removed.steady.is_none())?;
        let steady = Some(now);
        Some(Some(Removal { steady, ..removed }))
    };
    let layers = records.removed().filter_map(|record| {
        let removed = stamped(record.removed)?;
        let record = Record {
            removed,
            ..Record::clone(record)
        };
        Some(Item::Snapshot(record.into()))
    });
    let volumes = records.volumes().removed().filter_map(|volume| {
        let removed = stamped(volume.removed)?;
        let volume = Volume {
            removed,
            ..Volume::clone(volume)
        };
        Some(Item::Volume(volume.into()))
    });
    Ok((layers.chain(volumes).map(Edit::Put).collect(), ()))
}

/// Drops removed records whose directories are gone; live ones are left alone.
pub(crate) fn drop_records(records: &Records, ids: &[LayerId]) -> Decision<()> {
    let gone = ids.iter().filter(|id| records.get_removed(**id).is_some());
    Ok((gone.map(|id| Edit::Drop(*id)).collect(), ()))
}

fn put(record: Record) -> Decision<Arc<Record>> {
    let record = Arc::new(record);
    Ok((vec![Edit::Put(Item::Snapshot(record.clone()))], record))
}

fn existing<'v>(records: &'v Records, key: &Key) -> Result<&'v Arc<Record>, Refusal> {
    records
        .find(key)
        .ok_or_else(|| Refusal::Missing { key: key.clone() })
}

fn committed(records: &Records, parent: &Key, at_commit: bool) -> Result<Arc<Record>, Refusal> {
    let Some(record) = records.find(parent) else {
        return Err(Refusal::ParentMissing {
            parent: parent.clone(),
        });
    };
    if record.kind != Kind::Committed {
        return Err(Refusal::ParentNotCommitted {
            parent: parent.clone(),
            kind: record.kind,
            at_commit,
        });
    }
    Ok(record.clone())
}
