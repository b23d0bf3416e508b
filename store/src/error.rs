//! Why a call on the store fails.

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
        /// What it is.
        kind: Kind,
        /// Whether Commit asked, which containerd answers with another code than Prepare.
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
        /// What Commit asked for.
        asked: Key,
    },
    /// The operation needs an active snapshot.
    #[error("snapshot {key:?} is {}, not active", kind.as_str(), key = key.as_str())]
    NotActive {
        /// The snapshot.
        key: Key,
        /// What it is.
        kind: Kind,
    },
    /// Snapshots above hold it.
    #[error("cannot remove snapshot {key:?}: it has {count} child{}, such as {child:?}",
        if *count == 1 { "" } else { "ren" }, key = key.as_str(), child = child.as_str())]
    HasChildren {
        /// The snapshot.
        key: Key,
        /// How many children it has.
        count: usize,
        /// One of them.
        child: Key,
    },
    /// An image mount holds it.
    #[error("cannot remove snapshot {key:?}: it is attached by {owner}", key = key.as_str())]
    Attached {
        /// The snapshot.
        key: Key,
        /// Who holds it.
        owner: Owner,
    },
    /// A removed snapshot cannot come back before its parent.
    #[error("cannot restore snapshot {key:?}: its parent {} was removed too; restore that first",
        parent.as_ref().map_or("", Key::as_str), key = key.as_str())]
    ParentRemoved {
        /// The snapshot.
        key: Key,
        /// Its parent, if anything is known of it.
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
        /// Who made the first of them.
        owner: Owner,
        /// Its key.
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
        /// Who made the other one.
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

/// Why a call failed. Cheap to clone: everybody who waited for one flush gets the same cause.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The rules forbid it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file or folder of the store could not be used.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// The disk is so full that nothing new is taken; removals are.
    #[error("the disk is full; remove snapshots or free space under {}", folder.display())]
    Full {
        /// The store's folder.
        folder: PathBuf,
    },
    /// The database did not take a change. Nothing of the batch is acknowledged or visible.
    #[error("write to the database")]
    Write {
        /// Why it failed.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// The layer directories could not be made durable, so their records were not written.
    #[error("make the directories of new layers durable")]
    Barrier {
        /// Why it failed.
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
        /// What the lock file says of its holder.
        holder: String,
    },
    /// A newer layerd wrote this root.
    #[error("{} says format {found}; this layerd knows formats up to {known}: run the newer layerd", path.display())]
    Newer {
        /// The format file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// The newest format this program knows.
        known: u32,
    },
    /// The database does not hold what was last written to it. It was left as it was found.
    #[error("the database {} is damaged: {what}; it was left untouched", path.display())]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The program was linked so that sled's log writes are not durable.
    #[error(
        "log writes are not durable: sync_file_range is not the one layerd defines; refusing to run"
    )]
    NotDurable,
}

impl Error {
    /// Whether the disk, or a quota, is full.
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
