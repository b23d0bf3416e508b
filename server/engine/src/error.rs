//! Why the engine fails, and what kind of failure that is to a caller.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_layers::error::Bound;
use layerd_mounts::idmap::BadMap;
use layerd_mounts::mounter::MountError;
use layerd_spec::BadSpec;
use layerd_store::{BadInput, Key, LayerId, Refusal, VolumeName};

use crate::filter::BadFilter;

/// Class of an error by the caller's possible reaction. The server has one table from these to gRPC
/// codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such snapshot.
    Missing,
    /// The key or name is taken.
    Exists,
    /// A value breaks a rule.
    Invalid,
    /// The state of things forbids it.
    Refused,
    /// Not supported here; another implementation may do it.
    Unsupported,
    /// The disk, a quota or a limit of the process is used up.
    Full,
    /// The daemon is stopping, or must be restarted.
    Stopping,
    /// Data is not what it was.
    Damaged,
    /// Anything that is not the caller's to mend.
    Internal,
}

/// A failure of the engine. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records could not be read or changed.
    #[error(transparent)]
    Store(#[from] layerd_store::Error),
    /// A value breaks a rule.
    #[error(transparent)]
    Bad(#[from] BadInput),
    /// A filter does not parse.
    #[error("filters: {0}")]
    Filter(#[from] BadFilter),
    /// Labels with id mappings that cannot be used.
    #[error("labels uidmapping and gidmapping: {0}")]
    Mapping(#[from] BadMap),
    /// Id mappings are switched off.
    #[error(
        "the labels ask for id mappings, which `id_mapping = false` in layerd's configuration refuses"
    )]
    MappingOff,
    /// The call needs a capability of storage drivers that the one of this root does not have.
    #[error("the driver {driver} has no {what}, which the call needs")]
    Lacking {
        /// Name of the driver.
        driver: &'static str,
        /// The capability.
        what: &'static str,
    },
    /// Committed snapshots cannot be mounted themselves.
    #[error("snapshot {key:?} is committed; prepare or view a snapshot on top of it to mount it", key = key.as_str())]
    NotMountable {
        /// The snapshot.
        key: Key,
    },
    /// The directories of a new layer could not be made; what was made goes to the trash.
    #[error("make the directories of layer {id}")]
    Create {
        /// The layer.
        id: LayerId,
        /// Why it failed.
        #[source]
        cause: layerd_mounts::Error,
    },
    /// The content of a layer could not be brought to the disk.
    #[error("bring layer {id} to the disk")]
    WriteBack {
        /// The layer.
        id: LayerId,
        /// Why it failed.
        #[source]
        cause: layerd_mounts::Error,
    },
    /// The stack of a snapshot cannot be mounted.
    #[error("plan the mounts of snapshot {key:?}: {cause}", key = key.as_str())]
    Plan {
        /// The snapshot.
        key: Key,
        /// Why it cannot.
        #[source]
        cause: layerd_mounts::Error,
    },
    /// A layer could not be measured.
    #[error("measure layer {id}")]
    Measure {
        /// The layer.
        id: LayerId,
        /// Why it failed.
        #[source]
        cause: Arc<layerd_mounts::Error>,
    },
    /// The driver could not do something that concerns no single snapshot.
    #[error("{attempt}")]
    Driver {
        /// The attempted operation.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        cause: layerd_mounts::Error,
    },
    /// A thread could not be started.
    #[error("start the thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// Layers or volumes without records: an empty database must not take their place.
    #[error(
        "{} holds {layers} layers and {volumes} volumes, but no database; put {} back from a backup, or move them away to start empty",
        root.display(), meta.display()
    )]
    Unrecorded {
        /// The data directory.
        root: PathBuf,
        /// Where the records belong.
        meta: PathBuf,
        /// Number of layers on disk.
        layers: usize,
        /// Number of volumes on disk, in the trash or not.
        volumes: usize,
    },
    /// There is no export to restore the records from.
    #[error("no whole export of the records is in {}; name a backup", meta.display())]
    NoExport {
        /// Where exports are kept.
        meta: PathBuf,
    },
    /// The snapshot's content is gone or cannot be trusted.
    #[error("snapshot {key:?} is damaged: {why}; remove what uses it, then pull or create it again (`layerctl fsck` lists all)",
        key = key.as_str())]
    Damaged {
        /// The snapshot.
        key: Key,
        /// The fault.
        why: String,
    },
    /// No volume has this name.
    #[error(
        "volume {name} does not exist{}; `layerctl volume create {name}` or `-v {name}:PATH` would create it",
        suggestion(near)
    )]
    NoVolume {
        /// The name asked for.
        name: VolumeName,
        /// Names that are near.
        near: Vec<VolumeName>,
    },
    /// A volume is there, but not as it was asked for.
    #[error(
        "volume {name} already exists with other settings: {field} is {have:?}, asked for was {want:?}"
    )]
    Drift {
        /// The volume.
        name: VolumeName,
        /// The differing field.
        field: String,
        /// Its value.
        have: String,
        /// The requested value.
        want: String,
    },
    /// A snapshot of a volume was to be written to.
    #[error(
        "volume {name} is a read-only snapshot; attach it read-only (`ro`, `readonly`), or write to a clone of it (`layerctl volume clone`)"
    )]
    ReadOnlyVolume {
        /// The snapshot.
        name: VolumeName,
    },
    /// The folder of a volume is not on the disk.
    #[error(
        "the content of volume {name} is missing: there is no folder {}; put it back from a backup, \
         or delete the volume (`layerctl fsck` lists all)",
        path.display()
    )]
    NoContent {
        /// The volume.
        name: VolumeName,
        /// Where its content belongs.
        path: PathBuf,
    },
    /// A volume that is not in the trash was to be deleted for good.
    #[error("volume {name} is not in the trash; `layerctl volume rm {name}` moves it there")]
    NotDeleted {
        /// The volume.
        name: VolumeName,
    },
    /// Part of a volume was asked for that does not exist yet.
    #[error(
        "volume {volume} does not exist, and a new one has no {subpath:?}; create and fill it first, or leave volume-subpath out"
    )]
    NoSubpath {
        /// The volume.
        volume: VolumeName,
        /// The part.
        subpath: String,
    },
    /// A volume is being copied or exported.
    #[error("volume {name} is being copied or exported; try again when that has ended")]
    BeingRead {
        /// The volume.
        name: VolumeName,
    },
    /// Files could not be copied.
    #[error("{attempt}")]
    Copy {
        /// The attempted operation.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        cause: layerd_layers::Error,
    },
    /// A client named mounts that are not those of a snapshot to work on.
    #[error(
        "asked to work on {what}; layerd works on its own snapshots only, named by their mounts as it answered them"
    )]
    Foreign {
        /// The named resource.
        what: String,
    },
    /// A layer could not be unpacked.
    #[error("unpack a layer into snapshot {key:?}", key = key.as_str())]
    Unpack {
        /// The snapshot. Unless nothing was written, it can only be removed.
        key: Key,
        /// Why it failed.
        #[source]
        cause: layerd_layers::Error,
    },
    /// A layer asks for more than it may.
    #[error("unpack a layer into snapshot {key:?}: it has more than {limit} {bound}, which is what `{}` in layerd's configuration allows", setting(*bound), key = key.as_str())]
    TooMuch {
        /// The snapshot. Unless nothing was written, it can only be removed.
        key: Key,
        /// The limited quantity.
        bound: Bound,
        /// The allowed amount.
        limit: u64,
    },
    /// A layer is being unpacked into the snapshot.
    #[error("a layer is being unpacked into snapshot {key:?}", key = key.as_str())]
    BeingUnpacked {
        /// The snapshot.
        key: Key,
    },
    /// Unpacking a layer into the snapshot failed half way.
    #[error("snapshot {key:?} holds part of a layer that could not be unpacked; remove it and prepare another", key = key.as_str())]
    HalfUnpacked {
        /// The snapshot.
        key: Key,
    },
    /// A layer of an image was unpacked as if nothing were below it, and is to have a parent.
    #[error("snapshot {key:?} was prepared as the lowest layer of an image, so what it deletes in a parent is lost; set `rebase = true` under [overlayfs] in layerd's configuration as long as containerd's names the capability \"rebase\"", key = key.as_str())]
    NotRebased {
        /// The snapshot.
        key: Key,
    },
    /// No layer could be made of a snapshot.
    #[error("make a layer of what snapshot {key:?} changed", key = key.as_str())]
    Pack {
        /// The snapshot.
        key: Key,
        /// Why it failed.
        #[source]
        cause: layerd_layers::Error,
    },
    /// A layer that only a mount can show: directories that were renamed with redirect_dir, or files
    /// without their content (metacopy).
    #[error("make a layer of what snapshot {key:?} changed without a mount", key = key.as_str())]
    NeedsMount {
        /// The snapshot.
        key: Key,
        /// The cause.
        #[source]
        cause: layerd_layers::Error,
    },
    /// An archive holds more than the disk can take.
    #[error(
        "the archive has more than {limit} {what}, which is what the disk takes as long as \
         `import_keep_percent` keeps {keep_percent} % of it free"
    )]
    NoRoom {
        /// The counted unit, such as "files".
        what: &'static str,
        /// The allowed number.
        limit: u64,
        /// The share that stays free.
        keep_percent: u64,
    },
    /// The kernel gave no random bytes.
    #[error("read random bytes for a name")]
    Random {
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A flag does not parse.
    #[error(transparent)]
    Spec(#[from] BadSpec),
    /// The source of a mount is missing and is not to be made.
    #[error("{} {:?} does not exist{}", refusal.what, refusal.name,
        if refusal.hint.is_empty() { String::new() } else { format!("; {}", refusal.hint) })]
    SourceMissing {
        /// The missing source, with the option that has it made.
        refusal: layerd_spec::Refusal,
    },
    /// Only committed snapshots can be mounted as images.
    #[error("snapshot {key:?} is not committed, so it is no image", key = key.as_str())]
    NotCommitted {
        /// The snapshot.
        key: Key,
    },
    /// An attachment is there, but not as it was asked for.
    #[error("attachment {key:?} already exists with other settings: {field} is {have:?}, asked for was {want:?}", key = key.as_str())]
    AttachmentDrift {
        /// The attachment.
        key: Key,
        /// The differing field.
        field: &'static str,
        /// Its value.
        have: String,
        /// The requested value.
        want: String,
    },
    /// Something is mounted already where a mount was to be made.
    #[error("{} is a mount point already", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// A mount point cannot be removed.
    #[error("{} is not an empty directory where nothing is mounted, so it stays", path.display())]
    NotRemoved {
        /// The path.
        path: PathBuf,
    },
    /// A mount would hide one that another attachment has.
    #[error(
        "a mount on {} would hide what attachment {key:?} has on {}; detach that first",
        path.display(), inner.display(), key = key.as_str()
    )]
    WouldHide {
        /// The target.
        path: PathBuf,
        /// The mount point below it.
        inner: PathBuf,
        /// Key of the snapshot.
        key: Key,
    },
    /// The request cannot be honoured.
    #[error("{what} cannot be honoured here")]
    NotHonoured {
        /// The part of the request.
        what: &'static str,
    },
    /// A mount could not be made or undone.
    #[error(transparent)]
    Mount(MountError),
    /// A place to mount at could not be made or removed.
    #[error("make or remove the mount point {}", path.display())]
    Place {
        /// The place.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// No prune has this plan.
    #[error("there is no prune plan {id:?}, or it is older than ten minutes; plan again")]
    NoPlan {
        /// The id asked for.
        id: String,
    },
    /// The daemon is stopping.
    #[error("layerd is stopping")]
    Stopping,
}

