//! Failures of snapshots and their layers.

use std::sync::Arc;

use layerd_layers::error::Bound;
use layerd_mounts::idmap::BadMap;
use layerd_store::{Key, LayerId};

use super::{Error, ErrorKind, copy_kind, driver_kind};

/// A failure of a snapshot or its layer. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Labels with id mappings that cannot be used.
    #[error("labels uidmapping and gidmapping: {0}")]
    Mapping(#[from] BadMap),
    /// Id mappings are switched off.
    #[error(
        "the labels ask for id mappings, which `id_mapping = false` in layerd's configuration refuses"
    )]
    MappingOff,
    /// The kernel maps ids of disks for root of the machine alone.
    #[error(
        "the labels ask for id mappings, and layerd runs in a user namespace, where the kernel maps no ids of files \
         on a disk: leave them out, and give the files their owners"
    )]
    MappingInNamespace,
    /// Nothing holds a layer to a size, and one was asked for.
    #[error(
        "{from} asks for a layer that is held to a size, which the driver {driver} cannot do: {why}; \
             leave it out, or set the label containerd.io/snapshot/layerd.size to none"
    )]
    NoLimits {
        /// The label or setting that asks.
        from: String,
        /// The storage driver.
        driver: &'static str,
        /// Why it cannot.
        why: String,
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
    /// Images or devices that the mounts of a snapshot refer to could not be made ready.
    #[error("make snapshot {key:?} mountable", key = key.as_str())]
    MakeMountable {
        /// The snapshot.
        key: Key,
        /// Why it failed.
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
    /// The snapshot's content is gone or cannot be trusted.
    #[error("snapshot {key:?} is damaged: {why}; remove what uses it, then pull or create it again (`layerctl fsck` lists all)",
        key = key.as_str())]
    Damaged {
        /// The snapshot.
        key: Key,
        /// The fault.
        why: String,
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
    /// A layer is to be imported into a snapshot that holds something.
    #[error("snapshot {key:?} is not empty, so no layer is imported into it", key = key.as_str())]
    NotEmpty {
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
}

impl LayerError {
    /// Its class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Mapping(_) | Self::TooMuch { .. } => ErrorKind::Invalid,
            Self::Create { cause, .. }
            | Self::WriteBack { cause, .. }
            | Self::MakeMountable { cause, .. } => driver_kind(cause),
            Self::Measure { cause, .. } => driver_kind(cause),
            Self::Unpack { cause, .. } | Self::Pack { cause, .. } => copy_kind(cause),
            Self::Foreign { .. } | Self::NeedsMount { .. } => ErrorKind::Unsupported,
            Self::NotMountable { .. }
            | Self::MappingOff
            | Self::MappingInNamespace
            | Self::NoLimits { .. }
            | Self::Plan { .. }
            | Self::BeingUnpacked { .. }
            | Self::HalfUnpacked { .. }
            | Self::NotEmpty { .. }
            | Self::NotRebased { .. } => ErrorKind::Refused,
            Self::Damaged { .. } => ErrorKind::Damaged,
        }
    }
}

impl From<BadMap> for Error {
    fn from(cause: BadMap) -> Self {
        Self::Layer(cause.into())
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
