//! Failures of attachments and their mounts.

use std::io;
use std::path::PathBuf;

use layerd_mounts::mounter::MountError;
use layerd_spec::BadSpec;
use layerd_store::Key;
use nix::errno::Errno;

use super::{Error, ErrorKind, disk_kind, is_full};

/// A failure of an attachment or its mount. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
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
    /// A mount point could not be made or removed.
    #[error("make or remove the mount point {}", path.display())]
    MountPoint {
        /// Its path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// A record of an attachment that does not name what is mounted.
    #[error("an attachment names no {what} to mount")]
    NoSource {
        /// The kind of source.
        what: &'static str,
    },
}

impl AttachError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(_) => ErrorKind::Invalid,
            Self::SourceMissing { .. } => ErrorKind::Missing,
            Self::NotCommitted { .. }
            | Self::Occupied { .. }
            | Self::NotRemoved { .. }
            | Self::WouldHide { .. }
            | Self::NotHonoured { .. } => ErrorKind::Refused,
            Self::AttachmentDrift { .. } => ErrorKind::Exists,
            Self::Mount(cause) => mount_kind(cause),
            Self::MountPoint { cause, .. } if is_full(cause) => ErrorKind::Full,
            Self::MountPoint { cause, .. } if is_too_long(cause.raw_os_error()) => {
                ErrorKind::Invalid
            }
            Self::MountPoint { .. } => ErrorKind::Internal,
            Self::NoSource { .. } => ErrorKind::Damaged,
        }
    }
}

impl From<BadSpec> for Error {
    fn from(cause: BadSpec) -> Self {
        Self::Attach(cause.into())
    }
}

impl From<MountError> for Error {
    fn from(cause: MountError) -> Self {
        Self::Attach(AttachError::Mount(cause))
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
        MountError::Io { .. } if is_too_long(error.errno()) => ErrorKind::Invalid,
        MountError::Io { .. } => disk_kind(error.errno()),
        _ => ErrorKind::Refused,
    }
}

/// True for a path with a name that is longer than the file system takes: how long that is, only the kernel
/// can tell. Names of layerd's own are short.
fn is_too_long(errno: Option<i32>) -> bool {
    errno == Some(Errno::ENAMETOOLONG as i32)
}
