//! Snapshots as layerctl shows them. The field names are the documented ones of `-o json`.

use std::collections::BTreeMap;

use layerd_proto::containerd::services::snapshots::v1::{Info, Kind as WireKind};
use layerd_proto::containerd::types::Mount as WireMount;
use serde::Serialize;

use crate::human;
use crate::table::{Cell, Colour};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Writable
    Active,
    /// Read-only
    View,
    /// Finished; others can build on it
    Committed,
    #[value(skip)]
    Unknown,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn cell(self) -> Cell {
        Cell::left(self.name()).coloured(match self {
            Self::Active => Colour::Green,
            Self::View => Colour::Cyan,
            Self::Committed | Self::Unknown => Colour::Plain,
        })
    }
}

/// One snapshot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    /// Empty for none.
    pub(crate) parent: String,
    pub(crate) kind: Kind,
    /// RFC 3339, UTC.
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Seconds and nanoseconds since 1970.
    #[serde(skip)]
    pub(crate) created: (i64, i32),
}

/// The label for the bytes that a layer can hold.
const SIZE: &str = "containerd.io/snapshot/layerd.size";
/// The label for the inodes that a layer can have.
const INODES: &str = "containerd.io/snapshot/layerd.inodes";

impl Snapshot {
    /// Most that it can hold, for people; only an active snapshot is limited.
    pub(crate) fn limit(&self) -> Option<String> {
        let size = self.labels.get(SIZE).filter(|_| self.kind == Kind::Active);
        let size = size.filter(|size| *size != "none")?;
        let size = size.parse().map_or_else(|_| size.clone(), human::size);
        let inodes = self.labels.get(INODES);
        let inodes = inodes.map(|inodes| format!(", {inodes} inodes"));
        Some(size + &inodes.unwrap_or_default())
    }
}

impl From<Info> for Snapshot {
    fn from(info: Info) -> Self {
        let kind = match info.kind() {
            WireKind::Active => Kind::Active,
            WireKind::View => Kind::View,
            WireKind::Committed => Kind::Committed,
            WireKind::Unknown => Kind::Unknown,
        };
        let created = info.created_at.unwrap_or_default();
        let updated = info.updated_at.unwrap_or_default();
        Self {
            name: info.name,
            parent: info.parent,
            kind,
            created: (created.seconds, created.nanos),
            created_at: created.to_string(),
            updated_at: updated.to_string(),
            labels: info.labels.into_iter().collect(),
        }
    }
}

/// Disk usage of a snapshot itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mount {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Below the directory to mount at; empty for that directory.
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

impl From<WireMount> for Mount {
    fn from(mount: WireMount) -> Self {
        Self {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}
