use std::fs::{self, File};
use std::path::Path;

use layerd_mounts::limit::{Enforcement, Limit};
use layerd_mounts::mountinfo;
use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, Slot, Space};
use nix::errno::Errno;

use super::tests::{open, root, write};
use crate::driver::{Base, Driver, Found, Limits, SlotKind, Stack, Survey, WorkDirs};
use crate::overlay::Overlay;
use crate::stacks::{on, view};

const MIB: u64 = 1 << 20;
const OWN: Slot = Slot(2);
const LIMIT: Limit = Limit {
    bytes: 16 * MIB,
    inodes: Some(100),
};

/// A layer 1, and a layer 2 on it that a quota holds; `None` where the kernel has no quotas of projects,
/// and an image holds it instead.
fn ground() -> Option<(LoopDisk, Overlay)> {
    enter_private_mounts();
    let Some(disk) = LoopDisk::xfs_with_project_quotas() else {
        let plain = LoopDisk::xfs(&[]);
        let driver = open(plain.path());
        let how = driver.limits().map(Limits::enforcement);
        assert!(matches!(how, Some(Enforcement::Image { .. })), "{how:?}");
        return None;
    };
    let driver = open(disk.path());
    driver.create(Slot(1), &Base::deferred()).expect("create");
    let below = driver.layer_path(Slot(1));
    fs::write(below.join("motd"), "hi").expect("write");
    WorkDirs::remove(&driver, Slot(1)).expect("committed");
    let base = Base::on(Slot(1)).limited(Some(LIMIT));
    driver.create(OWN, &base).expect("create");
    Some((disk, driver))
}

fn see(driver: &Overlay, disk: &Path) -> Mounted {
    let stack = on(OWN.0, [1]);
    driver.make_mountable(&stack).expect("make mountable");
    let plan = driver.plan(&stack).expect("plan");
    assert_eq!(driver.top_of(&plan[0]), Some(OWN));
    Mounted::new(&plan, &disk.join("seen")).expect("mount")
}

fn found(driver: &Overlay, disk: &Path) -> Vec<Found> {
    let of_own = |mut found: Vec<Found>| {
        found.retain(|entry| !matches!(entry, Found::Slot(_, Slot(1))));
        found
    };
    let found = of_own(driver.list().expect("list"));
    let offline = Overlay::survey(&root(disk)).list().expect("list");
    assert_eq!(found, of_own(offline), "a daemon and a tool see the same");
    found
}

#[test]
fn root_a_quota_ends_writers_and_no_others() {
    let Some((disk, driver)) = ground() else {
        return;
    };
    let planned = Stack {
        limit: Some(LIMIT),
        ..on(3, [1])
    };
    let plan = driver.plan(&planned).expect("plan");
    assert_eq!(driver.top_of(&plan[0]), Some(Slot(3)));
    let options = &plan[0].options;
    assert!(
        options.iter().any(|option| option.ends_with("/l/3")),
        "{options:?}"
    );
    let seen = see(&driver, disk.path());
    let space = Space::of(&seen.path("")).expect("df");
    assert_eq!(space.bytes, 16 * MIB);
    let told = driver.limits().expect("limits").space(OWN).expect("look");
    assert_eq!(told.map(|space| space.bytes), Some(16 * MIB));
    assert_eq!(write(&seen.path("large"), 32 * MIB), Some(Errno::ENOSPC));
    assert_eq!(write(&disk.path().join("other"), 32 * MIB), None);
    let usage = driver.usage(OWN, &|| true).expect("measure");
    assert!(
        usage.bytes > 15 * MIB && usage.bytes <= 16 * MIB,
        "{usage:?}"
    );
    fs::remove_file(seen.path("large")).expect("remove");
    fs::write(seen.path("motd"), "copied up").expect("write");
    fs::rename(seen.path("motd"), seen.path("moved")).expect("rename");
    fs::create_dir(seen.path("dir")).expect("a directory");
    fs::rename(seen.path("moved"), seen.path("dir/moved")).expect("rename");
    let made = (0..400).take_while(|number| File::create(seen.path(&number.to_string())).is_ok());
    let made = made.count();
    assert!((90..100).contains(&made), "{made} files");
    drop(seen);
    driver.discard(OWN).expect("discard");
    driver.discard(OWN).expect("again");
    assert_eq!(driver.limits().map(Limits::count), Some(0));
    driver.delete(OWN, &|| true).expect("delete");
    assert_eq!(found(&driver, disk.path()), []);
    let in_root = |entry: &mountinfo::Entry| entry.target.starts_with(root(disk.path()));
    assert!(!mountinfo::read().expect("read").iter().any(in_root));
}

