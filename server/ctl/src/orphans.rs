//! Snapshots that layerd has and containerd does not, and the reverse, as a pure function of two lists
//! of each.
//!
//! Both go on meanwhile, so a difference counts only if it is in both lists. A snapshot
//! reaches layerd before containerd's own records, hence none is compared before it has some age.

use std::collections::{BTreeMap, BTreeSet};

use layerd_proto::layerd::v1::Removed;

use crate::client::{Holder, Reference};
use crate::containerd::BackendKey;
use crate::doctor::quoted;
use crate::snapshot::Snapshot;

/// State of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// containerd made it and has forgotten it.
    Orphan,
    /// Made by another client. containerd's garbage collection removes it all the same.
    Foreign,
    /// containerd needs it, and layerd does not have it.
    Missing,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::Foreign => "foreign",
            Self::Missing => "missing",
        }
    }
}

/// One difference.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) state: State,
    /// layerd's name of it; containerd's, if layerd does not have it.
    pub(crate) key: String,
    /// containerd's namespace; empty for what is not its own.
    pub(crate) namespace: String,
    /// Its key for containerd's clients; empty likewise.
    pub(crate) client_key: String,
    /// The snapshot, unless it is missing.
    pub(crate) snapshot: Option<Snapshot>,
    /// Users of a missing snapshot.
    pub(crate) needed_by: Vec<Holder>,
    /// Number by which layerd's trash has it, if it is missing and was removed.
    pub(crate) in_trash: Option<String>,
    /// Set if only other orphans are its children.
    pub(crate) is_free: bool,
    /// The command that ends the difference; empty if `advice` says what does.
    pub(crate) fix: String,
    pub(crate) advice: String,
}

/// Observations, made in the order of the fields.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In layerd, before containerd was asked.
    pub(crate) before: Vec<Snapshot>,
    /// In containerd: namespace and key.
    pub(crate) known: BTreeSet<(String, String)>,
    /// References of containerd, first reading.
    pub(crate) needed: Vec<Reference>,
    /// In layerd, afterwards.
    pub(crate) after: Vec<Snapshot>,
    /// References of containerd, last reading.
    pub(crate) still_needed: Vec<Reference>,
    /// In layerd's trash.
    pub(crate) trash: Vec<Removed>,
}

/// Compares. What was created after `until`, in seconds since 1970, is not compared. Children come
/// before parents, as they are to be removed.
pub(crate) fn differences(seen: &Seen, until: i64, snapshotter: &str) -> Vec<Difference> {
    let mut found = unknown(seen, until);
    found.extend(missing(seen, snapshotter));
    found
}

fn unknown(seen: &Seen, until: i64) -> Vec<Difference> {
    let before: BTreeSet<(&str, (i64, i32))> = seen
        .before
        .iter()
        .map(|one| (one.name.as_str(), one.created))
        .collect();
    let newest = newest(&seen.after, until);
    let mut unknown: Vec<&Snapshot> = seen
        .after
        .iter()
        .filter(|one| one.created.0 <= until && before.contains(&(one.name.as_str(), one.created)))
        .filter(|one| !is_known(one, &seen.known, &newest))
        .collect();
    let depths = depths(&seen.after);
    unknown.sort_by_key(|one| std::cmp::Reverse(depths.get(one.name.as_str()).copied()));
    let names: BTreeSet<&str> = unknown.iter().map(|one| one.name.as_str()).collect();
    let is_free = |name: &str| {
        let mut children = seen.after.iter().filter(|child| child.parent == name);
        children.all(|child| names.contains(child.name.as_str()))
    };
    let differences = unknown
        .iter()
        .map(|one| difference(one, is_free(&one.name)));
    differences.collect()
}

/// The highest number that each of containerd's keys has: containerd counts up, so a lower one is
/// of a snapshot that it has removed.
fn newest(snapshots: &[Snapshot], until: i64) -> BTreeMap<(&str, &str), u64> {
    let mut newest = BTreeMap::new();
    for one in snapshots.iter().filter(|one| one.created.0 <= until) {
        if let Some(key) = BackendKey::parse(&one.name) {
            let number = newest
                .entry((key.namespace, key.client_key))
                .or_insert(key.number);
            *number = key.number.max(*number);
        }
    }
    newest
}

