//! The store as its callers see it, on a real sled in a temporary directory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    missing_docs,
    reason = "a test crate"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use layerd_store::{
    Create, Error, Export, Files, Kind, LABEL_MAX, LabelChange, Labels, NAME_MAX, Options, Refusal,
    Store, Usage, VolumeId,
};
use tempfile::TempDir;

use common::{all, commit, commit_of, commit_onto, create, key, open, refusal};

/// Every file below `folder` with its bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.display().to_string(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_snapshot_lives_through_all_states_and_restarts() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    assert!(store.is_fresh());
    create(&store, "a", None, Kind::Active).unwrap();
    let base = commit(&store, "base", "a").unwrap();
    let top = create(&store, "top", Some("base"), Kind::Active).unwrap();
    create(&store, "view", Some("base"), Kind::View).unwrap();
    assert_eq!(top.parent, Some(base.id));
    store
        .set_usage(
            base.id,
            Usage {
                bytes: 4096,
                inodes: 1,
            },
        )
        .unwrap();
    let change = LabelChange::one("l", Some("v")).unwrap();
    store.update(&key("top"), vec![change]).unwrap();
    store.remove(&key("view")).unwrap();
    let before = all(&store);
    drop(store);

    let store = open(root.path()).unwrap();
    assert!(!store.is_fresh());
    assert_eq!(all(&store), before);
    let records = store.records();
    assert_eq!(
        records.find(&key("base")).unwrap().usage.unwrap().bytes,
        4096
    );
    assert_eq!(
        records.find(&key("top")).unwrap().labels.get("l"),
        Some("v")
    );
    let removed = records.removed().map(|record| record.id).collect();
    store.drop_records(removed).unwrap();
    assert_eq!(store.records().removed().count(), 0);
}

#[test]
fn refusals_come_in_containerds_order() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    create(&store, "a", None, Kind::Active).unwrap();
    let gone = refusal(create(&store, "a", Some("no"), Kind::Active));
    assert!(matches!(gone, Refusal::ParentMissing { .. }));
    let open_parent = refusal(create(&store, "a", Some("a"), Kind::Active));
    assert!(matches!(open_parent, Refusal::ParentNotCommitted { .. }));
    assert!(matches!(
        refusal(create(&store, "a", None, Kind::View)),
        Refusal::Taken { .. }
    ));
    assert!(matches!(
        refusal(commit(&store, "a", "no")),
        Refusal::Missing { .. }
    ));
    assert!(matches!(
        refusal(commit(&store, "a", "a")),
        Refusal::Taken { .. }
    ));
    create(&store, "v", None, Kind::View).unwrap();
    assert!(matches!(
        refusal(commit(&store, "n", "v")),
        Refusal::NotActive { .. }
    ));
    commit(&store, "base", "a").unwrap();
    create(&store, "b", Some("base"), Kind::Active).unwrap();
    let held = refusal(store.remove(&key("base")));
    assert!(held.to_string().contains("remove"), "{held}");
    assert!(matches!(
        refusal(store.remove(&key("no"))),
        Refusal::Missing { .. }
    ));
}

#[test]
fn a_repeated_commit_is_answered_like_the_first() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    create(&store, "a", None, Kind::Active).unwrap();
    let first = commit(&store, "base", "a").unwrap();
    drop(store);
    let store = open(root.path()).unwrap();
    assert_eq!(commit(&store, "base", "a").unwrap(), first);
    assert!(matches!(
        refusal(commit(&store, "base", "b")),
        Refusal::Missing { .. }
    ));
}

#[test]
fn a_commit_is_made_of_what_was_checked_or_not_at_all() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    let remake = |name: &str| {
        store.remove(&key(name)).unwrap();
        create(&store, name, None, Kind::Active).unwrap();
    };
    create(&store, "a", None, Kind::Active).unwrap();
    let wanted = commit_of("layer", "a", None);
    let checked = store.check_commit(&store.records(), &wanted).unwrap();
    assert_eq!(
        refusal(store.commit(wanted.clone(), None, true)),
        Refusal::Missing { key: key("a") }
    );
    remake("a");
    assert_eq!(
        refusal(store.commit(wanted, checked, true)),
        Refusal::Missing { key: key("a") }
    );

    create(&store, "tmp", None, Kind::Active).unwrap();
    commit(&store, "base", "tmp").unwrap();
    let wanted = commit_of("layer", "a", Some("base"));
    let checked = store.check_commit(&store.records(), &wanted).unwrap();
    remake("base");
    commit(&store, "tmp", "base").unwrap();
    create(&store, "again", None, Kind::Active).unwrap();
    commit(&store, "base", "again").unwrap();
    assert_eq!(
        refusal(store.commit(wanted, checked, true)),
        Refusal::ParentMissing {
            parent: key("base")
        }
    );
    commit_onto(&store, "layer", "a", Some("base")).unwrap();
}

