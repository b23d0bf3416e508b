//! The legal moves between the states of volumes and attachments.
//!
//! ```text
//!  create ──> live ──mark_removed──> removed ──drop_records──> gone
//!              ^  unless attached       └──restore──> live
//!  attach: intent (Preparing) ──> Attached ──> gone;  Attached without its mount: waiting
//! ```
//!
//! An attachment is recorded before anything is mounted for it, then with the id of the mount, and
//! dropped after the unmount. So every mount has a record, and a volume with an attachment is never
//! removed.

use std::sync::Arc;

use crate::error::Refusal;
use crate::item::Item;
use crate::model::{LabelChange, Removal, Timestamp, Usage};
use crate::records::Records;
use crate::state::{Decision, Edit};
use crate::volume::{
    AttachState, Attachment, AttachmentId, MadeSource, MountedAt, Volume, VolumeId, VolumeName,
};

/// Records a new volume, whose directory must exist.
pub(crate) fn create(records: &Records, volume: Volume) -> Decision<Arc<Volume>> {
    if records.volumes().find(&volume.name).is_some() {
        return Err(Refusal::VolumeTaken { name: volume.name });
    }
    put(volume)
}

pub(crate) fn relabel(
    records: &Records,
    name: &VolumeName,
    changes: &[LabelChange],
    now: Timestamp,
) -> Decision<Arc<Volume>> {
    let volume = existing(records, name)?;
    put(Volume {
        labels: volume.labels.changed(changes)?,
        updated: now.max(volume.created),
        ..Volume::clone(volume)
    })
}

/// Gives a volume one option, in place of the value that it has.
pub(crate) fn set_option(
    records: &Records,
    id: VolumeId,
    key: &str,
    value: String,
    now: Timestamp,
) -> Decision<Arc<Volume>> {
    let volume = records.volumes().get(id);
    let volume = volume.ok_or(Refusal::VolumeGone { id })?;
    let mut options = volume.options.clone();
    options.insert(key.to_owned(), value);
    put(Volume {
        options,
        updated: now.max(volume.created),
        ..Volume::clone(volume)
    })
}

/// Renames a volume. Attachments refer to it by id; Docker and Podman by name, and would find an empty
/// new one at the next start of a container.
pub(crate) fn rename(
    records: &Records,
    name: &VolumeName,
    new: VolumeName,
    now: Timestamp,
) -> Decision<Arc<Volume>> {
    let volume = existing(records, name)?;
    if *name == new {
        return Ok((Vec::new(), volume.clone()));
    }
    if records.volumes().find(&new).is_some() {
        return Err(Refusal::VolumeTaken { name: new });
    }
    let mut holders = records.volumes().holders(volume.id);
    if let Some(holder) = holders.find(|holder| holder.owner.is_by_name()) {
        return Err(Refusal::VolumeNameInUse {
            name: name.clone(),
            owner: holder.owner.clone(),
            key: holder.key.clone(),
        });
    }
    put(Volume {
        name: new,
        updated: now.max(volume.created),
        ..Volume::clone(volume)
    })
}

pub(crate) fn mark_removed(
    records: &Records,
    name: &VolumeName,
    now: Removal,
) -> Decision<Arc<Volume>> {
    let volume = existing(records, name)?;
    let holders: Vec<_> = records.volumes().holders(volume.id).collect();
    // A container by its name, rather than a mount id that it came with.
    if let Some(first) = holders.iter().min_by_key(|one| one.owner.is_mount_id()) {
        return Err(Refusal::VolumeInUse {
            name: name.clone(),
            count: holders.len(),
            owner: first.owner.clone(),
            key: first.key.clone(),
        });
    }
    put(Volume {
        removed: Some(now),
        ..Volume::clone(volume)
    })
}

pub(crate) fn restore(
    records: &Records,
    id: VolumeId,
    name: Option<VolumeName>,
) -> Decision<Arc<Volume>> {
    let Some(volume) = records.volumes().get_removed(id) else {
        return Err(Refusal::NotInTrash { id });
    };
    let name = name.unwrap_or_else(|| volume.name.clone());
    if records.volumes().find(&name).is_some() {
        return Err(Refusal::VolumeTaken { name });
    }
    put(Volume {
        name,
        removed: None,
        ..Volume::clone(volume)
    })
}

/// Records the usage of a volume; no edit if it is gone.
pub(crate) fn measured(
    records: &Records,
    id: VolumeId,
    usage: Usage,
    taken: Timestamp,
) -> Decision<()> {
    let edit = records.volumes().get(id).map(|volume| {
        Edit::Put(Item::Volume(Arc::new(Volume {
            usage: Some((usage, taken)),
            ..Volume::clone(volume)
        })))
    });
    Ok((edit.into_iter().collect(), ()))
}

