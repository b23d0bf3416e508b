use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use layerd_mounts::Slot;
use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

use super::{Options, Overlay};
use crate::driver::{Base, Directories, Driver, Found, SlotKind, Stack, Survey, WorkDirs};

fn open(root: &Path) -> Overlay {
    Overlay::open(root, &Options::default()).expect("a temporary directory holds layers")
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn mode(path: &Path) -> u32 {
    let permissions = fs::metadata(path).expect("it is there").permissions();
    permissions.mode() & 0o7777
}

#[test]
fn the_folders_are_closed_to_others() {
    let root = temporary();
    let inner = root.path().join("a/b");
    drop(open(&inner));
    fs::set_permissions(inner.join("l"), fs::Permissions::from_mode(0o755)).expect("chmod");
    drop(open(&inner));
    for folder in ["", "e", "l", "w", "t"] {
        assert_eq!(mode(&inner.join(folder)), 0o700, "{folder:?}");
    }
}

#[test]
fn what_is_there_is_found_again() {
    let root = temporary();
    open(root.path())
        .create(Slot(5), &Base::deferred())
        .expect("create");
    let found = open(root.path()).list().expect("list");
    let expected = [
        Found::Slot(SlotKind::Layer, Slot(5)),
        Found::Slot(SlotKind::Work, Slot(5)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_root_may_be_a_symlink_but_plans_are_not() {
    let root = temporary();
    symlink(root.path(), root.path().join("link")).expect("symlink");
    fs::create_dir(root.path().join("real")).expect("mkdir");
    let driver = open(&root.path().join("link/real"));
    let stack = Stack {
        own: Some(Slot(1)),
        parents: Vec::new(),
        writable: true,
        ids: None,
        limit: None,
    };
    let plan = driver.plan(&stack).expect("plan");
    let real = root.path().canonicalize().expect("real").join("real/l/1");
    assert_eq!(Path::new(&plan[0].source), real);
}

/// A umask belongs to a thread that shares its working directory with no other.
#[test]
fn modes_do_not_depend_on_the_umask() {
    let root = temporary();
    for (slot, mask) in [(1, 0o077), (2, 0), (3, 0o027)] {
        std::thread::scope(|scope| {
            let act = || {
                unshare(CloneFlags::CLONE_FS).expect("no right is needed");
                umask(Mode::from_bits_truncate(mask));
                let driver = open(&root.path().join("root"));
                driver
                    .create(Slot(slot), &Base::deferred())
                    .expect("create");
            };
            scope.spawn(act).join().expect("no panic");
        });
        let layer = root.path().join(format!("root/l/{slot}"));
        assert_eq!(mode(&layer), 0o755, "umask {mask:o}");
    }
}

#[test]
fn root_owner_group_and_mode_come_from_the_parent() {
    let root = temporary();
    let driver = open(root.path());
    let owned = Base::deferred().owned(100_000, 200_000);
    driver
        .create(Slot(1), &owned)
        .expect("this test needs root");
    let parent = driver.layer_path(Slot(1));
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o1777)).expect("chmod");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("create");
    let made = fs::metadata(driver.layer_path(Slot(2))).expect("made");
    assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
    assert_eq!(made.mode() & 0o7777, 0o1777);
}

#[test]
fn a_half_retired_slot_is_completed() {
    let root = temporary();
    let driver = open(root.path());
    let at = |name: &str| root.path().join(name);
    driver.create(Slot(1), &Base::deferred()).expect("create");
    fs::rename(at("l/1"), at("t/1")).expect("as if the power went here");
    driver.discard(Slot(1)).expect("discard");
    assert_eq!(
        driver.list().expect("list"),
        [Found::Slot(SlotKind::Trash, Slot(1))]
    );
    assert!(at("t/1").exists() && at("t/1.w").exists());
}

#[test]
fn of_two_directories_with_one_number_none_is_lost() {
    let root = temporary();
    let driver = open(root.path());
    for place in ["l/1", "t/1"] {
        fs::create_dir(root.path().join(place)).expect("mkdir");
    }
    let error = driver.discard(Slot(1)).expect_err("both are there");
    assert_eq!(error.errno(), Some(Errno::EEXIST as i32));
    assert!(root.path().join("l/1").exists() && root.path().join("t/1").exists());
}

#[test]
fn half_of_a_layer_is_not_taken_for_one() {
    let root = temporary();
    let driver = open(root.path());
    let at = |name: &str| root.path().join(name);
    driver.create(Slot(1), &Base::deferred()).expect("create");
    for name in ["l/1/a", "l/1/b", "l/1/c"] {
        fs::write(at(name), name).expect("write");
    }
    driver.discard(Slot(1)).expect("discard");
    let left = std::cell::Cell::new(4);
    let stopped = driver.delete(Slot(1), &|| left.replace(left.get() - 1) > 1);
    assert!(matches!(stopped, Err(crate::Error::Stopped)), "{stopped:?}");
    let files = fs::read_dir(at("t/1")).expect("it is still there").count();
    assert!((1..3).contains(&files), "some of it is: {files}");
    let found = || driver.list().expect("list");
    assert_eq!(found(), [Found::Slot(SlotKind::Trash, Slot(1))]);
    assert!(!driver.has(Slot(1)).expect("look"));
    driver.discard(Slot(1)).expect("discard");
    driver.delete(Slot(1), &|| true).expect("delete");
    assert_eq!(found(), []);
}

#[test]
fn a_lost_work_directory_is_made_anew() {
    let root = temporary();
    let driver = open(root.path());
    driver.create(Slot(1), &Base::deferred()).expect("create");
    let work = root.path().join("w/1");
    fs::remove_dir(&work).expect("as if the power went here");
    driver.restore(Slot(1)).expect("ensure");
    assert_eq!(mode(&work), 0o700);
}

#[test]
fn strangers_are_reported_and_left_alone() {
    let root = temporary();
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    let unknown_entries = [
        "l/01", "l/1.w", "l/A", "l/file", "l/zlink", "t/1.y", "t/x.w.w", "w/new-1",
    ];
    for name in unknown_entries {
        let path = root.path().join(name);
        match name {
            "l/file" => fs::write(path, "x").expect("write"),
            "l/zlink" => symlink(".", path).expect("symlink"),
            _ => fs::create_dir(path).expect("mkdir"),
        }
    }
    let mut found = Vec::new();
    let mut slots = Vec::new();
    for entry in driver.list().expect("list") {
        match entry {
            Found::UnknownEntry(path) => found.push(path),
            Found::Slot(kind, slot) => slots.push((kind, slot)),
        }
    }
    found.sort();
    let real = root.path().canonicalize().expect("real");
    let expected: Vec<_> = unknown_entries.iter().map(|name| real.join(name)).collect();
    assert_eq!(found, expected);
    assert_eq!(slots, [(SlotKind::Layer, Slot(1))]);
}

#[test]
fn a_number_that_is_not_a_directory_is_a_stranger() {
    let root = temporary();
    let driver = open(root.path());
    fs::write(root.path().join("l/7"), "x").expect("write");
    let found = driver.list().expect("list");
    assert!(
        matches!(found.as_slice(), [Found::UnknownEntry(_)]),
        "{found:?}"
    );
}

#[test]
fn what_is_open_survives_a_renamed_root() {
    let dir = temporary();
    let driver = open(&dir.path().join("root"));
    fs::rename(dir.path().join("root"), dir.path().join("moved")).expect("rename");
    driver.create(Slot(1), &Base::deferred()).expect("create");
    assert!(dir.path().join("moved/l/1").exists());
}

#[test]
fn root_a_full_disk_is_told_apart_and_room_comes_back() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(4);
    let driver = open(disk.path());
    let full = (0..100_000).find_map(|n| driver.create(Slot(n), &Base::deferred()).err());
    let full = full.expect("four mebibytes do not hold so many");
    assert!(full.is_full(), "{full:?}");
    for found in driver.list().expect("list") {
        if let Found::Slot(_, slot) = found {
            driver.discard(slot).expect("a rename needs no room");
            driver.delete(slot, &|| true).expect("delete");
        }
    }
    driver.sync().expect("sync");
    driver
        .create(Slot(200_000), &Base::deferred())
        .expect("there is room again");
}

/// A process that mounted an upper directory may write to it unnoticed, also after the mount is gone.
#[test]
fn root_a_layer_that_was_mounted_has_no_stamp() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(16);
    let driver = open(disk.path());
    driver.create(Slot(1), &Base::deferred()).expect("create");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("create");
    let stack = Stack {
        own: Some(Slot(2)),
        parents: vec![Slot(1)],
        writable: true,
        ids: None,
        limit: None,
    };
    assert!(driver.stamp(Slot(2)).expect("a stamp").is_some());
    let target = temporary();
    let mounts = driver.plan(&stack).expect("plan");
    let mounted = Mounted::new(&mounts, target.path()).expect("mount");
    assert_eq!(driver.stamp(Slot(2)).expect("an answer"), None);
    drop(mounted);
    assert_eq!(driver.stamp(Slot(2)).expect("an answer"), None);
    assert!(driver.stamp(Slot(1)).expect("a stamp").is_some());
}

