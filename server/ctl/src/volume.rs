//! Volumes as layerctl shows them. The field names are the documented ones of `-o json`.

use std::collections::BTreeMap;

use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

/// One volume.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Volume {
    /// As the name of its folder.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) driver: String,
    /// Where its content is, on the host.
    pub(crate) path: String,
    /// RFC 3339, UTC.
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) anonymous: bool,
    pub(crate) attachments: u64,
    /// Empty for nothing.
    pub(crate) filled_from: String,
    /// Id of a volume.
    pub(crate) snapshot_of: Option<String>,
    pub(crate) deleted_at: Option<String>,
    /// As last measured.
    pub(crate) bytes: Option<u64>,
    /// Way in which it is held to its size; empty without one.
    pub(crate) limit: String,
    /// Seconds since 1970.
    #[serde(skip)]
    pub(crate) created: i64,
    #[serde(skip)]
    pub(crate) deleted: i64,
}

impl From<wire::Volume> for Volume {
    fn from(volume: wire::Volume) -> Self {
        let created = volume.created_at.unwrap_or_default();
        let updated = volume.updated_at.unwrap_or_default();
        Self {
            id: volume.id,
            name: volume.name,
            driver: volume.driver,
            path: volume.path,
            created_at: created.to_string(),
            updated_at: updated.to_string(),
            labels: volume.labels,
            options: volume.options,
            anonymous: volume.anonymous,
            attachments: volume.attachments,
            filled_from: volume.filled_from,
            snapshot_of: Some(volume.snapshot_of).filter(|id| !id.is_empty()),
            bytes: volume.bytes,
            limit: volume.limit,
            deleted_at: volume.deleted_at.map(|time| time.to_string()),
            created: created.seconds,
            deleted: volume.deleted_at.unwrap_or_default().seconds,
        }
    }
}
