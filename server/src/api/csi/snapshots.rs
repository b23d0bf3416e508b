//! Snapshots: volumes that are read-only copies of others, and do not depend on them.

use std::collections::BTreeMap;

use layerd_engine::{Engine, VolumeEntry, VolumeRef};
use layerd_proto::csi::v1::{
    ListSnapshotsRequest, ListSnapshotsResponse, Snapshot, list_snapshots_response,
};
use tonic::Status;

use super::capacity::shown;
use super::record::{self, Handle, Kind};
use super::{bad, bounded, failed, pages};
use crate::api::wire::timestamp;

/// Snapshots have no parameters but what Kubernetes adds of its own.
pub(super) fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<(), Status> {
    bounded("parameters", parameters)?;
    let mut own = parameters.keys();
    match own.find(|key| !key.starts_with("csi.storage.k8s.io/")) {
        None => Ok(()),
        Some(key) => {
            let shown: String = key.chars().take(64).collect();
            let field = format!("parameters[{shown:?}]");
            Err(bad(&field, "is unknown: snapshots have no parameters"))
        }
    }
}

/// Makes a snapshot, or answers the one that was made by this name of this volume.
///
/// # Errors
/// ALREADY_EXISTS if it is of another volume; NOT_FOUND without the volume.
pub(super) fn create(engine: &Engine, source: &str, name: &str) -> Result<VolumeEntry, Status> {
    if let Some(there) = record::named(engine, Kind::Snapshot, name) {
        let have = record::source(&there.volume);
        if have == source {
            return Ok(there);
        }
        return Err(Status::already_exists(format!(
            "source_volume_id: the snapshot named {name:?} is of {have}, and {source:?} is asked for"
        )));
    }
    let found = record::find_volume(engine, source);
    let found = found.ok_or_else(|| record::not_found("source_volume_id", source))?;
    let of = Handle::of(&found.volume);
    let (copy, labels) = record::new(Kind::Snapshot, name, [record::source_label(of)])?;
    let taken = engine
        .volumes
        .snapshot_volume(&VolumeRef::Id(found.volume.id), copy, labels);
    taken.map_err(failed)
}

/// A page of the snapshots that are asked for; what is unknown has none.
pub(super) fn list(
    engine: &Engine,
    request: &ListSnapshotsRequest,
) -> Result<ListSnapshotsResponse, Status> {
    let mut all = record::all(engine, Kind::Snapshot);
    let (id, source) = (&request.snapshot_id, &request.source_volume_id);
    all.retain(|entry| {
        let is_it = id.is_empty() || Handle::of(&entry.volume).to_string() == *id;
        is_it && (source.is_empty() || record::source(&entry.volume) == source)
    });
    let (page, next_token) = pages::page(all, request.max_entries, &request.starting_token)?;
    let entry = |entry| list_snapshots_response::Entry {
        snapshot: Some(snapshot(entry)),
    };
    Ok(ListSnapshotsResponse {
        entries: page.iter().map(entry).collect(),
        next_token,
    })
}

/// A snapshot as the standard describes it.
pub(super) fn snapshot(entry: &VolumeEntry) -> Snapshot {
    Snapshot {
        size_bytes: shown(&entry.volume),
        snapshot_id: Handle::of(&entry.volume).to_string(),
        source_volume_id: record::source(&entry.volume).to_owned(),
        creation_time: Some(timestamp(entry.volume.created)),
        ready_to_use: true,
        group_snapshot_id: String::new(),
    }
}