#[test]
fn root_what_is_on_a_disk_of_its_own_is_moved_aside_there() {
    enter_private_mounts();
    let root = temporary();
    let driver = open(root.path());
    let volumes = root.path().join("volumes");
    fs::create_dir(&volumes).expect("mkdir");
    let disk = LoopDisk::tmpfs();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(
        Some(disk.path()),
        &volumes,
        None::<&str>,
        bind,
        None::<&str>,
    )
    .expect("bind");
    for (path, gone) in [("zz", "volumes-zz"), (".trash/zz", ".trash-zz")] {
        let source = volumes.join(path);
        fs::create_dir_all(source.join("data")).expect("mkdir");
        let moved = driver.move_to_lost_found(&Found::UnknownEntry(source.clone()));
        let moved = moved.expect("it is moved within its file system");
        assert_eq!(moved, volumes.join(".lost").join(gone));
        assert!(moved.join("data").is_dir() && !source.exists());
    }
    let found = layerd_mounts::VolumeDirs::survey(root.path()).expect("survey");
    assert_eq!(
        (found.live, found.unknown_entries),
        (Vec::new(), Vec::new())
    );
    let elsewhere = root.path().join("l/odd");
    fs::write(&elsewhere, "").expect("write");
    let moved = driver
        .move_to_lost_found(&Found::UnknownEntry(elsewhere))
        .expect("move");
    assert_eq!(moved, root.path().join("lost/l-odd"));
    nix::mount::umount2(&volumes, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
}
