//! The driver on a kernel that has ZFS: `make test-vm`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use layerd_mounts::Slot;
use layerd_mounts::mounter::{KernelMounter, Mounter as _};
use nix::errno::Errno;

use super::super::Zfs;
use super::super::datasets::TRIAL;
use super::pool::{Pool, commit, create, fd_path, property, put, remove, run};
use crate::Limit;
use crate::conformance;
use crate::driver::{Base, Driver, Limits as _, Survey};
use crate::stacks::{on, view};

fn errno<T>(outcome: std::io::Result<T>) -> Option<Errno> {
    let number = outcome.err()?.raw_os_error()?;
    Some(Errno::from_raw(number))
}

#[test]
fn root_full_vm_zfs_keeps_the_contract() {
    let pool = Pool::new();
    let driver = pool.open();
    conformance::check(&driver, &|Slot(slot)| put(&driver, slot, "file", 8192));
}

#[test]
fn root_full_vm_views_are_read_only_at_every_answer() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    put(&driver, 1, "file", 100);
    commit(&driver, 1);
    let first = driver.plan(&view([1])).expect("plan");
    for round in 0..3 {
        let again = driver.plan(&view([1])).expect("plan");
        assert_eq!(again, first, "the same each time");
        assert_eq!(again[0].options, ["ro"]);
        let shown = pool.mount(&driver, &view([1]), &format!("view-{round}"));
        assert_eq!(fs::read(shown.path("file")).expect("read"), [7; 100]);
        for outcome in [
            fs::write(shown.path("file"), "x"),
            fs::write(shown.path("new"), "x"),
        ] {
            assert_eq!(errno(outcome), Some(Errno::EROFS));
        }
        // The kernel refuses also those who ask for a writable mount.
        let mut plan = again;
        plan[0].options = vec!["rw".to_owned()];
        if let Ok(shown) = layerd_mounts::test_support::Mounted::new(&plan, &pool.path("rw")) {
            assert_eq!(errno(fs::write(shown.path("new"), "x")), Some(Errno::EROFS));
        }
    }
    // As attachments of images show it.
    let tree = KernelMounter::new().view(&first).expect("a view");
    let top = tree.open(Path::new("the view")).expect("open");
    let path = format!("/proc/self/fd/{}", top.as_fd().as_raw_fd());
    let read = fs::read(Path::new(&path).join("file"));
    assert_eq!(read.expect("read"), [7; 100]);
    let outcome = fs::write(Path::new(&path).join("new"), "x");
    assert_eq!(errno(outcome), Some(Errno::EROFS));
    // One without a parent.
    driver
        .create(Slot(2), &Base::empty().read_only())
        .expect("create");
    let mut own = on(2, []);
    own.writable = false;
    let shown = pool.mount(&driver, &own, "own");
    assert_eq!(errno(fs::write(shown.path("new"), "x")), Some(Errno::EROFS));
}

#[test]
fn root_full_vm_a_write_after_commit_is_refused() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    let client = pool.mount(&driver, &on(1, []), "client");
    fs::write(client.path("kept"), "before").expect("write");
    let mut open = OpenOptions::new()
        .append(true)
        .open(client.path("kept"))
        .expect("open");
    commit(&driver, 1);
    assert_eq!(
        errno(fs::write(client.path("new"), "x")),
        Some(Errno::EROFS)
    );
    assert_eq!(
        errno(fs::remove_file(client.path("kept"))),
        Some(Errno::EROFS)
    );
    // Whatever a descriptor that was open before can do, no one sees it.
    let _ = open.write_all(b"after").and_then(|()| open.sync_all());
    let shown = pool.mount(&driver, &view([1]), "view");
    assert_eq!(fs::read(shown.path("kept")).expect("read"), b"before");
    create(&driver, 2, &Base::on(Slot(1)));
    let child = pool.mount(&driver, &on(2, [1]), "child");
    assert_eq!(fs::read(child.path("kept")).expect("read"), b"before");
}

