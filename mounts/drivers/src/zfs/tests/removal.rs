//! Removal, and what is left behind, on a kernel that has ZFS: `make test-vm`.

use std::fs;
use std::io::{ErrorKind, Write as _};

use layerd_mounts::error::with_causes;
use layerd_mounts::{Error, Slot};

use super::super::datasets::LOST;
use super::pool::{Pool, commit, create, fd_path, frozen, property, put, remove, run};
use crate::driver::{Base, Driver, Found, SlotKind, Survey, WorkDirs as _};
use crate::factory;
use crate::stacks::{on, view};

#[test]
fn root_full_vm_what_is_missing_is_removed() {
    let pool = Pool::new();
    let driver = pool.open();
    for slot in 1..=2 {
        create(&driver, slot, &Base::empty());
        run("zfs", &["destroy", &pool.layer(slot)]);
    }
    driver.discard(Slot(1)).expect("discard");
    let trash = [Found::Slot(SlotKind::Trash, Slot(1))];
    assert_eq!(driver.list().expect("list"), trash);
    driver
        .delete(Slot(1), &|| true)
        .expect("it is gone already");
    remove(&driver, 2).expect("it is gone already");
    remove(&driver, 3).expect("there never was one");
    assert_eq!(driver.list().expect("list"), []);
    let failed = driver.create(Slot(4), &Base::on(Slot(2)));
    assert_eq!(
        failed.expect_err("no parent").io_kind(),
        Some(ErrorKind::NotFound)
    );
}

#[test]
fn root_full_vm_one_that_is_in_use_does_not_keep_others() {
    let pool = Pool::new();
    let driver = pool.open();
    for slot in 1..=3 {
        create(&driver, slot, &Base::empty());
        put(&driver, slot, "file", 100);
    }
    let client = pool.mount(&driver, &on(2, []), "client");
    for (slot, is_held) in [(1, false), (2, true), (3, false)] {
        let removed = remove(&driver, slot);
        assert_eq!(removed.is_err(), is_held, "{slot}: {removed:?}");
        if let Err(cause) = removed {
            let said = with_causes(&cause);
            assert_eq!(cause.io_kind(), Some(ErrorKind::ResourceBusy), "{said}");
            assert!(
                said.contains(&format!("{} is in use", pool.layer(2))),
                "{said}"
            );
        }
    }
    assert_eq!(
        fs::read(client.path("file")).expect("it stays mounted"),
        [7; 100]
    );
    let trash = [Found::Slot(SlotKind::Trash, Slot(2))];
    assert_eq!(driver.list().expect("list"), trash);
    drop(client);
    driver.delete(Slot(2), &|| true).expect("it is let go");
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn root_full_vm_a_view_keeps_its_layer() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    commit(&driver, 1);
    let shown = pool.mount(&driver, &view([1]), "view");
    let said = remove(&driver, 1).expect_err("it is shown");
    let said = with_causes(&said);
    assert!(
        said.contains(&format!("{} is in use", frozen(&pool, 1))),
        "{said}"
    );
    drop(shown);
    driver.delete(Slot(1), &|| true).expect("it is let go");
}