#[test]
fn a_commit_may_name_a_parent_only_where_there_is_none() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    let rebase =
        |name: &str, from: &str, parent: &str| commit_onto(&store, name, from, Some(parent));
    for (name, parent) in [("a", None), ("b", None)] {
        create(&store, name, parent, Kind::Active).unwrap();
    }
    let base = commit(&store, "base", "a").unwrap();
    assert!(matches!(
        refusal(rebase("x", "b", "no")),
        Refusal::ParentMissing { .. }
    ));
    assert!(matches!(
        refusal(rebase("x", "b", "b")),
        Refusal::ParentNotCommitted {
            at_commit: true,
            ..
        }
    ));
    assert_eq!(rebase("second", "b", "base").unwrap().parent, Some(base.id));
    create(&store, "c", Some("base"), Kind::Active).unwrap();
    assert!(matches!(
        refusal(rebase("third", "c", "second")),
        Refusal::OtherParent { .. }
    ));
    assert_eq!(rebase("third", "c", "base").unwrap().parent, Some(base.id));
}

#[test]
fn a_claimed_key_is_taken_until_the_claim_is_dropped() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    let request = Create {
        key: key("a"),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    let claim = store.claim(request.clone()).unwrap();
    assert_eq!(store.claimed(), vec![claim.id()]);
    assert!(matches!(
        store.claim(request.clone()),
        Err(Error::Refused(Refusal::Taken { .. }))
    ));
    assert!(store.records().is_empty(), "a claim is not visible");
    drop(claim);
    assert!(store.claim(request).is_ok());
}

#[test]
fn ids_are_never_handed_out_twice() {
    let root = TempDir::new().unwrap();
    let mut seen = BTreeSet::new();
    for round in 0..5 {
        let store = open(root.path()).unwrap();
        for n in 0..300 {
            let claim = store.claim(Create {
                key: key(&format!("{round}-{n}")),
                kind: Kind::Active,
                parent: None,
                labels: Labels::default(),
            });
            let claim = claim.unwrap();
            assert!(seen.insert(claim.id()), "{} came twice", claim.id());
            if n % 97 == 0 {
                store.record(claim, true).unwrap();
            }
        }
    }
}

#[test]
fn concurrent_callers_share_flushes_and_one_of_them_gets_a_key() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    let won = thread::scope(|scope| {
        let calls: Vec<_> = (0..16)
            .map(|caller| {
                let store = &store;
                scope.spawn(move || {
                    let wins =
                        (0..50).map(|n| create(store, &format!("key-{n}"), None, Kind::Active));
                    for n in 0..20 {
                        create(store, &format!("own-{caller}-{n}"), None, Kind::Active).unwrap();
                    }
                    wins.filter(Result::is_ok).count()
                })
            })
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(won, 50);
    assert_eq!(store.records().len(), 50 + 16 * 20);
    let before = all(&store);
    drop(store);
    assert_eq!(all(&open(root.path()).unwrap()), before);
}

#[test]
fn the_barrier_is_passed_unless_the_records_are_in_the_same_journal() {
    let root = TempDir::new().unwrap();
    let device = fs::metadata(root.path()).unwrap().dev();
    let cases = [(None, 1), (Some(device + 1), 1), (Some(device), 0)];
    for (number, (journal, wanted)) in cases.into_iter().enumerate() {
        let passed = Arc::new(AtomicUsize::new(0));
        let counter = passed.clone();
        let barrier = Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let store = Store::open(
            root.path(),
            Options {
                barrier,
                shared_journal_device: journal,
                ids_on_disk: Vec::new(),
            },
        )
        .unwrap();
        let name = number.to_string();
        create(&store, &name, None, Kind::Active).unwrap();
        assert_eq!(passed.load(Ordering::Relaxed), wanted, "{journal:?}");
        drop(store);
        let before = number + 1;
        assert_eq!(open(root.path()).unwrap().records().len(), before);
    }
}

#[test]
fn a_barrier_that_fails_keeps_the_records_that_rely_on_it_from_being_written() {
    for broken in [Files::Layers, Files::Volumes] {
        let root = TempDir::new().unwrap();
        let barrier = Box::new(move |files| match files == broken {
            true => Err(Arc::new(std::io::Error::other("no")) as _),
            false => Ok(()),
        });
        let options = Options {
            barrier,
            shared_journal_device: None,
            ids_on_disk: Vec::new(),
        };
        let store = Store::open(root.path(), options).unwrap();
        let layer = create(&store, "a", None, Kind::Active).map(drop);
        let volume = store.drop_volume_records(vec![VolumeId(7)]);
        let (failed, written) = match broken {
            Files::Layers => (layer, volume),
            Files::Volumes => (volume, layer),
        };
        assert!(matches!(failed, Err(Error::Barrier { .. })), "{failed:?}");
        written.unwrap();
        let layers = usize::from(broken == Files::Volumes);
        assert_eq!(store.records().len(), layers);
        assert!(!store.has_failed());
    }
}

#[test]
fn the_largest_records_make_no_blob_files() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    for n in 0..64 {
        let name = format!("{n:04}{}", "k".repeat(NAME_MAX - 4));
        let labels = (0..60).map(|l| (format!("{l:02}"), "v".repeat(LABEL_MAX - 2)));
        let claim = store.claim(Create {
            key: key(&name),
            kind: Kind::Active,
            parent: None,
            labels: Labels::parse(labels.collect()).unwrap(),
        });
        store.record(claim.unwrap(), true).unwrap();
        commit(
            &store,
            &format!("{n:04}{}", "c".repeat(NAME_MAX - 4)),
            &name,
        )
        .unwrap();
    }
    let before = all(&store);
    drop(store);
    let blobs = root.path().join("db/blobs");
    assert_eq!(
        fs::read_dir(blobs).map(Iterator::count).unwrap_or_default(),
        0
    );
    assert_eq!(all(&open(root.path()).unwrap()), before);
}