/// Mounts of a layer whose commit came to nothing are writable again, also after a crash, and the next commit
/// has what is written then.
#[test]
fn root_full_vm_a_commit_that_came_to_nothing_is_repeated() {
    let pool = Pool::new();
    let mut driver = pool.open();
    create(&driver, 1, &Base::empty());
    for name in ["first", "second", "third"] {
        let client = pool.mount(&driver, &on(1, []), "client");
        fs::write(client.path(name), name).expect("write");
        drop(client);
        driver.freeze(&on(1, [])).expect("freeze");
        if name == "second" {
            drop(driver);
            driver = pool.open();
        }
    }
    // Killed after the first of its two calls.
    driver.make_mountable(&on(1, [])).expect("make mountable");
    run("zfs", &["set", "readonly=on", &pool.layer(1)]);
    drop(driver);
    let driver = pool.open();
    let client = pool.mount(&driver, &on(1, []), "client");
    fs::write(client.path("fourth"), "fourth").expect("write");
    drop(client);
    commit(&driver, 1);
    let shown = pool.mount(&driver, &view([1]), "view");
    for name in ["first", "second", "third", "fourth"] {
        assert_eq!(fs::read_to_string(shown.path(name)).expect("read"), name);
    }
}

/// Writes MiB by MiB until that is refused; answers how many, and the error.
fn write_on(pool: &Pool, path: &Path) -> (fs::File, u64, std::io::Error) {
    let piece = vec![5_u8; 1 << 20];
    let mut file = fs::File::create(path).expect("create");
    let mut written = 0;
    loop {
        assert!(written < 64, "it takes more than its limit");
        // Figures follow the transaction groups.
        run("zpool", &["sync", &pool.name]);
        match file.write_all(&piece) {
            Ok(()) => written += 1,
            Err(cause) => return (file, written, cause),
        }
    }
}

#[test]
fn root_full_vm_limits_hold_what_is_written() {
    const MIB: u64 = 1 << 20;
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    put(&driver, 1, "image", 40 << 20);
    commit(&driver, 1);
    let limit = Some(Limit {
        bytes: 16 * MIB,
        inodes: None,
    });
    create(&driver, 2, &Base::on(Slot(1)).limited(limit));
    create(&driver, 3, &Base::on(Slot(1)));
    assert_eq!(
        (driver.is_limited(Slot(2)), driver.is_limited(Slot(3))),
        (true, false)
    );
    assert_eq!(driver.count(), 1);
    assert_eq!(
        driver.space(Slot(2)).expect("look"),
        None,
        "it is not mounted"
    );
    let client = pool.mount(&driver, &on(2, [1]), "client");
    let space = driver.space(Slot(2)).expect("look").expect("it is mounted");
    assert_eq!(space.bytes, 16 * MIB);
    assert!(
        space.bytes_free > 15 * MIB && space.bytes_free <= 16 * MIB,
        "{space:?}"
    );
    let (file, written, refused) = write_on(&pool, &client.path("large"));
    let number = refused.raw_os_error().map(Errno::from_raw);
    assert!(
        matches!(number, Some(Errno::EDQUOT | Errno::ENOSPC)),
        "{refused}"
    );
    assert!((12..=20).contains(&written), "{written} MiB");
    run("zpool", &["sync", &pool.name]);
    let space = driver.space(Slot(2)).expect("look").expect("it is mounted");
    assert!(space.bytes_free < 2 * MIB, "{space:?}");
    let df = run(
        "df",
        &["-P", "-k", pool.path("client").to_str().expect("text")],
    );
    let free: u64 = df
        .split_whitespace()
        .nth_back(2)
        .expect("a field")
        .parse()
        .expect("a number");
    assert!(free < 2048, "{df}");
    // Another layer of the same pool is not concerned, nor what is built on it.
    put(&driver, 3, "large", 30 << 20);
    drop((file, client, driver));
    let driver = pool.open();
    assert!(driver.is_limited(Slot(2)), "a restart keeps it");
    commit(&driver, 2);
    assert!(!driver.is_limited(Slot(2)), "until Commit");
    create(&driver, 4, &Base::on(Slot(2)));
    assert_eq!(property(&pool.layer(4), "quota"), "0");
    put(&driver, 4, "larger", 30 << 20);
}