/// Records the source that an empty volume was filled from; no edit if it is gone.
pub(crate) fn filled(records: &Records, id: VolumeId, from: String) -> Decision<()> {
    let edit = records.volumes().get(id).map(|volume| {
        Edit::Put(Item::Volume(Arc::new(Volume {
            filled_from: from,
            ..Volume::clone(volume)
        })))
    });
    Ok((edit.into_iter().collect(), ()))
}

pub(crate) fn drop_records(records: &Records, ids: &[VolumeId]) -> Decision<()> {
    let gone = ids
        .iter()
        .filter(|id| records.volumes().get_removed(**id).is_some());
    Ok((gone.map(|id| Edit::DropVolume(*id)).collect(), ()))
}

/// Records the intent to attach. Its volume or layer must exist, and cannot be removed from then on.
pub(crate) fn attach(records: &Records, attachment: Attachment) -> Decision<Arc<Attachment>> {
    if let Some(there) = records.volumes().attachment(&attachment.key) {
        return Err(Refusal::AttachmentTaken {
            key: attachment.key,
            owner: there.owner.clone(),
        });
    }
    if let Some(id) = attachment.volume {
        let volume = records.volumes().get(id);
        let volume = volume.ok_or(Refusal::VolumeGone { id })?;
        refuse_exclusive(records, volume, attachment.exclusive)?;
    }
    if let Some(id) = attachment.layer
        && records.get(id).is_none()
    {
        return Err(Refusal::LayerGone { id });
    }
    let attachment = Arc::new(attachment);
    Ok((
        vec![Edit::Put(Item::Attachment(attachment.clone()))],
        attachment,
    ))
}

/// Refuses a second attachment of a volume if one of the two is to be the only one.
fn refuse_exclusive(records: &Records, volume: &Volume, exclusive: bool) -> Result<(), Refusal> {
    let mut holders = records.volumes().holders(volume.id);
    match holders.find(|holder| exclusive || holder.exclusive) {
        None => Ok(()),
        Some(holder) => Err(Refusal::HeldExclusively {
            name: volume.name.clone(),
            wanted: !holder.exclusive,
            owner: holder.owner.clone(),
            key: holder.key.clone(),
        }),
    }
}

/// Records state and mount of an attachment.
pub(crate) fn attached(
    records: &Records,
    id: AttachmentId,
    state: AttachState,
    mount: Option<MountedAt>,
) -> Decision<Arc<Attachment>> {
    changed(records, id, |attachment| {
        attachment.state = state;
        attachment.mount = mount;
        if state != AttachState::Preparing {
            attachment.made = MadeSource::default();
        }
    })
}

/// Records what is made for an attachment.
pub(crate) fn made(
    records: &Records,
    id: AttachmentId,
    made: MadeSource,
) -> Decision<Arc<Attachment>> {
    changed(records, id, |attachment| attachment.made = made)
}

/// Makes an attachment an intent again, with what was made for it.
pub(crate) fn revoked(
    records: &Records,
    id: AttachmentId,
    made: MadeSource,
) -> Decision<Arc<Attachment>> {
    changed(records, id, |attachment| {
        attachment.state = AttachState::Preparing;
        attachment.made = made;
    })
}

fn changed(
    records: &Records,
    id: AttachmentId,
    change: impl FnOnce(&mut Attachment),
) -> Decision<Arc<Attachment>> {
    let Some(attachment) = records.volumes().stored_attachment(id) else {
        return Err(Refusal::NotAttached { id });
    };
    let mut attachment = Attachment::clone(attachment);
    change(&mut attachment);
    let attachment = Arc::new(attachment);
    Ok((
        vec![Edit::Put(Item::Attachment(attachment.clone()))],
        attachment,
    ))
}

/// Drops an attachment whose mount is gone; no edit if there is none.
pub(crate) fn detached(records: &Records, id: AttachmentId) -> Decision<()> {
    let there = records.volumes().stored_attachment(id);
    Ok((
        there
            .map(|_| Edit::DropAttachment(id))
            .into_iter()
            .collect(),
        (),
    ))
}

fn put(volume: Volume) -> Decision<Arc<Volume>> {
    let volume = Arc::new(volume);
    Ok((vec![Edit::Put(Item::Volume(volume.clone()))], volume))
}

fn existing<'v>(records: &'v Records, name: &VolumeName) -> Result<&'v Arc<Volume>, Refusal> {
    let missing = || Refusal::VolumeMissing { name: name.clone() };
    records.volumes().find(name).ok_or_else(missing)
}
