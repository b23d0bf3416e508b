use std::fs;
use std::path::Path;

use layerd_mounts::test_support::{LoopDisk, Mounted, enter_private_mounts};
use layerd_mounts::{Error, Mount};

use super::{Finding, complete};
use crate::overlay::{Options, Overlay};

fn open(root: &Path) -> Result<Overlay, Error> {
    Overlay::open(root, &Options::default())
}

fn refusal(root: &Path) -> (&'static str, String) {
    match open(root) {
        Err(Error::Unsuitable {
            check,
            problem,
            advice,
            ..
        }) => {
            assert!(!advice.is_empty(), "{check}: {problem}");
            (check, problem)
        }
        other => unreachable!("{other:?}"),
    }
}

fn finding(driver: &Overlay, name: &str) -> Finding {
    let mut findings = driver.findings().iter();
    let finding = findings.find(|finding| finding.name == name);
    finding.expect("a finding of that name").clone()
}

#[test]
fn options_are_completed_unless_configured() {
    let table: [(&[&str], bool, bool, &[&str]); 6] = [
        (&[], false, true, &["index=off"]),
        (&[], true, true, &["userxattr", "index=off"]),
        (&[], false, false, &[]),
        (&["index=on"], true, true, &["index=on", "userxattr"]),
        (&["userxattr"], true, false, &["userxattr"]),
        (&["xino=on"], false, true, &["xino=on", "index=off"]),
    ];
    for (configured, userns, index, expected) in table {
        let configured: Vec<String> = configured.iter().map(|o| (*o).to_owned()).collect();
        assert_eq!(complete(&configured, userns, index), expected);
    }
}

#[test]
fn root_good_disks_are_taken_and_nothing_stays_behind() {
    enter_private_mounts();
    for disk in [LoopDisk::ext4(32), LoopDisk::xfs(&[]), LoopDisk::btrfs()] {
        let root = disk.path().join("root");
        let driver = open(&root).expect("a good disk");
        let overlay = finding(&driver, "overlay mount");
        assert!(overlay.ok && overlay.needed, "{overlay:?}");
        finding(&driver, "id-mapped layers"); // every kernel since 5.19 has them
        let bad = driver.findings().iter().find(|finding| !finding.ok);
        assert_eq!(bad, None);
        let mut names: Vec<_> = fs::read_dir(&root)
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["c", "e", "i", "l", "t", "w", "x"]);
        let table = layerd_mounts::mountinfo::read().expect("the mount table");
        let left = table.iter().find(|entry| entry.target.starts_with(&root));
        assert_eq!(left, None, "the trial's mount is gone");
    }
}

#[test]
fn root_memory_is_taken_with_a_warning() {
    enter_private_mounts();
    let disk = LoopDisk::tmpfs();
    let driver = open(disk.path()).expect("tmpfs holds layers");
    let finding = finding(&driver, "file system");
    assert!(!finding.ok && !finding.refuses(), "{finding:?}");
    assert!(finding.detail.starts_with("tmpfs"), "{finding:?}");
}

#[test]
fn root_overlay_on_overlay_is_refused() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(16);
    for dir in ["lower", "upper", "work"] {
        fs::create_dir(disk.path().join(dir)).expect("mkdir");
    }
    let option = |name, dir| format!("{name}={}", disk.path().join(dir).display());
    let mount = Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            option("lowerdir", "lower"),
            option("upperdir", "upper"),
            option("workdir", "work"),
        ],
    };
    let seen = Mounted::new(&[mount], &disk.path().join("seen")).expect("mount");
    let (check, _) = refusal(&seen.path("root"));
    assert_eq!(check, "not on overlayfs");
}

/// The kernel mounts it all the same; only use shows that directories cannot replace others.
#[test]
fn root_file_systems_without_attributes_are_refused() {
    enter_private_mounts();
    let disk = LoopDisk::ramfs();
    let (check, problem) = refusal(disk.path());
    assert_eq!(check, "overlay mount", "{problem}");
    assert!(
        problem.starts_with("it cannot make a directory"),
        "{problem}"
    );
}

/// An old xfs, or one made with ftype=0, does not tell the types of entries.
#[test]
fn root_file_systems_without_entry_types_are_refused() {
    enter_private_mounts();
    let disk = LoopDisk::ext4_without_entry_types();
    let (check, problem) = refusal(disk.path());
    assert_eq!(check, "entry types", "{problem}");
}

#[test]
fn root_options_the_kernel_does_not_know_are_refused() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(16);
    let options = Options {
        mount_options: vec!["no_such_option=1".to_owned()],
        ..Options::default()
    };
    let refused = Overlay::open(disk.path(), &options);
    let error = refused.expect_err("no such option").to_string();
    assert!(error.contains("no_such_option=1"), "{error}");
}

#[test]
fn paths_that_cannot_be_mounted_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (check, _) = refusal(&dir.path().join("a:b"));
    assert_eq!(check, "path");
}

#[test]
fn a_crashed_trial_is_cleared_away() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stale = dir.path().join("probe.4294967295"); // beyond the largest process id
    let alive = dir.path().join("probe.1");
    let foreign = dir.path().join("probe.x");
    for path in [&stale, &alive, &foreign] {
        fs::create_dir_all(path.join("sub")).expect("mkdir");
    }
    open(dir.path()).expect("open");
    assert!(!stale.exists());
    assert!(alive.exists() && foreign.exists());
}