#[test]
fn root_full_vm_snapshots_of_others_go_with_the_layer() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    assert_eq!(property(&pool.layer(1), "com.sun:auto-snapshot"), "false");
    run(
        "zfs",
        &["snapshot", "-r", &format!("{}@backup", pool.dataset())],
    );
    put(&driver, 1, "file", 1 << 20);
    let usage = commit(&driver, 1);
    assert!(
        usage.bytes > 1 << 20,
        "what is written before and after: {usage:?}"
    );
    create(&driver, 2, &Base::on(Slot(1)));
    run(
        "zfs",
        &["snapshot", "-r", &format!("{}@later", pool.dataset())],
    );
    assert_eq!(driver.usage(Slot(1), &|| true).expect("measure"), usage);
    let refused = remove(&driver, 1).expect_err("it has a clone");
    let said = with_causes(&refused);
    assert!(said.contains("has clones"), "{said}");
    remove(&driver, 2).expect("remove");
    driver.delete(Slot(1), &|| true).expect("delete");
    assert_eq!(driver.list().expect("list"), []);
    // A hold is a person's word.
    create(&driver, 3, &Base::empty());
    let kept = format!("{}@kept", pool.layer(3));
    run("zfs", &["snapshot", &kept]);
    run("zfs", &["hold", "mine", &kept]);
    let said = with_causes(&remove(&driver, 3).expect_err("held"));
    assert!(
        said.contains(&kept) && said.contains("release holds"),
        "{said}"
    );
    run("zfs", &["release", "mine", &kept]);
    driver.delete(Slot(3), &|| true).expect("delete");
}

#[test]
fn root_full_vm_datasets_of_others_stay() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    let below = format!("{}/theirs", pool.layer(1));
    let beside = format!("{}/their-own", pool.dataset());
    run("zfs", &["create", &below]);
    run("zfs", &["create", &beside]);
    let said = with_causes(&remove(&driver, 1).expect_err("theirs"));
    assert!(said.contains(&format!("{below} lies below it")), "{said}");
    let unknown = Found::UnknownEntry(beside.into());
    let found = driver.list().expect("list");
    assert!(found.contains(&unknown), "{found:?}");
    let moved = driver.move_to_lost_found(&unknown).expect("move");
    let lost = format!("{}/{LOST}/their-own", pool.dataset());
    assert_eq!(moved.to_str(), Some(&*lost));
    assert_eq!(property(&lost, "type"), "filesystem");
    run("zfs", &["destroy", &below]);
    driver.delete(Slot(1), &|| true).expect("delete");
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn root_full_vm_layers_are_set_aside_with_what_they_hold() {
    let pool = Pool::new();
    let driver = pool.open();
    for round in ["1", "1.1"] {
        create(&driver, 1, &Base::empty());
        put(&driver, 1, "file", 100);
        commit(&driver, 1);
        if round == "1.1" {
            driver.discard(Slot(1)).expect("discard");
        }
        let kind = if round == "1" {
            SlotKind::Layer
        } else {
            SlotKind::Trash
        };
        let moved = driver.move_to_lost_found(&Found::Slot(kind, Slot(1)));
        let wanted = format!("{}/{LOST}/{round}", pool.dataset());
        assert_eq!(moved.expect("move").to_str(), Some(&*wanted));
        assert_eq!(driver.list().expect("list"), []);
        let gone = driver.move_to_lost_found(&Found::Slot(kind, Slot(1)));
        assert_eq!(
            gone.expect_err("it is gone").io_kind(),
            Some(ErrorKind::NotFound)
        );
    }
}