fn is_known(
    snapshot: &Snapshot,
    known: &BTreeSet<(String, String)>,
    newest: &BTreeMap<(&str, &str), u64>,
) -> bool {
    BackendKey::parse(&snapshot.name).is_some_and(|key| {
        let is_newest = newest.get(&(key.namespace, key.client_key)) == Some(&key.number);
        is_newest && known.contains(&(key.namespace.to_owned(), key.client_key.to_owned()))
    })
}

/// Number of layers below each.
fn depths(snapshots: &[Snapshot]) -> BTreeMap<&str, usize> {
    let parents: BTreeMap<&str, &str> = snapshots
        .iter()
        .map(|one| (one.name.as_str(), one.parent.as_str()))
        .collect();
    let depth = |name: &str| {
        let mut parent = parents.get(name);
        // A list is no one moment; a circle would be a mistake, and must not hang us.
        let mut depth = 0;
        while let Some(next) = parent.filter(|_| depth <= snapshots.len()) {
            depth += 1;
            parent = parents.get(next);
        }
        depth
    };
    parents.keys().map(|name| (*name, depth(name))).collect()
}

fn difference(snapshot: &Snapshot, is_free: bool) -> Difference {
    let key = BackendKey::parse(&snapshot.name);
    let (mut fix, mut advice) = (String::new(), String::new());
    if is_free {
        fix = format!("layerctl snapshot rm {}", quoted(&snapshot.name));
    } else {
        advice = "Keep it: containerd knows what stands on it.".to_owned();
    }
    Difference {
        state: key.map_or(State::Foreign, |_| State::Orphan),
        namespace: key.map_or("", |key| key.namespace).to_owned(),
        client_key: key.map_or("", |key| key.client_key).to_owned(),
        key: snapshot.name.clone(),
        snapshot: Some(snapshot.clone()),
        needed_by: Vec::new(),
        in_trash: None,
        is_free,
        fix,
        advice,
    }
}

fn missing(seen: &Seen, snapshotter: &str) -> Vec<Difference> {
    let all = seen.before.iter().chain(&seen.after);
    let there: BTreeSet<(&str, &str)> = all
        .filter_map(|one| BackendKey::parse(&one.name))
        .map(|key| (key.namespace, key.client_key))
        .collect();
    let still: BTreeSet<&Reference> = seen.still_needed.iter().collect();
    let mut needed: BTreeMap<(&str, &str), Vec<Holder>> = BTreeMap::new();
    for one in seen.needed.iter().filter(|one| still.contains(one)) {
        let name = (one.namespace.as_str(), one.key.as_str());
        if !there.contains(&name) {
            needed.entry(name).or_default().push(one.holder.clone());
        }
    }
    // A lease may name what is yet to be made.
    needed.retain(|_, holders| !holders.iter().all(|one| matches!(one, Holder::Lease(_))));
    let missing = needed
        .into_iter()
        .map(|((namespace, key), needed_by)| lost(seen, namespace, key, needed_by, snapshotter));
    missing.collect()
}

/// Out of the trash, if it is there; else so that it can be made anew.
fn lost(
    seen: &Seen,
    namespace: &str,
    key: &str,
    needed_by: Vec<Holder>,
    snapshotter: &str,
) -> Difference {
    let is_it = |removed: &&Removed| {
        BackendKey::parse(&removed.key)
            .is_some_and(|one| (one.namespace, one.client_key) == (namespace, key))
    };
    let in_trash = seen
        .trash
        .iter()
        .rev()
        .find(is_it)
        .map(|removed| removed.id.clone());
    let ctr = format!("ctr --namespace {}", quoted(namespace));
    let container = needed_by.iter().find_map(|holder| match holder {
        Holder::Container(id) => Some(id),
        _ => None,
    });
    let (mut fix, mut advice) = (String::new(), String::new());
    if let Some(id) = &in_trash {
        fix = format!("layerctl trash restore {id}");
    } else if let Some(id) = container {
        fix = format!("{ctr} containers rm {}", quoted(id));
    } else {
        // containerd believes that the layer is there until it is told otherwise.
        advice = format!(
            "Run `{ctr} snapshots --snapshotter {} rm {}`, and pull the image again.",
            quoted(snapshotter),
            quoted(key)
        );
    }
    Difference {
        state: State::Missing,
        key: key.to_owned(),
        namespace: namespace.to_owned(),
        client_key: key.to_owned(),
        snapshot: None,
        needed_by,
        in_trash,
        is_free: false,
        fix,
        advice,
    }
}

#[cfg(test)]
mod tests;
