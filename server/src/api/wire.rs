//! Every conversion between messages and the words of the engine.

use std::collections::BTreeMap;

use layerd_engine::Entry;
use layerd_proto::containerd::services::snapshots::v1 as pb;
use layerd_proto::containerd::types::Mount;
use layerd_store::{BadInput, Commit, Create, Key, Kind, LabelChange, Labels, Timestamp, Usage};
use tonic::Status;

use super::status;

type RawLabels = BTreeMap<String, String>;

pub(crate) fn key(field: &str, raw: &str) -> Result<Key, Status> {
    Key::parse(field, raw).map_err(status::bad)
}

pub(crate) fn prepare(message: pb::PrepareSnapshotRequest) -> Result<Create, Status> {
    create(Kind::Active, &message.key, &message.parent, message.labels)
}

pub(crate) fn view(message: pb::ViewSnapshotRequest) -> Result<Create, Status> {
    create(Kind::View, &message.key, &message.parent, message.labels)
}

fn create(
    kind: Kind,
    raw_key: &str,
    parent: &str,
    raw_labels: RawLabels,
) -> Result<Create, Status> {
    Ok(Create {
        key: key("key", raw_key)?,
        kind,
        parent: optional_key("parent", parent)?,
        labels: labels(raw_labels)?,
    })
}

pub(crate) fn commit(message: pb::CommitSnapshotRequest) -> Result<Commit, Status> {
    Ok(Commit {
        name: key("name", &message.name)?,
        key: key("key", &message.key)?,
        labels: labels(message.labels)?,
        parent: optional_key("parent", &message.parent)?,
        usage: None,
    })
}

/// Which snapshot to update. Parent, kind and times of the Info are containerd's to fill as it
/// likes; only the name and the labels are read.
pub(crate) fn update_key(message: &pb::UpdateSnapshotRequest) -> Result<Key, Status> {
    let missing = || status::bad(BadInput::new("info", "must be set"));
    let info = message.info.as_ref().ok_or_else(missing)?;
    key("info.name", &info.name)
}

/// Changes of its labels.
pub(crate) fn label_changes(
    message: pb::UpdateSnapshotRequest,
) -> Result<Vec<LabelChange>, Status> {
    let given = message.info.unwrap_or_default().labels;
    let paths = message.update_mask.unwrap_or_default().paths;
    if paths.is_empty() {
        return Ok(vec![LabelChange::Replace(labels(given)?)]);
    }
    let changes = paths.iter().map(|path| label_change(path, &given));
    changes.collect()
}

fn label_change(path: &str, raw: &RawLabels) -> Result<LabelChange, Status> {
    if path == "labels" {
        return Ok(LabelChange::Replace(labels(raw.clone())?));
    }
    let Some(label) = path.strip_prefix("labels.") else {
        let path: String = path.chars().take(64).collect();
        let rule =
            format!("has the path {path:?}; only \"labels\" and \"labels.<key>\" can be updated");
        return Err(status::bad(BadInput::new("update_mask", rule)));
    };
    LabelChange::one(label, raw.get(label).map(String::as_str)).map_err(status::bad)
}

fn optional_key(field: &str, raw: &str) -> Result<Option<Key>, Status> {
    (!raw.is_empty()).then(|| key(field, raw)).transpose()
}

fn labels(raw: RawLabels) -> Result<Labels, Status> {
    Labels::parse(raw).map_err(status::bad)
}

pub(crate) fn mounts(mounts: Vec<layerd_mounts::Mount>) -> Vec<Mount> {
    let mount = |mount: layerd_mounts::Mount| Mount {
        r#type: mount.kind,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(mount).collect()
}

pub(crate) fn info(entry: Entry) -> pb::Info {
    let record = &entry.record;
    let labels = record.labels.iter();
    pb::Info {
        name: record.key.as_str().to_owned(),
        parent: entry.parent,
        kind: kind(record.kind).into(),
        created_at: Some(timestamp(record.created)),
        updated_at: Some(timestamp(record.updated)),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

fn kind(kind: Kind) -> pb::Kind {
    match kind {
        Kind::View => pb::Kind::View,
        Kind::Active => pb::Kind::Active,
        Kind::Committed => pb::Kind::Committed,
    }
}

pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    const NANOS: i64 = 1_000_000_000;
    prost_types::Timestamp {
        seconds: time.0.div_euclid(NANOS),
        nanos: i32::try_from(time.0.rem_euclid(NANOS)).expect("less than a second of nanoseconds"),
    }
}

pub(crate) fn usage(usage: Usage) -> pb::UsageResponse {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    pb::UsageResponse {
        size: number(usage.bytes),
        inodes: number(usage.inodes),
    }
}

/// A field that may be left empty.
pub(super) fn optional<T>(
    field: &str,
    raw: &str,
    parse: fn(&str, &str) -> Result<T, BadInput>,
) -> Result<Option<T>, Status> {
    let given = (!raw.is_empty()).then(|| parse(field, raw));
    given.transpose().map_err(status::bad)
}

#[cfg(test)]
mod tests {
    use prost_types::FieldMask;
    use tonic::Code;

    use super::*;

    fn request(paths: &[&str], labels: &[(&str, &str)]) -> pb::UpdateSnapshotRequest {
        pb::UpdateSnapshotRequest {
            snapshotter: String::new(),
            info: Some(pb::Info {
                name: "n".into(),
                labels: labels
                    .iter()
                    .map(|(k, v)| ((*k).into(), (*v).into()))
                    .collect(),
                created_at: Some(prost_types::Timestamp {
                    seconds: -62_135_596_800,
                    nanos: 0,
                }),
                ..pb::Info::default()
            }),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(|path| (*path).into()).collect(),
            }),
        }
    }

    #[test]
    fn masks_become_label_changes_in_order() {
        let mask = ["labels.a.b", "labels.gone"];
        let changes = label_changes(request(&mask, &[("a.b", "1")])).unwrap();
        let want = vec![
            LabelChange::Set("a.b".into(), "1".into()),
            LabelChange::Delete("gone".into()),
        ];
        assert_eq!(changes, want);
        let all = label_changes(request(&[], &[("a", "1")])).unwrap();
        assert!(matches!(all.as_slice(), [LabelChange::Replace(_)]));
    }

    #[test]
    fn other_masks_are_invalid() {
        for path in ["parent", "labelsx", "labels.", "", "kind"] {
            let status = label_changes(request(&[path], &[])).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}");
        }
    }

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        let time = timestamp(Timestamp(-1));
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_999));
    }
}
