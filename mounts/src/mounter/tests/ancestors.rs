//! Binds of a directory above mounts of the mounter's own, and binds whose source changes.

use std::fs;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, umount2};

use super::Ground;
use crate::mounter::{BindOptions, Mounter, Propagation};

fn recursive() -> BindOptions {
    BindOptions {
        recursive: true,
        ..BindOptions::default()
    }
}

fn mounts(ground: &Ground) -> Vec<PathBuf> {
    let all = ground.mounter.mounts_below(ground.disk.path());
    all.expect("list")
        .into_iter()
        .map(|one| one.target)
        .collect()
}

#[test]
fn root_the_private_root_comes_along_in_no_bind() {
    let ground = Ground::new();
    let root = ground.dir("root/mnt");
    let (source, own) = (ground.dir("source"), ground.dir("root/mnt/1"));
    ground.mounter.private_root(&root).expect("private root");
    let inner = ground.attach(ground.bind(&source, &BindOptions::default()), &own);
    let target = ground.dir("target");
    let before = mounts(&ground).len();
    let whole = ground.attach(ground.bind(ground.disk.path(), &recursive()), &target);
    assert_eq!(mounts(&ground).len(), before + 1, "{:?}", mounts(&ground));
    assert!(target.join("root/mnt/1").is_dir(), "the folder is seen");
    ground.detach(&target, &whole);
    // Another mounter, such as an older release, left it private.
    ground.propagate(&root, MsFlags::MS_PRIVATE);
    ground.mounter.private_root(&root).expect("private root");
    let whole = ground.attach(ground.bind(ground.disk.path(), &recursive()), &target);
    assert_eq!(mounts(&ground).len(), before + 1, "{:?}", mounts(&ground));
    ground.detach(&target, &whole);
    ground.detach(&own, &inner);
    fs::remove_dir(&own).expect("nothing keeps it");
    ground.mounter.release_private_root(&root).expect("release");
}

#[test]
fn root_mounts_that_are_named_do_not_come_along() {
    let ground = Ground::new();
    let source = ground.dir("source");
    let (first, second) = (ground.dir("first"), ground.dir("second"));
    let kept = ground.foreign("kept");
    let one = ground.attach(ground.bind(&source, &BindOptions::default()), &first);
    ground.foreign("source/on-top");
    let options = BindOptions {
        without: vec![one.id],
        ..recursive()
    };
    let before = mounts(&ground);
    let whole = ground.attach(ground.bind(ground.disk.path(), &options), &second);
    let mut wanted = before.clone();
    let copied = ["kept", "source/on-top"].map(|name| second.join(name));
    wanted.push(second.clone());
    wanted.extend(copied);
    let mut found = mounts(&ground);
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert!(kept.is_dir());
    let source = ground.open(ground.disk.path());
    let current = ground.mounter.is_current(&whole, &source, &options);
    assert!(!current.expect("look"), "it would hold itself");
    let options = BindOptions {
        without: vec![one.id, whole.id],
        ..options
    };
    let current = ground.mounter.is_current(&whole, &source, &options);
    assert!(current.expect("look"));
    drop(source);
    ground.detach(&second, &whole);
    assert_eq!(mounts(&ground), before, "the originals stay");
    ground.detach(&first, &one);
}

#[test]
fn root_a_bind_is_current_until_its_source_changes() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    ground.dir("source/sub");
    let file = ground.disk.path().join("file");
    fs::write(&file, "old").expect("write");
    let on = ground.disk.path().join("on");
    fs::write(&on, "").expect("write");
    let whole = ground.attach(ground.bind(&source, &recursive()), &target);
    let single = ground.attach(ground.bind(&file, &BindOptions::default()), &on);
    let current = |bind, path: &PathBuf, options: &BindOptions| {
        let current = ground.mounter.is_current(bind, &ground.open(path), options);
        current.expect("look")
    };
    assert!(current(&whole, &source, &recursive()));
    assert!(current(&single, &file, &BindOptions::default()));
    let new = ground.disk.path().join("new");
    fs::write(&new, "new").expect("write");
    fs::rename(&new, &file).expect("rename");
    assert!(
        !current(&single, &file, &BindOptions::default()),
        "replaced"
    );

    ground.foreign("target/sub");
    assert!(
        current(&whole, &source, &recursive()),
        "mounted inside it, by another"
    );
    umount2(&target.join("sub"), MntFlags::empty()).expect("umount");
    let disk = ground.foreign("source/sub");
    assert!(!current(&whole, &source, &recursive()), "a disk below");
    assert!(
        current(&whole, &source, &BindOptions::default()),
        "which does not come along"
    );
    umount2(&disk, MntFlags::empty()).expect("umount");
    assert!(current(&whole, &source, &recursive()));
    let disk = ground.foreign("source");
    assert!(!current(&whole, &source, &recursive()), "a disk on it");
    umount2(&disk, MntFlags::empty()).expect("umount");
    ground.detach(&target, &whole);
    ground.detach(&on, &single);
}

#[test]
fn root_propagation_is_checked_without_mounting() {
    let ground = Ground::new();
    let shared = ground.foreign("shared");
    let source = ground.open(&shared);
    let check = |wanted| ground.mounter.check_propagation(&source, wanted);
    check(Propagation::Private).expect("private is always possible");
    for wanted in [Propagation::Slave, Propagation::Shared] {
        check(wanted).expect_err("the source is private");
    }
    ground.propagate(&shared, MsFlags::MS_SHARED);
    for wanted in [Propagation::Slave, Propagation::Shared] {
        check(wanted).expect("the source is shared");
    }
    drop(source);
}

#[test]
fn root_lineage_leads_up_to_the_root() {
    let ground = Ground::new();
    let disk = ground.foreign("a/disk");
    fs::create_dir(disk.join("b")).expect("a directory");
    fs::write(disk.join("b/file"), "").expect("write");
    let identity = |path: &PathBuf| {
        let found = ground.open(path);
        (found.device(), found.inode())
    };
    let found = ground.open(&disk.join("b/file")).lineage().expect("look");
    let mut at = disk.join("b/file");
    let mut wanted = vec![identity(&at)];
    while at.pop() {
        wanted.push(identity(&at));
    }
    assert_eq!(found, wanted);
    let root = ground.open(&PathBuf::from("/")).lineage().expect("look");
    assert_eq!(root.len(), 1);
}