impl Error {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(cause) => store_kind(cause),
            Self::Bad(_) | Self::Filter(_) | Self::Mapping(_) | Self::TooMuch { .. } => {
                ErrorKind::Invalid
            }
            Self::NotMountable { .. } | Self::MappingOff => ErrorKind::Refused,
            Self::Create { cause, .. }
            | Self::Driver { cause, .. }
            | Self::WriteBack { cause, .. } => driver_kind(cause),
            Self::Measure { cause, .. } => driver_kind(cause),
            Self::Plan { .. } => ErrorKind::Refused,
            Self::Thread { .. } | Self::NoRoom { .. } => ErrorKind::Full,
            Self::NoExport { .. } | Self::NoVolume { .. } | Self::NoSubpath { .. } => {
                ErrorKind::Missing
            }
            Self::Drift { .. } => ErrorKind::Exists,
            Self::BeingRead { .. }
            | Self::NoPlan { .. }
            | Self::ReadOnlyVolume { .. }
            | Self::NotDeleted { .. } => ErrorKind::Refused,
            Self::Copy { cause, .. } | Self::Unpack { cause, .. } | Self::Pack { cause, .. } => {
                copy_kind(cause)
            }
            Self::Foreign { .. } | Self::NeedsMount { .. } | Self::Lacking { .. } => {
                ErrorKind::Unsupported
            }
            Self::BeingUnpacked { .. } | Self::HalfUnpacked { .. } | Self::NotRebased { .. } => {
                ErrorKind::Refused
            }
            Self::Random { .. } => ErrorKind::Internal,
            Self::Spec(_) => ErrorKind::Invalid,
            Self::SourceMissing { .. } => ErrorKind::Missing,
            Self::NotCommitted { .. }
            | Self::Occupied { .. }
            | Self::NotRemoved { .. }
            | Self::WouldHide { .. }
            | Self::NotHonoured { .. } => ErrorKind::Refused,
            Self::AttachmentDrift { .. } => ErrorKind::Exists,
            Self::Mount(cause) => mount_kind(cause),
            Self::Place { cause, .. } => {
                if is_full(cause) {
                    ErrorKind::Full
                } else {
                    ErrorKind::Internal
                }
            }
            Self::Unrecorded { .. } | Self::Damaged { .. } | Self::NoContent { .. } => {
                ErrorKind::Damaged
            }
            Self::Stopping => ErrorKind::Stopping,
        }
    }

    /// Says what was attempted of the driver.
    pub(crate) fn driver(attempt: &'static str) -> impl FnOnce(layerd_mounts::Error) -> Self {
        move |cause| Self::Driver { attempt, cause }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Store(refusal.into())
    }
}