/// Nothing is copied, and what is written after a Commit that came to nothing counts.
#[test]
fn root_commit_of_a_layer_with_a_quota_takes_the_limit_away() {
    let Some((disk, mut driver)) = ground() else {
        return;
    };
    let path = driver.layer_path(OWN);
    fs::write(see(&driver, disk.path()).path("new"), "content").expect("write");
    let inode =
        || std::os::unix::fs::MetadataExt::ino(&fs::metadata(path.join("new")).expect("stat"));
    let before = inode();
    for _ in 0..2 {
        driver.write_back(OWN).expect("measure");
        driver.freeze(&on(OWN.0, [1])).expect("freeze");
        driver.sync().expect("sync");
        driver = open(disk.path());
        assert!(driver.limits().expect("limits").is_limited(OWN));
        let both = [
            Found::Slot(SlotKind::Layer, OWN),
            Found::Slot(SlotKind::Work, OWN),
        ];
        assert_eq!(found(&driver, disk.path()), both);
    }
    WorkDirs::remove(&driver, OWN).expect("remove");
    WorkDirs::remove(&driver, OWN).expect("again");
    assert!(!driver.limits().expect("limits").is_limited(OWN));
    assert_eq!(
        found(&driver, disk.path()),
        [Found::Slot(SlotKind::Layer, OWN)]
    );
    assert_eq!(inode(), before);
    assert_eq!(write(&path.join("large"), 32 * MIB), None, "no limit");
    let plan = driver.plan(&view([OWN.0, 1])).expect("plan");
    let seen = Mounted::new(&plan, &disk.path().join("seen")).expect("mount");
    assert_eq!(
        fs::read_to_string(seen.path("new")).expect("read"),
        "content"
    );
    drop(seen);
    driver
        .discard(OWN)
        .expect("into the trash, out of the project");
    driver.delete(OWN, &|| true).expect("delete");
}

/// As after a crash between two steps of Prepare, and on a disk that was mounted without quotas again.
#[test]
fn root_what_holds_a_layer_by_a_quota_is_made_good() {
    let Some((disk, driver)) = ground() else {
        return;
    };
    let note = root(disk.path()).join("c/2");
    fs::read_link(&note).expect("the note");
    for folder in ["l", "w"] {
        fs::remove_dir(root(disk.path()).join(folder).join("2")).expect("not made yet");
    }
    drop(driver);
    let driver = open(disk.path());
    assert_eq!(
        found(&driver, disk.path()),
        [Found::Slot(SlotKind::Work, OWN)]
    );
    assert!(driver.is_unused(OWN).expect("look"));
    driver.discard(OWN).expect("discard");
    assert_eq!(found(&driver, disk.path()), []);
    let base = Base::on(Slot(1)).limited(Some(LIMIT));
    driver.create(OWN, &base).expect("create");
    fs::read_link(&note).expect("the note");
    drop(driver);
    assert!(disk.mount_again("loop"), "without quotas");
    let driver = open(disk.path());
    let refused = driver.make_mountable(&on(OWN.0, [1]));
    assert!(
        matches!(refused, Err(Error::Unsuitable { .. })),
        "{refused:?}"
    );
    driver.discard(OWN).expect("removals go on");
    assert_eq!(driver.limits().map(Limits::count), Some(0));
}