#[test]
fn root_full_vm_usage_takes_the_same_calls_for_any_number_of_files() {
    let pool = Pool::new();
    let driver = pool.open_counted();
    let mut calls = Vec::new();
    for (slot, files) in [(1, 10), (2, 30_000)] {
        create(&driver, slot, &Base::empty());
        let client = pool.mount(&driver, &on(slot, []), "client");
        for number in 0..files {
            fs::write(client.path(&number.to_string()), "x").expect("write");
        }
        pool.take_calls();
        let usage = driver.usage(Slot(slot), &|| true).expect("measure");
        assert_eq!(usage.inodes, files + 1);
        assert!(usage.bytes > files * 512, "{usage:?}");
        calls.push(pool.take_calls());
        let frozen = commit(&driver, slot);
        assert_eq!(frozen.inodes, usage.inodes);
        calls.push(pool.take_calls());
    }
    assert_eq!(calls[0], ["zpool sync", "zfs list"]);
    assert_eq!(calls[0], calls[2], "usage");
    assert_eq!(calls[1], calls[3], "commit");
    create(&driver, 3, &Base::on(Slot(2)));
    let client = pool.mount(&driver, &on(3, [2]), "client");
    assert_eq!(driver.usage(Slot(3), &|| true).expect("measure").inodes, 1);
    for number in 0..20 {
        fs::write(client.path(&format!("new-{number}")), "x").expect("write");
    }
    fs::remove_file(client.path("1")).expect("delete");
    let usage = driver.usage(Slot(3), &|| true).expect("measure");
    assert_eq!(
        usage.inodes, 20,
        "what was added and is not made up for by what was deleted"
    );
}

#[test]
fn root_full_vm_mounts_and_views_take_no_call() {
    let pool = Pool::new();
    let driver = pool.open_counted();
    pool.take_calls();
    create(&driver, 1, &Base::empty());
    assert_eq!(pool.take_calls(), ["zfs create"]);
    commit(&driver, 1);
    pool.take_calls();
    create(&driver, 2, &Base::on(Slot(1)));
    assert_eq!(pool.take_calls(), ["zfs clone"]);
    for stack in [on(2, [1]), view([1])] {
        for _ in 0..3 {
            driver.make_mountable(&stack).expect("make mountable");
            driver.plan(&stack).expect("plan");
        }
    }
    drop(driver.open_layer(Slot(2)).expect("open"));
    assert_eq!(pool.take_calls(), Vec::<String>::new());
    remove(&driver, 2).expect("remove");
    assert_eq!(pool.take_calls(), ["zfs program"]);
}

/// Layers that are read are in no mount table, and are let go with the descriptor.
#[test]
fn root_full_vm_open_layers_are_not_in_the_mount_table() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    put(&driver, 1, "file", 100);
    let before = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let top = driver.open_layer(Slot(1)).expect("open");
    let client = pool.mount(&driver, &on(1, []), "client");
    fs::write(client.path("beside"), "x").expect("a client may mount and write it meanwhile");
    drop(client);
    let file = fs::File::open(fd_path(&top).join("file")).expect("open");
    let after = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert_eq!(after, before);
    assert!(remove(&driver, 1).is_err(), "it is open");
    drop(top);
    assert!(driver.delete(Slot(1), &|| true).is_err(), "a file is open");
    drop(file);
    driver.delete(Slot(1), &|| true).expect("delete");
}

