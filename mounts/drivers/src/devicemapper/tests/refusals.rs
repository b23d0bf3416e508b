//! Refusals, and the words of them.

use std::fs;
use std::path::Path;

use layerd_mounts::{Error, IdMaps, Slot};

use super::{Ground, own};
use crate::devicemapper::devices::Devices;
use crate::devicemapper::{Devicemapper, FileSystem, Options};
use crate::driver::{Base, Driver as _, Stack, Survey as _};

#[test]
fn root_another_root_or_an_older_copy_is_refused() {
    let Some(mut ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    ground.create(1, &Base::empty());
    let says = |outcome: Result<Devicemapper, Error>, what: &str| {
        let text = outcome.expect_err("refused").to_string();
        assert!(text.contains(what), "{text}");
    };
    let other = ground.pool.path("other");
    let opened = Devicemapper::open(&other, &ground.options(FileSystem::Ext4));
    says(opened, "the pool holds something already");
    assert_eq!(
        fs::read_dir(&other).expect("list").count(),
        0,
        "nothing was made"
    );
    drop(ground.driver.take());
    let state = ground.root.join("d/state");
    let before = fs::read_to_string(&state).expect("read");
    let (transaction, _) = before.split_once(' ').expect("two numbers");
    let transaction: u64 = transaction.parse().expect("a number");
    let older = |by: u64| {
        let text = format!("{:020} {:020}\n", transaction - by, 0);
        fs::write(&state, text).expect("write");
    };
    older(2);
    says(
        ground.open(FileSystem::Ext4),
        "pairing: the pool is at transaction",
    );
    older(1);
    drop(ground.open(FileSystem::Ext4).expect("a crash came between"));
    let noted = fs::read_to_string(&state).expect("read");
    assert!(!noted.starts_with(&format!("{:020}", transaction - 1)) || transaction == 1);
    ground.driver = Some(ground.open(FileSystem::Ext4).expect("open"));
    ground
        .pool
        .message("set_transaction_id", |now| format!("{now} {}", now + 5));
    ground
        .driver()
        .create(Slot(2), &Base::empty())
        .expect("create");
    let refused = ground
        .driver()
        .sync()
        .expect_err("another changed it")
        .to_string();
    assert!(refused.contains("not at transaction"), "{refused}");
}

#[test]
fn root_what_it_cannot_do_is_refused() {
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    let driver = ground.driver();
    let refused = |outcome: Result<(), Error>, says: &str| {
        let text = outcome.expect_err("refused").to_string();
        assert!(text.contains(says), "{text}");
    };
    refused(driver.create(Slot(1), &Base::deferred()), "not known");
    refused(driver.create(Slot(1 << 24), &Base::empty()), "16777215");
    let ids = IdMaps {
        uid: Vec::new(),
        gid: Vec::new(),
    };
    let mapped = Stack {
        ids: Some(ids),
        ..own(1)
    };
    refused(driver.plan(&mapped).map(drop), "the driver maps no ids");
    assert_eq!(driver.list().expect("list"), []);
    for other in [
        ("ext4", "/dev/mapper/other-1"),
        ("ext4", "/dev/sda"),
        ("xfs", "x"),
        ("bind", "x"),
    ] {
        let (kind, source) = (other.0.to_owned(), other.1.to_owned());
        let options = Vec::new();
        let mount = layerd_mounts::Mount {
            kind,
            source,
            options,
        };
        assert_eq!(driver.top_of(&mount), None);
    }
    let prefix = Devices::prefix(&ground.pool.name);
    let mount = |slot: &str| layerd_mounts::Mount {
        kind: "ext4".to_owned(),
        source: format!("/dev/mapper/{prefix}{slot}"),
        options: Vec::new(),
    };
    assert_eq!(driver.top_of(&mount("a")), Some(Slot(10)));
    assert_eq!(driver.top_of(&mount("0")), None, "the base is no layer");
    assert_eq!(driver.top_of(&mount("01")), None);
}

#[test]
fn root_a_host_without_a_pool_is_told_what_to_do() {
    let Some(ground) = Ground::new(FileSystem::Ext4) else {
        return;
    };
    let says = |pool: &str, what: &str| {
        let options = Options {
            pool: pool.to_owned(),
            ..ground.options(FileSystem::Ext4)
        };
        let root = tempfile::tempdir().expect("a temporary directory");
        let text = Devicemapper::open(root.path(), &options)
            .expect_err("refused")
            .to_string();
        assert!(
            text.contains(what) && text.contains("layerctl setup"),
            "{text}"
        );
        assert_eq!(Path::read_dir(root.path()).expect("list").count(), 0);
    };
    says("", "none is named");
    says("layerd-none", "is not active");
    says(&ground.pool.linear(), "is no thin pool");
}