#[test]
fn root_full_vm_what_a_crash_left_is_listed() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    put(&driver, 1, "file", 100);
    commit(&driver, 1);
    // Prepare: marked, and then made.
    driver.mark(Slot(2)).expect("mark");
    driver.create(Slot(3), &Base::on(Slot(1))).expect("create");
    // Removal: marked.
    create(&driver, 4, &Base::empty());
    driver.discard(Slot(4)).expect("discard");
    drop(driver);
    let driver = pool.open();
    let mut found = driver.list().expect("list");
    found.sort_by_key(|found| match found {
        Found::Slot(kind, slot) => (slot.0, *kind),
        Found::UnknownEntry(_) => (u64::MAX, SlotKind::Trash),
    });
    let wanted = [
        (SlotKind::Layer, 1),
        (SlotKind::Work, 2),
        (SlotKind::Layer, 3),
        (SlotKind::Work, 3),
        (SlotKind::Trash, 4),
    ];
    assert_eq!(
        found,
        wanted.map(|(kind, slot)| Found::Slot(kind, Slot(slot)))
    );
    let survey = factory::survey(
        &pool.path("root"),
        &factory::Settings {
            kind: factory::Kind::Zfs,
            dataset: Some(pool.dataset()),
            ..factory::Settings::default()
        },
    );
    let survey = survey.expect("survey");
    assert_eq!(survey.list().expect("list").len(), wanted.len());
    for (slot, is_unused) in [(1, false), (2, true), (3, true), (4, true)] {
        assert_eq!(
            driver.is_unused(Slot(slot)).expect("look"),
            is_unused,
            "{slot}"
        );
        assert_eq!(
            survey.is_unused(Slot(slot)).expect("look"),
            is_unused,
            "{slot}"
        );
    }
    assert!(fs::metadata(fd_path(&survey.open_layer(Slot(1)).expect("open")).join("file")).is_ok());
    for slot in [2, 3, 4] {
        remove(&driver, slot).expect("remove");
    }
    create(&driver, 5, &Base::on(Slot(1)));
    driver.remove(Slot(5)).expect("no mark");
    remove(&driver, 5).expect("remove");
    remove(&driver, 1).expect("remove");
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn root_full_vm_a_full_pool_is_full_and_layers_can_still_be_removed() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    run("zfs", &["set", "quota=20M", &pool.dataset()]);
    let top = driver.open_layer(Slot(1)).expect("open");
    let mut file = fs::File::create(fd_path(&top).join("large")).expect("create");
    let piece = vec![3_u8; 1 << 20];
    while file.write_all(&piece).is_ok() {
        run("zpool", &["sync", &pool.name]);
    }
    drop((file, top));
    run("zpool", &["sync", &pool.name]);
    let refused = driver.create(Slot(2), &Base::empty());
    if let Err(cause) = refused {
        assert!(cause.is_full(), "{cause:?}");
    }
    remove(&driver, 2).expect("remove");
    remove(&driver, 1).expect("remove");
    assert_eq!(driver.list().expect("list"), []);
    let error: Error = driver.open_layer(Slot(1)).expect_err("it is gone");
    assert_eq!(error.io_kind(), Some(ErrorKind::NotFound));
}

/// The pool writes nothing by itself meanwhile: what is there afterwards was waited for.
#[test]
fn root_full_vm_what_was_answered_survives_a_power_cut() {
    const INTERVAL: &str = "/sys/module/zfs/parameters/zfs_txg_timeout";
    let before = fs::read_to_string(INTERVAL).expect("read");
    fs::write(INTERVAL, "3600").expect("write");
    let mut pool = Pool::new();
    let driver = pool.open();
    for slot in 1..=2 {
        create(&driver, slot, &Base::empty());
        put(&driver, slot, "file", 100_000);
    }
    commit(&driver, 1);
    remove(&driver, 2).expect("remove");
    create(&driver, 3, &Base::on(Slot(1)));
    let client = pool.mount(&driver, &on(3, [1]), "client");
    fs::write(client.path("unpacked"), [8; 100_000]).expect("write");
    driver
        .directories()
        .expect("they are")
        .filled()
        .expect("note");
    // An unmount would write what is left.
    let copied = pool.copy();
    drop((driver, client));
    pool.put_back(copied);
    fs::write(INTERVAL, before.trim()).expect("write");
    let driver = pool.open();
    let wanted = [1, 3].map(|slot| Found::Slot(SlotKind::Layer, Slot(slot)));
    assert_eq!(driver.list().expect("list"), wanted);
    let read = |slot, name: &str| {
        let top = driver.open_layer(Slot(slot)).expect("open");
        fs::read(fd_path(&top).join(name)).expect("read")
    };
    assert_eq!(read(1, "file"), [7; 100_000]);
    assert_eq!(read(3, "file"), [7; 100_000]);
    assert_eq!(read(3, "unpacked"), [8; 100_000]);
    assert_eq!(property(&pool.layer(1), "readonly"), "on");
}
