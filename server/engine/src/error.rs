//! Why the engine fails, and what kind of failure that is to a caller.

mod attach;
mod layers;
#[cfg(test)]
mod tests;
mod volumes;

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use layerd_store::{BadInput, Refusal};
use nix::errno::Errno;

pub use attach::AttachError;
pub use layers::LayerError;
pub use volumes::VolumeError;

use crate::filter::BadFilter;
use crate::reserved::Reserved;

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
    /// Of snapshots and their layers.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Of volumes.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Of attachments and their mounts.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The records could not be read or changed.
    #[error(transparent)]
    Store(#[from] layerd_store::Error),
    /// A value breaks a rule.
    #[error(transparent)]
    Bad(#[from] BadInput),
    /// A filter does not parse.
    #[error("filters: {0}")]
    Filter(#[from] BadFilter),
    /// The call needs a capability of storage drivers that the one of this root does not have.
    #[error("the driver {driver} has no {what}, which the call needs")]
    Lacking {
        /// Name of the driver.
        driver: &'static str,
        /// The capability.
        what: &'static str,
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
    /// Files could not be copied.
    #[error("{attempt}")]
    Copy {
        /// The attempted operation.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        cause: layerd_layers::Error,
    },
    /// Less of the disk is free than is to stay free.
    #[error(
        "the reserve of {} is reached: {}; {holders}; remove containers, images or volumes (`layerctl du`, \
         `layerctl volume prune`, `layerctl trash empty`), or enlarge the disk",
        reserved.path.display(), reserved.shortage()
    )]
    Reserve {
        /// The file system.
        reserved: Box<Reserved>,
        /// Who holds most of it, in words.
        holders: String,
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
            Self::Layer(cause) => cause.kind(),
            Self::Volume(cause) => cause.kind(),
            Self::Attach(cause) => cause.kind(),
            Self::Store(cause) => store_kind(cause),
            Self::Bad(_) | Self::Filter(_) => ErrorKind::Invalid,
            Self::Lacking { .. } => ErrorKind::Unsupported,
            Self::Driver { cause, .. } => driver_kind(cause),
            Self::Thread { .. } | Self::Reserve { .. } => ErrorKind::Full,
            Self::NoExport { .. } => ErrorKind::Missing,
            Self::Copy { cause, .. } => copy_kind(cause),
            Self::Unrecorded { .. } => ErrorKind::Damaged,
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
        layerd_mounts::Error::Busy { .. }
        | layerd_mounts::Error::TooLarge { .. }
        | layerd_mounts::Error::Unsuitable { .. }
        | layerd_mounts::Error::WrittenBeside { .. } => ErrorKind::Refused,
        layerd_mounts::Error::Lost { .. }
        | layerd_mounts::Error::Altered { .. }
        | layerd_mounts::Error::BadFileSystem { .. }
        | layerd_mounts::Error::BadImage { .. } => ErrorKind::Damaged,
        full if full.is_full() => ErrorKind::Full,
        other => disk_kind(other.errno()),
    }
}

/// Class of a failed system call that says nothing of what was asked for.
fn disk_kind(errno: Option<i32>) -> ErrorKind {
    match errno.map(Errno::from_raw) {
        // The disk of volumes alone, or that of layers: the operator mounts it again to be written.
        Some(Errno::EROFS) => ErrorKind::Refused,
        _ => ErrorKind::Internal,
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
        // What EROFS cannot store; not a disk that fails.
        Error::Image { .. } if error.errno().is_none() => ErrorKind::Invalid,
        Error::Unmapped { .. } => ErrorKind::Refused,
        Error::Stopped => ErrorKind::Stopping,
        other => disk_kind(other.errno()),
    }
}

fn is_full(cause: &io::Error) -> bool {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    kinds.contains(&cause.kind())
}
