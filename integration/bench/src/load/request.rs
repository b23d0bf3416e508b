//! The messages.

use layerd_proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest,
    ViewSnapshotRequest,
};

pub(super) fn list(filter: Option<String>) -> ListSnapshotsRequest {
    ListSnapshotsRequest {
        snapshotter: snapshotter(),
        filters: filter.into_iter().collect(),
    }
}

pub(super) fn usage(key: &str) -> UsageRequest {
    UsageRequest {
        snapshotter: snapshotter(),
        key: key.into(),
    }
}

pub(super) fn prepare(key: &str, parent: &str) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: snapshotter(),
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    }
}

pub(super) fn view(key: &str, parent: &str) -> ViewSnapshotRequest {
    ViewSnapshotRequest {
        snapshotter: snapshotter(),
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    }
}

pub(super) fn mounts(key: &str) -> MountsRequest {
    MountsRequest {
        snapshotter: snapshotter(),
        key: key.into(),
    }
}

pub(super) fn stat(key: &str) -> StatSnapshotRequest {
    StatSnapshotRequest {
        snapshotter: snapshotter(),
        key: key.into(),
    }
}

pub(super) fn update(key: &str) -> UpdateSnapshotRequest {
    let labels = [("layerd-bench".to_owned(), "measured".to_owned())];
    UpdateSnapshotRequest {
        snapshotter: snapshotter(),
        info: Some(Info {
            name: key.into(),
            labels: labels.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["labels.layerd-bench".into()],
        }),
    }
}

pub(super) fn commit(key: &str, name: &str) -> CommitSnapshotRequest {
    CommitSnapshotRequest {
        snapshotter: snapshotter(),
        name: name.into(),
        key: key.into(),
        ..Default::default()
    }
}

pub(super) fn remove(key: &str) -> RemoveSnapshotRequest {
    RemoveSnapshotRequest {
        snapshotter: snapshotter(),
        key: key.into(),
    }
}

/// containerd names the snapshotter it means in each call; one that has a socket of its own does
/// not look.
fn snapshotter() -> String {
    "layerd".into()
}