#[test]
fn root_full_vm_a_dataset_belongs_to_one_root() {
    let pool = Pool::new();
    let driver = pool.open();
    create(&driver, 1, &Base::empty());
    let refused = pool
        .open_as("other")
        .expect_err("it is the first one's")
        .to_string();
    assert!(refused.contains("another root of layerd"), "{refused}");
    let findings = Zfs::check(&pool.path("other"), Some(&pool.dataset())).expect("check");
    assert!(
        findings.iter().any(|finding| finding.refuses()),
        "{findings:?}"
    );
    drop(driver);
    pool.open_as("root").expect("its own root takes it again");
    run("zfs", &["inherit", "layerd:root", &pool.dataset()]);
    pool.open_as("other").expect("a person gave it away");
    pool.open_as("root").expect_err("it is the other's now");
}

#[test]
fn root_full_vm_checks_say_what_is_there() {
    let pool = Pool::new();
    let check = |dataset: &str| Zfs::check(&pool.path("root"), Some(dataset)).expect("check");
    let findings = check(&pool.dataset());
    let names: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
    assert_eq!(
        names,
        ["zfs program", "zfs module", "zfs dataset", "zfs trial"]
    );
    assert!(findings.iter().all(|finding| finding.ok), "{findings:?}");
    let bad = |dataset: &str, says: &str| {
        let findings = check(dataset);
        let found = findings.iter().find(|finding| finding.refuses());
        let found = found.unwrap_or_else(|| panic!("{dataset}: {findings:?}"));
        assert!(found.detail.contains(says), "{found:?}");
    };
    bad(&format!("{}/nothing", pool.name), "dataset does not exist");
    bad("nopool/layers", "does not exist");
    let volume = format!("{}/volume", pool.name);
    run("zfs", &["create", "-s", "-V", "16M", &volume]);
    bad(&volume, "is a volume");
    // One that was interrupted.
    run("zfs", &["create", &format!("{}/{TRIAL}", pool.dataset())]);
    run("zfs", &["set", "sync=disabled", &pool.dataset()]);
    let findings = check(&pool.dataset());
    assert!(
        !findings.iter().any(|finding| finding.refuses()),
        "{findings:?}"
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding.name == "zfs sync" && !finding.ok)
    );
    let driver = pool.open();
    assert_eq!(driver.list().expect("list"), []);
    let facts = driver.info().facts;
    let fact = |name: &str| {
        let fact = facts.iter().find(|(have, _)| have == name);
        fact.unwrap_or_else(|| panic!("no {name} in {facts:?}"))
            .1
            .clone()
    };
    assert_eq!(fact("Zpool"), pool.name);
    assert_eq!(fact("Zpool Health"), "ONLINE");
    assert_eq!(fact("Parent Dataset"), pool.dataset());
    assert_eq!(fact("Parent Quota"), "no");
    for name in ["Space Used By Parent", "Space Available"] {
        assert!(fact(name).parse::<u64>().is_ok(), "{name}: {}", fact(name));
    }
    assert!(!fact("Compression").is_empty());
}

#[test]
fn root_full_vm_top_directories_have_their_owner_and_mode() {
    use std::os::unix::fs::MetadataExt as _;
    let pool = Pool::new();
    run("zfs", &["set", "readonly=on", &pool.dataset()]);
    run("zfs", &["set", "setuid=off", &pool.dataset()]);
    run("zfs", &["set", "devices=off", &pool.dataset()]);
    let driver = pool.open();
    create(&driver, 1, &Base::empty().owned(7, 8));
    commit(&driver, 1);
    create(&driver, 2, &Base::on(Slot(1)));
    create(&driver, 3, &Base::on(Slot(1)).owned(9, 9));
    create(&driver, 4, &Base::empty());
    for (slot, wanted) in [(1, (7, 8)), (2, (7, 8)), (3, (9, 9)), (4, (0, 0))] {
        let top = driver.open_layer(Slot(slot)).expect("open");
        let found = fs::metadata(fd_path(&top)).expect("look");
        assert_eq!((found.uid(), found.gid()), wanted, "{slot}");
        assert_eq!(found.mode() & 0o7777, 0o755, "{slot}");
        assert_eq!(property(&pool.layer(slot), "setuid"), "on");
        assert_eq!(property(&pool.layer(slot), "devices"), "on");
        assert_eq!(property(&pool.layer(slot), "acltype"), "posix");
    }
}
