//! Helpers of the store's tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "each test crate uses its part"
)]

use std::path::Path;
use std::sync::Arc;

use layerd_store::{Commit, Create, Error, Key, Kind, Labels, Options, Record, Refusal, Store};

pub fn open(root: &Path) -> Result<Store, Error> {
    let barrier = Box::new(|_| Ok(()));
    Store::open(
        root,
        Options {
            barrier,
            shared_journal_device: None,
            ids_on_disk: Vec::new(),
        },
    )
}

pub fn key(text: &str) -> Key {
    Key::parse("key", text).unwrap()
}

pub fn create(
    store: &Store,
    name: &str,
    parent: Option<&str>,
    kind: Kind,
) -> Result<Arc<Record>, Error> {
    let claim = store.claim(Create {
        key: key(name),
        kind,
        parent: parent.map(key),
        labels: Labels::default(),
    })?;
    store.record(claim, true)
}

pub fn commit(store: &Store, name: &str, from: &str) -> Result<Arc<Record>, Error> {
    commit_onto(store, name, from, None)
}

pub fn commit_onto(
    store: &Store,
    name: &str,
    from: &str,
    parent: Option<&str>,
) -> Result<Arc<Record>, Error> {
    let commit = commit_of(name, from, parent);
    let checked = store.check_commit(&store.records(), &commit)?;
    store.commit(commit, checked, true)
}

pub fn commit_of(name: &str, from: &str, parent: Option<&str>) -> Commit {
    Commit {
        name: key(name),
        key: key(from),
        labels: Labels::default(),
        parent: parent.map(key),
        usage: None,
    }
}

pub fn refusal(result: Result<Arc<Record>, Error>) -> Refusal {
    match result {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn all(store: &Store) -> Vec<Record> {
    let records = store.records();
    let live = records.iter().map(|record| Record::clone(record));
    live.chain(records.removed().map(|record| Record::clone(record)))
        .collect()
}