#[test]
fn a_second_opener_is_told_who_holds_the_root() {
    let root = TempDir::new().unwrap();
    let _store = open(root.path()).unwrap();
    let before = contents(&root.path().join("db"));
    let error = open(root.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    assert_eq!(contents(&root.path().join("db")), before);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let root = TempDir::new().unwrap();
    drop(open(root.path()).unwrap());
    fs::write(root.path().join("format"), "2\n").unwrap();
    let before = contents(root.path());
    assert!(matches!(open(root.path()), Err(Error::Newer { .. })));
    assert_eq!(contents(root.path()), before);
}

/// It says nothing of who wrote the records; an export has them with its own format.
#[test]
fn a_damaged_format_is_no_newer_one_and_restoring_mends_it() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    create(&store, "key", None, Kind::Active).unwrap();
    drop(store);
    for text in [
        &b""[..],
        b"\n",
        b"one\n",
        b"\xff\xfe",
        b"0",
        b"-1",
        b"99999999999999",
    ] {
        fs::write(root.path().join("format"), text).unwrap();
        let before = contents(root.path());
        let refused = open(root.path()).map(drop).unwrap_err();
        assert!(
            matches!(refused, Error::Damaged { .. }),
            "{text:?}: {refused}"
        );
        assert_eq!(contents(root.path()), before);
    }
    let export = Export::newest(root.path()).unwrap().unwrap();
    Store::restore(root.path(), &export, &[]).unwrap();
    assert_eq!(all(&open(root.path()).unwrap()).len(), 1);
}

#[test]
fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let root = TempDir::new().unwrap();
    drop(open(root.path()).unwrap());
    fs::rename(root.path().join("db"), root.path().join("away")).unwrap();
    let error = open(root.path()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!root.path().join("db").exists());
}

#[test]
fn a_crash_in_the_middle_of_creation_or_opening_is_overcome() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("db.new")).unwrap();
    fs::write(root.path().join("db.new/conf"), "half").unwrap();
    let store = open(root.path()).unwrap();
    create(&store, "a", None, Kind::Active).unwrap();
    drop(store);
    fs::write(root.path().join("db/snap.00.generating"), "half").unwrap();
    fs::create_dir(root.path().join("db.copy")).unwrap();
    assert_eq!(open(root.path()).unwrap().records().len(), 1);
    fs::rename(root.path().join("db"), root.path().join("db.copy")).unwrap();
    fs::create_dir(root.path().join("db.touched")).unwrap();
    assert_eq!(open(root.path()).unwrap().records().len(), 1);
    assert!(!root.path().join("db.touched").exists());
}

/// Cuts and garbles sled's log all over; every opening must give the whole content or an error that
/// leaves every byte in place. A difference that the store overlooks fails the test. There are more
/// commits than the journal keeps, which would make good the loss of the others.
#[test]
fn damage_is_an_error_and_touches_nothing() {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    for n in 0..800 {
        create(&store, &format!("snapshot {n}"), None, Kind::Active).unwrap();
    }
    let before = all(&store);
    drop(store);
    let log = root.path().join("db/db");
    let good = fs::read(&log).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut found, mut survived) = (0, 0);
    for step in 0..40 {
        let at = used * step / 40;
        let mut bad = good.clone();
        match step % 3 {
            0 => bad.truncate(at),
            1 => bad[at..(at + 512).min(good.len())].fill(0),
            _ => bad[at] ^= 0x10,
        }
        fs::write(&log, &bad).unwrap();
        let files = contents(&root.path().join("db"));
        match open(root.path()) {
            Ok(store) => {
                assert_eq!(
                    all(&store),
                    before,
                    "step {step}: other content without an error"
                );
                survived += 1;
            }
            Err(Error::Damaged { .. }) => {
                assert!(
                    contents(&root.path().join("db")) == files,
                    "step {step}: touched"
                );
                found += 1;
            }
            Err(other) => panic!("step {step}: {other}"),
        }
    }
    assert!(found > 10, "{found} found, {survived} survived");
}
