//! Helpers of the engine's tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part of it"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layerd_drivers::Memory;
use layerd_engine::{Engine, Entry, Error, Options, TrashOptions};
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Commit, Create, Key, Kind, Labels};

/// Removed layers go with the next pass of the reaper, however many.
pub(crate) fn options() -> Options {
    Options {
        usage_patience: Duration::from_secs(60),
        trash: TrashOptions {
            keep: Duration::ZERO,
            guard_percent: 0,
            ..TrashOptions::default()
        },
        ..Options::default()
    }
}

pub(crate) fn open(root: &Path, fake: &Memory) -> Engine {
    Engine::open(
        root,
        Arc::new(fake.clone()),
        Arc::new(FakeMounter::new()),
        options(),
    )
    .unwrap()
}

pub(crate) fn key(text: &str) -> Key {
    Key::parse("key", text).unwrap()
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Labels::parse(labels.iter().map(owned).collect::<BTreeMap<_, _>>()).unwrap()
}

pub(crate) fn create(
    engine: &Engine,
    kind: Kind,
    name: &str,
    parent: Option<&str>,
) -> Result<(), Error> {
    let create = Create {
        key: key(name),
        kind,
        parent: parent.map(key),
        labels: labels(&[("made", "yes")]),
    };
    engine.layers.create(create).map(drop)
}

pub(crate) fn commit(engine: &Engine, name: &str, active: &str) -> Result<(), Error> {
    commit_onto(engine, name, active, None)
}

pub(crate) fn commit_onto(
    engine: &Engine,
    name: &str,
    active: &str,
    parent: Option<&str>,
) -> Result<(), Error> {
    engine.layers.commit(Commit {
        name: key(name),
        key: key(active),
        labels: labels(&[("committed", "yes")]),
        parent: parent.map(key),
        usage: None,
    })
}

pub(crate) fn entries(engine: &Engine) -> Vec<Entry> {
    let mut listing = engine.layers.list(&[]).unwrap();
    let mut all = Vec::new();
    loop {
        let portion = listing.next_entries(7);
        if portion.is_empty() {
            return all;
        }
        all.extend(portion);
    }
}
