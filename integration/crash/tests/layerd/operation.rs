//! The calls that change something, and what each makes of what exists.

use std::collections::BTreeMap;
use std::sync::Arc;

use layerd_integration::Snapshots;
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
use tonic::{Code, Status};

use crate::model::{Snap, World};

/// Labels of a snapshot.
pub(crate) type Labels = BTreeMap<String, String>;

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Prepare {
        key: String,
        parent: String,
        labels: Labels,
    },
    View {
        key: String,
        parent: String,
        labels: Labels,
    },
    Commit {
        name: String,
        key: String,
        labels: Labels,
    },
    Remove {
        key: String,
    },
    /// Sets these labels and keeps the others.
    Update {
        key: String,
        labels: Labels,
    },
}

use Operation::{Commit, Prepare, Remove, Update, View};

/// Short form for literals.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

pub(crate) fn prepare(key: &str, parent: &str) -> Operation {
    Prepare {
        key: key.into(),
        parent: parent.into(),
        labels: labels(&[("containerd.io/gc.root", key)]),
    }
}

pub(crate) fn view(key: &str, parent: &str) -> Operation {
    View {
        key: key.into(),
        parent: parent.into(),
        labels: labels(&[("purpose", "look")]),
    }
}

pub(crate) fn commit(name: &str, key: &str) -> Operation {
    Commit {
        name: name.into(),
        key: key.into(),
        labels: labels(&[("containerd.io/snapshot.ref", name)]),
    }
}

pub(crate) fn remove(key: &str) -> Operation {
    Remove { key: key.into() }
}

impl Operation {
    /// The snapshot that it makes, changes or removes.
    pub(crate) fn subject(&self) -> &str {
        match self {
            Prepare { key, .. } | View { key, .. } | Remove { key } | Update { key, .. } => key,
            Commit { name, .. } => name,
        }
    }

    /// The name of the call.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Prepare { .. } => "Prepare",
            View { .. } => "View",
            Commit { .. } => "Commit",
            Remove { .. } => "Remove",
            Update { .. } => "Update",
        }
    }

    /// Makes the call.
    pub(crate) fn perform(&self, client: &mut Snapshots) -> Result<(), Status> {
        let pairs = self.labels();
        match self {
            Prepare { key, parent, .. } => client.prepare(key, parent, &pairs).map(drop),
            View { key, parent, .. } => client.view(key, parent, &pairs).map(drop),
            Commit { name, key, .. } => client.commit(name, key, &pairs),
            Remove { key } => client.remove(key),
            Update { key, .. } => {
                let paths: Vec<String> = pairs
                    .iter()
                    .map(|(label, _)| format!("labels.{label}"))
                    .collect();
                let mask: Vec<&str> = paths.iter().map(String::as_str).collect();
                client.relabel(key, &pairs, Some(&mask)).map(drop)
            }
        }
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        let labels = match self {
            Prepare { labels, .. }
            | View { labels, .. }
            | Commit { labels, .. }
            | Update { labels, .. } => labels,
            Remove { .. } => return Vec::new(),
        };
        let pairs = labels.iter();
        pairs
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }

    /// State after it, or the code of its refusal.
    pub(crate) fn apply(&self, before: &World) -> Result<World, Code> {
        let mut world = before.clone();
        match self {
            Prepare {
                key,
                parent,
                labels,
            } => create(&mut world, key, parent, labels, Kind::Active)?,
            View {
                key,
                parent,
                labels,
            } => create(&mut world, key, parent, labels, Kind::View)?,
            Commit { name, key, labels } => commit_in(&mut world, name, key, labels)?,
            Remove { key } => {
                if before.values().any(|snap| snap.info.parent == *key) {
                    return Err(Code::FailedPrecondition);
                }
                world.remove(key).ok_or(Code::NotFound)?;
            }
            Update { key, labels } => {
                let snap = world.get_mut(key).ok_or(Code::NotFound)?;
                snap.info.labels.extend(labels.clone());
                snap.info.updated_at = None;
            }
        }
        Ok(world)
    }

    /// Answer of the same call repeated.
    pub(crate) fn repeated(&self) -> Code {
        match self {
            Prepare { .. } | View { .. } => Code::AlreadyExists,
            Remove { .. } => Code::NotFound,
            Commit { .. } | Update { .. } => Code::Ok,
        }
    }
}

fn create(
    world: &mut World,
    key: &str,
    parent: &str,
    labels: &Labels,
    kind: Kind,
) -> Result<(), Code> {
    if !parent.is_empty() {
        let below = world.get(parent).ok_or(Code::NotFound)?;
        if !below.is(Kind::Committed) {
            return Err(Code::InvalidArgument);
        }
    }
    if world.contains_key(key) {
        return Err(Code::AlreadyExists);
    }
    let info = Info {
        name: key.into(),
        parent: parent.into(),
        kind: kind.into(),
        labels: labels.clone(),
        ..Info::default()
    };
    let snap = Snap {
        info,
        mounts: None,
        own: None,
        layer: None,
        damaged: false,
    };
    world.insert(key.into(), snap);
    Ok(())
}

fn commit_in(world: &mut World, name: &str, key: &str, labels: &Labels) -> Result<(), Code> {
    let active = world.get(key).ok_or(Code::NotFound)?;
    if world.contains_key(name) {
        return Err(Code::AlreadyExists);
    }
    if !active.is(Kind::Active) {
        return Err(Code::FailedPrecondition);
    }
    let info = Info {
        name: name.into(),
        parent: active.info.parent.clone(),
        kind: Kind::Committed.into(),
        labels: labels.clone(),
        ..Info::default()
    };
    let snap = Snap {
        info,
        mounts: Some(Vec::new()),
        own: active.own.clone(),
        layer: active.layer.as_ref().map(Arc::clone),
        damaged: false,
    };
    world.remove(key);
    world.insert(name.into(), snap);
    Ok(())
}
