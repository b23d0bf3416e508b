//! Helpers of the engine's tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part of it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layerd_drivers::Memory;
use layerd_engine::layerd_layers::Silent;
use layerd_engine::layerd_layers::apply::{Blob, Compression};
use layerd_engine::layerd_layers::archive::{ExportOptions, export};
use layerd_engine::layerd_layers::diff::DiffCompression;
use layerd_engine::{Engine, Entry, Error, Options, Pack, TrashOptions, Unpack};
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

/// Unpacks a layer that is not compressed.
pub(crate) fn apply(engine: &Engine, active: &str, blob: &[u8]) -> Result<(), Error> {
    let unpack = Unpack {
        compression: Compression::None,
        blob: Blob::default(),
        sync: false,
        progress: &Silent,
    };
    let active = engine.layers.active(&key(active))?;
    engine.layers.apply(&active, blob, &unpack).map(drop)
}

/// Makes a layer of a snapshot's changes, not compressed.
pub(crate) fn diff(engine: &Engine, name: &str) -> Vec<u8> {
    let changes = engine.layers.changes(&key(name)).unwrap();
    let pack = Pack {
        compression: DiffCompression::None,
        source_date_epoch: None,
        progress: &Silent,
    };
    let mut layer = Vec::new();
    engine.layers.diff(&changes, &pack, &mut layer).unwrap();
    layer
}

/// A layer that holds these files, each with its name as content.
pub(crate) fn layer(files: &[&str]) -> Vec<u8> {
    let tree = tempfile::tempdir().unwrap();
    for file in files {
        let path = tree.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let open = fs::File::open(tree.path()).unwrap();
    let mut archive = Vec::new();
    export(open.as_fd(), &mut archive, &ExportOptions::default()).unwrap();
    archive
}

/// Paths of the files below a directory, in order.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let inside = path.strip_prefix(root).unwrap();
                found.push(inside.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