fn store_kind(error: &layerd_store::Error) -> ErrorKind {
    match error {
        layerd_store::Error::Refused(refusal) => refusal_kind(refusal),
        layerd_store::Error::Barrier { cause } => barrier_kind(cause.as_ref()),
        layerd_store::Error::Io { cause, .. } if is_full(cause) => ErrorKind::Full,
        layerd_store::Error::Write { cause } if is_full(cause) => ErrorKind::Full,
        layerd_store::Error::Full { .. } => ErrorKind::Full,
        layerd_store::Error::Write { .. } | layerd_store::Error::Closing => ErrorKind::Stopping,
        layerd_store::Error::Damaged { .. } => ErrorKind::Damaged,
        layerd_store::Error::Io { .. }
        | layerd_store::Error::Locked { .. }
        | layerd_store::Error::Newer { .. }
        | layerd_store::Error::NotDurable => ErrorKind::Internal,
    }
}

/// The codes are containerd's: Prepare calls an unfit parent invalid, Commit refuses it.
fn refusal_kind(refusal: &Refusal) -> ErrorKind {
    match refusal {
        Refusal::Missing { .. } | Refusal::ParentMissing { .. } => ErrorKind::Missing,
        Refusal::VolumeMissing { .. }
        | Refusal::NotInTrash { .. }
        | Refusal::NotAttached { .. } => ErrorKind::Missing,
        Refusal::Taken { .. } | Refusal::VolumeTaken { .. } | Refusal::AttachmentTaken { .. } => {
            ErrorKind::Exists
        }
        Refusal::ParentNotCommitted {
            at_commit: false, ..
        }
        | Refusal::OtherParent { .. }
        | Refusal::Bad(_) => ErrorKind::Invalid,
        Refusal::ParentNotCommitted {
            at_commit: true, ..
        }
        | Refusal::NotActive { .. }
        | Refusal::ParentRemoved { .. }
        | Refusal::Attached { .. }
        | Refusal::VolumeInUse { .. }
        | Refusal::VolumeNameInUse { .. }
        | Refusal::HeldExclusively { .. }
        | Refusal::VolumeGone { .. }
        | Refusal::LayerGone { .. }
        | Refusal::HasChildren { .. } => ErrorKind::Refused,
    }
}

