use std::fs;
use std::path::Path;

use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};
use layerd_mounts::{Error, IdMaps, Slot};

use super::model::{branches, mounted};
use super::{Aufs, kernel};
use crate::conformance;
use crate::driver::{Base, Directories as _, Driver, Found, Stack, Survey};
use crate::stacks::{on, view};

fn open(root: &Path) -> Aufs {
    Aufs::open_on_stand_in(root).expect("open")
}

fn keeps_the_contract(root: &Path) {
    let driver = open(root);
    conformance::check_directories(&driver, &|slot| driver.layer_path(slot));
}

#[test]
fn aufs_keeps_the_contract() {
    let root = tempfile::tempdir().expect("a temporary directory");
    keeps_the_contract(root.path());
}

#[test]
fn root_aufs_keeps_the_contract_on_each_file_system() {
    enter_private_mounts();
    for disk in [
        LoopDisk::ext4(64),
        LoopDisk::ext4_without_journal(64),
        LoopDisk::xfs(&[]),
        LoopDisk::btrfs(),
        LoopDisk::tmpfs(),
    ] {
        keeps_the_contract(disk.path());
    }
}

/// The kernel of this machine has it or not: both are told, and a refusal leaves nothing.
#[test]
fn a_kernel_without_it_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    let opened = Aufs::open(&root);
    let known = fs::read_to_string("/proc/filesystems").expect("read");
    if known.split_whitespace().any(|word| word == "aufs") {
        // It may still need CAP_SYS_ADMIN, and says so.
        let told = opened.err().map(|error| error.to_string());
        assert!(told.is_none_or(|told| told.contains("refuses branches here")));
        return;
    }
    let error = opened.expect_err("there is no AUFS");
    let Error::Unsuitable {
        check,
        problem,
        advice,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*check, "aufs");
    assert!(problem.contains("/proc/filesystems"), "{problem}");
    assert!(advice.contains("CONFIG_AUFS_FS"), "{advice}");
    assert!(!root.exists(), "nothing is made");
    fs::create_dir(&root).expect("a directory");
    let findings = Aufs::check(&root).expect("check");
    assert!(
        findings
            .iter()
            .any(|finding| finding.name == "aufs" && finding.refuses())
    );
    assert!(!kernel::has_dirperm1(&findings));
    assert_eq!(fs::read_dir(&root).expect("read").count(), 0);
}

#[test]
fn branches_are_mounted_as_docker_mounted_them() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    let diff = root.path().join("aufs/diff");
    let plan = driver.plan(&on(3, [2, 1])).expect("plan");
    let wanted = [
        format!("br:{0}/3=rw:{0}/2=ro+wh:{0}/1=ro+wh", diff.display()),
        "dio".to_owned(),
        "xino=/dev/shm/aufs.xino".to_owned(),
    ];
    assert_eq!(plan[0].options, wanted);
    assert_eq!(plan.len(), 1);
    let plan = driver.plan(&view([2, 1])).expect("plan");
    assert_eq!(plan[0].options[0], "ro");
    assert_eq!(branches(&plan), [diff.join("2"), diff.join("1")]);
    let plan = driver.plan(&view([1])).expect("plan");
    assert_eq!(
        (&*plan[0].kind, driver.top_of(&plan[0])),
        ("bind", Some(Slot(1)))
    );
}

/// More than fits into a page of options, or into one call, is appended.
#[test]
fn further_branches_are_appended() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["r".to_owned(), "long".repeat(50)] {
        let root = dir.path().join(name);
        fs::create_dir(&root).expect("a directory");
        let driver = open(&root);
        for depth in [1, 2, 13, 14, 62, 63, 64, 65, 100, 126] {
            let parents = (1..=depth).rev();
            for stack in [on(500, parents.clone()), view(parents.clone().chain([900]))] {
                let plan = driver.plan(&stack).expect("plan");
                let own = stack.own.iter();
                let slots = own
                    .chain(&stack.parents)
                    .map(|slot| driver.layer_path(*slot));
                assert_eq!(branches(&plan), slots.collect::<Vec<_>>(), "{depth}");
                let top = stack.own.unwrap_or(stack.parents[0]);
                assert_eq!(driver.top_of(&plan[0]), Some(top));
                for mount in &plan {
                    let read_only = mount.options.iter().any(|option| option == "ro");
                    assert_eq!(read_only, !stack.writable, "also when it is mounted again");
                    assert!(
                        mount.options.len() < 70,
                        "AUFS counts the options of a call"
                    );
                }
            }
        }
        let deep = driver.plan(&on(500, 1..=127));
        assert!(
            matches!(deep, Err(Error::TooDeep { limit: 126, .. })),
            "{deep:?}"
        );
    }
}

#[test]
fn parents_are_listed_as_docker_listed_them() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("create");
    driver.create(Slot(40), &Base::on(Slot(2))).expect("create");
    let lists = root.path().join("aufs/layers");
    let read = |slot: u64| fs::read_to_string(lists.join(Slot(slot).to_string())).ok();
    assert_eq!(read(1), None);
    assert_eq!(read(40).as_deref(), Some("2\n1\n"));
    driver.discard(Slot(40)).expect("discard");
    assert_eq!(read(40), None);
    // As after a removal that was interrupted, and a file of a user's.
    fs::write(lists.join("zz"), "2\n1\n").expect("write");
    fs::write(lists.join("A user's"), "").expect("write");
    drop(driver);
    let driver = open(root.path());
    assert!(!lists.join("zz").exists());
    let unknown = Found::UnknownEntry(lists.join("A user's"));
    let offline = Aufs::survey(root.path());
    for survey in [&driver as &dyn Survey, &offline] {
        assert!(survey.list().expect("list").contains(&unknown));
    }
}

#[test]
fn a_mount_leaves_a_trace() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    driver.create(Slot(1), &Base::empty()).expect("create");
    driver.create(Slot(2), &Base::on(Slot(1))).expect("create");
    assert!(driver.stamp(Slot(2)).expect("look").is_some());
    let layer = driver.layer_path(Slot(2));
    fs::write(layer.join(".wh..wh.aufs"), "").expect("as AUFS does");
    assert_eq!(driver.stamp(Slot(2)).expect("look"), None);
    assert!(!driver.is_unused(Slot(2)).expect("look"));
    fs::write(driver.layer_path(Slot(1)).join("file"), "below").expect("write");
    fs::write(layer.join("other"), "above").expect("write");
    let plan = driver.plan(&on(2, [1])).expect("plan");
    let shown: Vec<_> = mounted(&plan).into_keys().collect();
    assert_eq!(shown, ["file", "other"], "what AUFS keeps is not shown");
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
    let ids = Some(IdMaps {
        uid: Vec::new(),
        gid: Vec::new(),
    });
    let mapped = driver.plan(&Stack { ids, ..on(2, [1]) });
    assert!(mapped.is_err_and(|error| error.to_string().contains("maps no ids")));
    assert_eq!(driver.list().expect("list"), []);
    let odd = root.path().join("a=b");
    let refused = Aufs::open_on_stand_in(&odd).expect_err("options end there");
    assert!(refused.to_string().contains("equals sign"), "{refused}");
    assert!(!odd.exists());
}
