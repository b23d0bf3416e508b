use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, IdMaps, Slot};

use super::Native;
use crate::conformance;
use crate::driver::{Base, Driver, Found, SlotKind, Stack, Survey};

fn open(root: &Path) -> Native {
    Native::open(root).expect("open")
}

fn keeps_the_contract(root: &Path) {
    let driver = open(root);
    conformance::check_directories(&driver, &|slot| driver.layer_path(slot));
}

#[test]
fn native_keeps_the_contract() {
    let root = tempfile::tempdir().expect("a temporary directory");
    keeps_the_contract(root.path());
}

#[test]
fn root_native_keeps_the_contract_on_each_file_system() {
    enter_private_mounts();
    for disk in [LoopDisk::xfs(&[]), LoopDisk::btrfs(), LoopDisk::tmpfs()] {
        keeps_the_contract(disk.path());
    }
}

/// Where the driver overlay refuses to work.
#[test]
fn root_native_keeps_the_contract_on_overlayfs() {
    enter_private_mounts();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let dir = |name: &str| {
        let path = scratch.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path.display().to_string()
    };
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        dir("lower"),
        dir("upper"),
        dir("work")
    );
    let target = dir("merged");
    let (kind, flags) = (Some("overlay"), nix::mount::MsFlags::empty());
    nix::mount::mount(kind, &*target, kind, flags, Some(&*options)).expect("mount");
    keeps_the_contract(Path::new(&target));
    nix::mount::umount(&*target).expect("unmount");
}

#[test]
fn a_copy_is_its_own() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    let parent = driver.layer_path(Slot(1));
    fs::create_dir(parent.join("dir")).expect("a directory");
    fs::write(parent.join("dir/file"), "below").expect("write");
    fs::hard_link(parent.join("dir/file"), parent.join("other")).expect("link");
    symlink("dir/file", parent.join("link")).expect("symlink");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("copy");
    let child = driver.layer_path(Slot(2));
    let stat = |path: &Path| fs::metadata(path).expect("it is there");
    let (file, below) = (stat(&child.join("other")), stat(&parent.join("other")));
    assert_eq!(file.nlink(), 2, "both names are of one file");
    assert_ne!(file.ino(), below.ino(), "which is not the parent's");
    let time = |stat: &fs::Metadata| (stat.mtime(), stat.mtime_nsec());
    assert_eq!(time(&file), time(&below));
    fs::write(child.join("other"), "above").expect("write");
    let read = |path: &Path| fs::read_to_string(path).expect("read");
    assert_eq!(read(&parent.join("dir/file")), "below");
    assert_eq!(read(&child.join("link")), "above");
}

/// A mark that a power cut brought back, or that a failed call left, does not stay.
#[test]
fn marks_tell_what_was_not_acknowledged() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    fs::write(driver.layer_path(Slot(1)).join("file"), "x").expect("write");
    let offline = Native::survey(root.path());
    for survey in [&driver as &dyn Survey, &offline] {
        assert!(survey.is_unused(Slot(1)).expect("look"));
        assert!(survey.is_empty(Slot(1)).expect("look"));
        let found = survey.list().expect("list");
        assert!(found.contains(&Found::Slot(SlotKind::Work, Slot(1))));
    }
    let again = driver.create(Slot(1), &Base::empty());
    assert!(again.is_err(), "{again:?}");
    assert!(driver.is_unused(Slot(1)).expect("look"), "its mark stays");
    let work = driver.work_dirs().expect("marks");
    work.remove(Slot(1)).expect("acknowledge");
    let again = driver.create(Slot(1), &Base::empty());
    assert!(again.is_err(), "{again:?}");
    for survey in [&driver as &dyn Survey, &offline] {
        assert!(!survey.is_unused(Slot(1)).expect("look"), "it is in use");
        assert_eq!(
            survey.list().expect("list"),
            [Found::Slot(SlotKind::Layer, Slot(1))]
        );
    }
}

#[test]
fn what_it_cannot_do_is_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    let deferred = driver.create(Slot(1), &Base::deferred());
    assert!(
        matches!(deferred, Err(Error::NotAStack { .. })),
        "{deferred:?}"
    );
    let mapped = Stack {
        own: Some(Slot(1)),
        parents: Vec::new(),
        writable: true,
        ids: Some(IdMaps {
            uid: Vec::new(),
            gid: Vec::new(),
        }),
        limit: None,
    };
    let planned = driver.plan(&mapped);
    assert!(
        planned.is_err_and(|error| error.to_string().contains("the driver maps no ids")),
        "a mount without the mapping would give files to the wrong owners"
    );
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn root_mounts_show_the_layer() {
    enter_private_mounts();
    let disk = LoopDisk::tmpfs();
    let driver = open(disk.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    fs::write(driver.layer_path(Slot(1)).join("file"), "x").expect("write");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("copy");
    let stack = |own, writable| Stack {
        own,
        parents: vec![Slot(1)],
        writable,
        ids: None,
        limit: None,
    };
    let scratch = tempfile::tempdir().expect("a temporary directory");
    {
        let plan = driver.plan(&stack(Some(Slot(2)), true)).expect("plan");
        let mounted = Mounted::new(&plan, &scratch.path().join("rw")).expect("mount");
        fs::write(mounted.path("file"), "y").expect("it may be written");
    }
    let plan = driver.plan(&stack(None, false)).expect("plan");
    let mounted = Mounted::new(&plan, &scratch.path().join("ro")).expect("mount");
    assert_eq!(fs::read(mounted.path("file")).expect("read"), b"x");
    assert!(fs::write(mounted.path("file"), "z").is_err(), "read-only");
}
