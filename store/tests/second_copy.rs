//! The second copy of the records: written at the end, read when the database is lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    missing_docs,
    reason = "a test crate"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use layerd_store::{Error, Export, Kind, LayerId, Options, Record, Store};
use tempfile::TempDir;

use common::{all, commit, create, key, open};

/// A closed store with some snapshots, and its records.
fn filled() -> (TempDir, Vec<Record>) {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    for n in 0..50 {
        create(&store, &format!("a{n}"), None, Kind::Active).unwrap();
        commit(&store, &format!("c{n}"), &format!("a{n}")).unwrap();
        create(
            &store,
            &format!("b{n}"),
            Some(&format!("c{n}")),
            Kind::Active,
        )
        .unwrap();
    }
    store.remove(&key("b7")).unwrap();
    let records = all(&store);
    (root, records)
}

fn exports(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|path| path.to_string_lossy().contains("/export."))
        .collect();
    found.sort();
    found
}

#[test]
fn a_lost_database_comes_back_from_the_export() {
    let (root, records) = filled();
    fs::rename(root.path().join("db"), root.path().join("away")).unwrap();
    assert!(matches!(open(root.path()), Err(Error::Damaged { .. })));
    let export = Export::newest(root.path()).unwrap().unwrap();
    assert_eq!(export.records().cloned().collect::<Vec<_>>(), {
        let mut by_id = records.clone();
        by_id.sort_by_key(|record| record.id);
        by_id
    });
    Store::restore(root.path(), &export, &[7, 5_000, u64::MAX]).unwrap();
    let store = open(root.path()).unwrap();
    assert_eq!(all(&store), records);
    let new = create(&store, "new", None, Kind::Active).unwrap();
    assert!(
        new.id > LayerId(5_000),
        "ids go on above what was found on disk"
    );
    assert!(
        new.id < LayerId(6_000),
        "but not above what no layer can be"
    );
}

#[test]
fn a_damaged_database_is_set_aside_not_deleted() {
    let (root, records) = filled();
    let log = root.path().join("db/db");
    let mut bytes = fs::read(&log).unwrap();
    bytes[600..4000].fill(0xff);
    fs::write(&log, &bytes).unwrap();
    assert!(matches!(open(root.path()), Err(Error::Damaged { .. })));
    let export = Export::newest(root.path()).unwrap().unwrap();
    Store::restore(root.path(), &export, &[]).unwrap();
    assert_eq!(all(&open(root.path()).unwrap()), records);
    let names = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let old = names
        .filter(|name| name.to_string_lossy().starts_with("db.old."))
        .count();
    assert_eq!(old, 1);
}

#[test]
fn the_newest_whole_export_is_taken() {
    let (root, _) = filled();
    let store = open(root.path()).unwrap();
    create(&store, "later", None, Kind::Active).unwrap();
    drop(store);
    let found = exports(root.path());
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(Export::newest(root.path()).unwrap().unwrap().path, found[1]);
    for quarantine in [0, 20, 1000] {
        let good = fs::read(&found[1]).unwrap();
        let mut bad = good.clone();
        bad[quarantine] ^= 1;
        fs::write(&found[1], &bad).unwrap();
        assert!(Export::read(&found[1]).is_err(), "byte {quarantine}");
        assert_eq!(Export::newest(root.path()).unwrap().unwrap().path, found[0]);
        fs::write(&found[1], &good[..good.len() - 1]).unwrap();
        assert!(Export::read(&found[1]).is_err(), "cut");
        fs::write(&found[1], &good).unwrap();
    }
}

#[test]
fn an_export_follows_a_quiet_period() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    create(&store, "a", None, Kind::Active).unwrap();
    let began = Instant::now();
    let newest = loop {
        if let Some(newest) = Export::newest(root.path()).unwrap() {
            break newest;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no export");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(newest.records().cloned().collect::<Vec<_>>(), all(&store));
}

#[test]
fn an_unclean_end_is_noticed() {
    let (root, _) = filled();
    let store = open(root.path()).unwrap();
    assert!(!store.was_unclean());
    let copy = TempDir::new().unwrap();
    for name in ["lock", "format", "sequence"] {
        fs::copy(root.path().join(name), copy.path().join(name)).unwrap();
    }
    fs::create_dir(copy.path().join("db")).unwrap();
    for entry in fs::read_dir(root.path().join("db")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.path().join("db").join(entry.file_name())).unwrap();
        }
    }
    let survivor = open(copy.path()).unwrap();
    assert!(survivor.was_unclean());
    assert_eq!(all(&survivor), all(&store));
}

#[test]
fn an_end_whose_files_are_not_durable_is_unclean() {
    let (root, _) = filled();
    for (refuses, is_unclean) in [(false, false), (true, true)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let barrier = move |_| {
            counted.fetch_add(1, Ordering::AcqRel);
            match refuses {
                true => Err(Arc::new(io::Error::other("the disk refused")) as _),
                false => Ok(()),
            }
        };
        let options = Options {
            barrier: Box::new(barrier),
            shared_journal_device: None,
            ids_on_disk: Vec::new(),
        };
        drop(Store::open(root.path(), options).unwrap());
        assert_eq!(calls.load(Ordering::Acquire), 2, "layers and volumes");
        assert_eq!(open(root.path()).unwrap().was_unclean(), is_unclean);
    }
}

/// A file with a higher number is of another history, or no export: it takes no place of a new one.
#[test]
fn a_broken_export_with_a_higher_number_keeps_none_from_being_written() {
    let (root, _) = filled();
    let odd = root.path().join("export.999999999");
    fs::write(&odd, "no export").unwrap();
    let store = open(root.path()).unwrap();
    store.remove(&key("b8")).unwrap();
    let sequence = store.records().sequence();
    let target = root.path().join(format!("export.{sequence}"));
    let began = Instant::now();
    while !target.exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "no export came");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Export::read(&target).is_ok() && odd.exists());
}