fn barrier_kind(cause: &(dyn StdError + Send + Sync + 'static)) -> ErrorKind {
    let driver = cause.downcast_ref::<layerd_mounts::Error>();
    driver.map_or(ErrorKind::Internal, driver_kind)
}

fn driver_kind(error: &layerd_mounts::Error) -> ErrorKind {
    match error {
        layerd_mounts::Error::Stopped => ErrorKind::Stopping,
        layerd_mounts::Error::Busy { .. } => ErrorKind::Refused,
        layerd_mounts::Error::Lost { .. } | layerd_mounts::Error::Altered { .. } => {
            ErrorKind::Damaged
        }
        full if full.is_full() => ErrorKind::Full,
        _ => ErrorKind::Internal,
    }
}

fn mount_kind(error: &MountError) -> ErrorKind {
    match error {
        full if full.is_full() => ErrorKind::Full,
        MountError::Missing { .. } => ErrorKind::Missing,
        MountError::NotADirectory { .. }
        | MountError::IsADirectory { .. }
        | MountError::Symlink { .. }
        | MountError::Dangling { .. }
        | MountError::Escape { .. }
        | MountError::BadPath { .. } => ErrorKind::Invalid,
        MountError::Io { .. } => ErrorKind::Internal,
        _ => ErrorKind::Refused,
    }
}

fn copy_kind(error: &layerd_layers::Error) -> ErrorKind {
    use layerd_layers::Error;
    match error {
        full if full.is_full() => ErrorKind::Full,
        Error::Truncated { .. }
        | Error::Malformed { .. }
        | Error::Damaged { .. }
        | Error::Refused { .. }
        | Error::Compressed { .. }
        | Error::Length { .. }
        | Error::Digest { .. }
        | Error::Limit { .. }
        | Error::Beyond { .. } => ErrorKind::Invalid,
        Error::Unmapped { .. } => ErrorKind::Refused,
        Error::Stopped => ErrorKind::Stopping,
        _ => ErrorKind::Internal,
    }
}

/// The key of a limit in the configuration.
fn setting(bound: Bound) -> &'static str {
    match bound {
        Bound::Bytes => "unpack.max_layer_bytes",
        Bound::Entries => "unpack.max_entries",
        Bound::Directories => "unpack.max_directories",
        Bound::Ratio => "unpack.max_ratio",
        Bound::Window => "unpack.max_window_bytes",
    }
}

fn suggestion(near: &[VolumeName]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<_> = near.iter().map(VolumeName::as_str).collect();
    format!(" (there is {})", names.join(", "))
}

fn is_full(cause: &io::Error) -> bool {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    kinds.contains(&cause.kind())
}
