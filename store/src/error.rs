//! Errors of the store.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{BadInput, Key, Kind, LayerId};
use crate::volume::{AttachmentId, Owner, VolumeId, VolumeName};

/// A change that the rules of snapshots do not allow. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No snapshot has this key.
    #[error("snapshot {key:?} does not exist", key = key.as_str())]
    Missing {
        /// The key asked for.
        key: Key,
    },
    /// The key or name belongs to another snapshot, or to one that is being made.
    #[error("snapshot {key:?} already exists", key = key.as_str())]
    Taken {
        /// The key asked for.
        key: Key,
    },
    /// No snapshot has the name that was given as the parent's.
    #[error("parent snapshot {parent:?} does not exist", parent = parent.as_str())]
    ParentMissing {
        /// The name asked for.
        parent: Key,
    },
    /// Only committed snapshots can be parents.
    #[error("parent snapshot {parent:?} is {}, not committed", kind.as_str(), parent = parent.as_str())]
    ParentNotCommitted {
        /// The parent.
        parent: Key,
        /// Its kind.
        kind: Kind,
        /// Set for Commit, which containerd answers with another code than Prepare.
        at_commit: bool,
    },
    /// The snapshot has a parent, and Commit named another one.
    #[error("snapshot {key:?} has the parent {recorded:?}, commit names {asked:?}",
        key = key.as_str(), recorded = recorded.as_str(), asked = asked.as_str())]
    OtherParent {
        /// The active snapshot.
        key: Key,
        /// Its parent.
        recorded: Key,
        /// The parent that Commit named.
        asked: Key,
    },
    /// The operation needs an active snapshot.
    #[error("snapshot {key:?} is {}, not active", kind.as_str(), key = key.as_str())]
    NotActive {
        /// The snapshot.
        key: Key,
        /// Its kind.
        kind: Kind,
    },
    /// Snapshots above hold it.
    #[error("cannot remove snapshot {key:?}: it has {count} child{}, such as {child:?}",
        if *count == 1 { "" } else { "ren" }, key = key.as_str(), child = child.as_str())]
    HasChildren {
        /// The snapshot.
        key: Key,
        /// Number of its children.
        count: usize,
        /// One of them.
        child: Key,
    },
    /// An image mount holds it.
    #[error("cannot remove snapshot {key:?}: it is attached by {owner}", key = key.as_str())]
    Attached {
        /// The snapshot.
        key: Key,
        /// Owner of the attachment.
        owner: Owner,
    },
    /// A removed snapshot cannot come back before its parent.
    #[error("cannot restore snapshot {key:?}: its parent {} was removed too; restore that first",
        parent.as_ref().map_or("", Key::as_str), key = key.as_str())]
    ParentRemoved {
        /// The snapshot.
        key: Key,
        /// Its parent, if that still has a record.
        parent: Option<Key>,
    },
    /// No volume has this name.
    #[error("volume {name} does not exist")]
    VolumeMissing {
        /// The name asked for.
        name: VolumeName,
    },
    /// The name belongs to another volume.
    #[error("volume {name} already exists")]
    VolumeTaken {
        /// The name asked for.
        name: VolumeName,
    },
    /// Attachments hold it.
    #[error("volume {name} is in use by {owner} (attachment {key:?}{})",
        if *count > 1 { format!(", and {} more", count - 1) } else { String::new() }, key = key.as_str())]
    VolumeInUse {
        /// The volume.
        name: VolumeName,
        /// Number of attachments.
        count: usize,
        /// Owner of the first of them; a container before a mount id of Docker's.
        owner: Owner,
        /// Its key.
        key: Key,
    },
    /// A holder refers to the volume by its name, so that it cannot be renamed.
    #[error("volume {name} is known by this name to {owner} (attachment {key:?}): it keeps the name while that uses it",
        key = key.as_str())]
    VolumeNameInUse {
        /// The volume.
        name: VolumeName,
        /// Its holder.
        owner: Owner,
        /// Key of the attachment.
        key: Key,
    },
    /// The volume is attached, and one of the two attachments is to be the only one.
    #[error("volume {name} is attached by {owner} (attachment {key:?}){}", match wanted {
        true => ", and the attachment asked for is to be its only one",
        false => " as its only attachment",
    }, key = key.as_str())]
    HeldExclusively {
        /// The volume.
        name: VolumeName,
        /// Set if the requested attachment is the exclusive one.
        wanted: bool,
        /// Holder of the volume.
        owner: Owner,
        /// The key of that attachment.
        key: Key,
    },
    /// No deleted volume has this id.
    #[error("no deleted volume has the id {id}")]
    NotInTrash {
        /// The id asked for.
        id: VolumeId,
    },
    /// The volume was deleted while it was being attached.
    #[error("volume {id} was deleted meanwhile")]
    VolumeGone {
        /// The volume.
        id: VolumeId,
    },
    /// The snapshot was removed while it was being attached.
    #[error("the snapshot of layer {id} was removed meanwhile")]
    LayerGone {
        /// The layer.
        id: LayerId,
    },
    /// The key belongs to another attachment.
    #[error("attachment {key:?} already exists, made by {owner}", key = key.as_str())]
    AttachmentTaken {
        /// The key asked for.
        key: Key,
        /// Owner of the other one.
        owner: Owner,
    },
    /// No attachment has this id.
    #[error("attachment {id} does not exist")]
    NotAttached {
        /// The id asked for.
        id: AttachmentId,
    },
    /// A value breaks a rule.
    #[error(transparent)]
    Bad(#[from] BadInput),
}

/// Error of a call. Cheap to clone: all calls that waited for one flush get the same cause.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The rules forbid it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file or folder of the store could not be used.
    #[error("{attempt} {}", path.display())]
    Io {
        /// The attempted operation.
        attempt: &'static str,
        /// Its file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// Free space or inodes are below [`Room::LOW`](crate::Room::LOW): no new record is taken, removals are.
    #[error("the disk is full; remove snapshots or free space under {}", folder.display())]
    Full {
        /// The store's folder.
        folder: PathBuf,
    },
    /// A write to the database failed. No change of the batch is acknowledged or visible.
    #[error("write to the database")]
    Write {
        /// The cause.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// The layer directories could not be made durable, so their records were not written.
    #[error("make the directories of new layers durable")]
    Barrier {
        /// The cause.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store is closing.
    #[error("layerd is stopping")]
    Closing,
    /// Another process holds the root.
    #[error("{} is in use by another layerd ({holder}); stop it or choose another root", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Content of the lock file, which names its holder.
        holder: String,
    },
    /// A newer layerd wrote this root.
    #[error("{} says format {found}; this layerd knows formats up to {known}: run the newer layerd", path.display())]
    Newer {
        /// The format file.
        path: PathBuf,
        /// Its content.
        found: String,
        /// The newest format this program knows.
        known: u32,
    },
    /// A database or export differs from its checksums and counts, or is missing. It was left as found.
    #[error("the database {} is damaged: {what}; it was left untouched", path.display())]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// The difference.
        what: String,
    },
    /// The program was linked with libc's `sync_file_range`, so sled's log writes are not durable.
    #[error(
        "log writes are not durable: sync_file_range is not the one layerd defines; refusing to run"
    )]
    NotDurable,
}

impl Error {
    /// True if the disk, or a quota, is full.
    pub(crate) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Write { cause } | Self::Io { cause, .. } => {
                matches!(cause.kind(), StorageFull | QuotaExceeded)
            }
            _ => false,
        }
    }
}
