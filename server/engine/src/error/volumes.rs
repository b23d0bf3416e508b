//! Failures of volumes.

use std::io;
use std::path::PathBuf;

use layerd_store::VolumeName;

use super::ErrorKind;

/// A failure of a volume. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
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
    /// No volume of this name was deleted and can be taken back.
    #[error("no volume {name} is in the trash")]
    NotInTrash {
        /// The name asked for.
        name: VolumeName,
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
    /// The image of a volume with a limit, or the note of its project, is not on the disk.
    #[error(
        "the content of volume {name} is missing, or what holds it to its limit: there is no {}; put it \
         back from a backup, or delete the volume (`layerctl fsck` lists all)",
        path.display()
    )]
    NoLimitThere {
        /// The volume.
        name: VolumeName,
        /// Path of the image, or of the note of the project.
        path: PathBuf,
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
    /// Nothing can hold a volume to a size.
    #[error(
        "options[\"size\"]: no volume can be held to a size here: {why}; `layerctl info` shows how limits are enforced"
    )]
    NoLimits {
        /// Why not.
        why: String,
    },
    /// A volume without a limit was to get another one.
    #[error(
        "volume {name} is held to no size, and only a new one can be; \
         `layerctl volume clone --size SIZE {name} NEW` makes a copy that is"
    )]
    NoLimit {
        /// The volume.
        name: VolumeName,
    },
    /// A volume could only be enlarged while nothing uses it.
    #[error(
        "volume {name} is in use, and the kernel enlarges its ext4 meanwhile only for a layerd with CAP_SYS_RESOURCE \
         (and resize2fs); detach it first, or see the log"
    )]
    NoGrowth {
        /// The volume.
        name: VolumeName,
    },
    /// A volume was made too small to become so large.
    #[error(
        "size: the ext4 of volume {name} was made so small that it can be enlarged to {most} bytes at most; \
         `layerctl volume clone --size SIZE {name} NEW` makes a larger copy"
    )]
    TooLarge {
        /// The volume.
        name: VolumeName,
        /// Most bytes that it can have.
        most: u64,
    },
    /// A volume was to become smaller.
    #[error(
        "size: {bytes} bytes are less than the {have} of volume {name}, whose file system does not shrink; \
         `layerctl volume clone --size SIZE {name} NEW` makes a smaller copy"
    )]
    NoShrink {
        /// The volume.
        name: VolumeName,
        /// Its size in bytes.
        have: u64,
        /// The requested size.
        bytes: u64,
    },
    /// A volume was to be held to less than it holds.
    #[error(
        "size: {bytes} bytes are less than the {used} that volume {name} holds; with --force it is held to \
         them all the same, and nothing more can be written to it"
    )]
    HoldsMore {
        /// The volume.
        name: VolumeName,
        /// Bytes that it holds.
        used: u64,
        /// The requested size.
        bytes: u64,
    },
    /// The kernel gave no random bytes.
    #[error("read random bytes for a name")]
    Random {
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// No prune has this plan.
    #[error("there is no prune plan {id:?}, or it is older than ten minutes; plan again")]
    NoPlan {
        /// The id asked for.
        id: String,
    },
}

impl VolumeError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRoom { .. } => ErrorKind::Full,
            Self::NoVolume { .. } | Self::NotInTrash { .. } | Self::NoSubpath { .. } => {
                ErrorKind::Missing
            }
            Self::Drift { .. } => ErrorKind::Exists,
            Self::BeingRead { .. }
            | Self::NoPlan { .. }
            | Self::ReadOnlyVolume { .. }
            | Self::NoLimits { .. }
            | Self::NoLimit { .. }
            | Self::NoGrowth { .. }
            | Self::TooLarge { .. }
            | Self::NoShrink { .. }
            | Self::HoldsMore { .. }
            | Self::NotDeleted { .. } => ErrorKind::Refused,
            Self::Random { .. } => ErrorKind::Internal,
            Self::NoContent { .. } | Self::NoLimitThere { .. } => ErrorKind::Damaged,
        }
    }
}

fn suggestion(near: &[VolumeName]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<_> = near.iter().map(VolumeName::as_str).collect();
    format!(" (there is {})", names.join(", "))
}
