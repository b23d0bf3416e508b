use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{Rebase, delete_whiteouts, inherit};
use crate::apply::{Applied, Options, Target, Whiteouts, apply};
use crate::copy::Markers;
use crate::diff::tests::random::{cases, changed};
use crate::diff::tests::{deleted, set_times, without_entries};
use crate::node::{self, Kind};
use crate::test_support::{self, Disk, Manifest, assert_same, make_node, manifest};

fn unpack(layer: &[u8], dest: &Path, lowers: &[BorrowedFd<'_>]) -> Applied {
    let dest = File::open(dest).unwrap();
    let target = Target {
        layer: dest.as_fd(),
        lowers,
        whiteouts: Whiteouts::Devices(Markers::Trusted),
    };
    apply(layer, &target, &Options::default()).expect("apply")
}

fn rebase<'a>(layer: &'a File, implied: &'a [Vec<u8>]) -> Rebase<'a> {
    Rebase {
        layer: layer.as_fd(),
        markers: Markers::Trusted,
        implied,
        whiteouts: Some(&[]),
        top: false,
    }
}

/// Clears default ACLs and setgid bits, which a directory hands down only to files made later.
fn tame(dir: &Path) {
    let _ = rustix::fs::removexattr(dir, "system.posix_acl_default");
    let mode = fs::metadata(dir).unwrap().mode();
    fs::set_permissions(dir, Permissions::from_mode(mode & 0o5777)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            tame(&entry.path());
        }
    }
}

/// All of a layer but its top directory, whose times tell when it was made, as do those of
/// whiteouts and of directories that nothing tells anything about.
fn kept(layer: &Path, made_up: &[Vec<u8>]) -> Manifest {
    let mut seen = manifest(layer);
    seen.remove(Path::new(""));
    for (path, seen) in &mut seen {
        seen.accessed = None;
        let is_whiteout = seen.kind == Kind::Character && seen.number == (0, 0);
        let name = path.as_os_str().as_bytes();
        if is_whiteout || made_up.iter().any(|made| made == name) {
            seen.modified = (0, 0);
        }
    }
    seen
}

/// Drops every other directory's entry.
fn lacks(path: &[u8]) -> bool {
    let sum: u32 = path.iter().map(|byte| u32::from(*byte)).sum();
    path.ends_with(b"/") && deleted(path).is_none() && sum.is_multiple_of(2)
}

#[test]
fn root_a_layer_that_lands_is_as_if_it_had_been_unpacked_there() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 600);
    let adopted = std::cell::Cell::new(0);
    test_support::for_random(40, &cases(), |case| {
        let bench = changed(&disk, &case);
        bench.lowers.iter().for_each(|lower| tame(lower.path()));
        let layer = without_entries(&bench.plain(), lacks);
        let lowers = bench
            .lowers
            .iter()
            .map(|dir| File::open(dir.path()).unwrap());
        let lowers: Vec<_> = lowers.collect();
        let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
        let (there, floating) = (disk.dir(), disk.dir());
        let known = unpack(&layer, there.path(), &lowers);
        let unknown = unpack(&layer, floating.path(), &[]);
        let dir = File::open(floating.path()).unwrap();
        // Once more, as after a crash.
        for _ in 0..2 {
            let rebase = Rebase {
                whiteouts: unknown.whiteouts.as_deref(),
                ..rebase(&dir, &unknown.implied)
            };
            inherit(&rebase, &lowers).expect("adopt");
        }
        let made_up = &known.implied;
        assert_same(
            &kept(there.path(), made_up),
            &kept(floating.path(), made_up),
        );
        adopted.set(adopted.get() + unknown.implied.len() - known.implied.len());
    });
    assert!(adopted.get() > 20, "only {} directories", adopted.get());
}

#[test]
fn root_the_top_directory_takes_on_what_lies_below() {
    test_support::need_root();
    let (layer, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::chown(lower.path(), Some(7), Some(8)).unwrap();
    fs::set_permissions(lower.path(), Permissions::from_mode(0o1751)).unwrap();
    set_times(lower.path(), 5, 6);
    let open = |dir: &tempfile::TempDir| File::open(dir.path()).unwrap();
    let (dir, below) = (open(&layer), open(&lower));
    inherit(&rebase(&dir, &[]), &[below.as_fd()]).unwrap();
    let top = fs::metadata(layer.path()).unwrap();
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (7, 8, 0o1751));
    assert_eq!((top.mtime(), top.mtime_nsec()), (5, 6));
}

#[test]
fn root_only_directories_of_the_layer_are_touched() {
    test_support::need_root();
    let (layer, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(lower.path().join("link/sub")).unwrap();
    fs::create_dir(lower.path().join("gone")).unwrap();
    fs::create_dir(lower.path().join("file")).unwrap();
    fs::create_dir(outside.path().join("sub")).unwrap();
    set_times(&outside.path().join("sub"), 1, 2);
    std::os::unix::fs::symlink(outside.path(), layer.path().join("link")).unwrap();
    fs::write(layer.path().join("file"), "").unwrap();
    let open = |dir: &tempfile::TempDir| File::open(dir.path()).unwrap();
    let (dir, below) = (open(&layer), open(&lower));
    let implied = ["link", "link/sub", "gone", "file", "../x"].map(|path| path.as_bytes().to_vec());
    let refused = inherit(&rebase(&dir, &implied), &[below.as_fd()]);
    refused.expect("passed over");
    assert_eq!(fs::metadata(outside.path().join("sub")).unwrap().mtime(), 1);
    assert!(layer.path().join("link").is_symlink());
}

#[test]
fn root_whiteouts_of_a_lowest_layer_go() {
    test_support::need_root();
    let layer = tempfile::tempdir().unwrap();
    let at = |path: &str| layer.path().join(path);
    fs::create_dir(at("dir")).unwrap();
    let whiteout = |path: PathBuf| make_node(&path, FileType::CharacterDevice, (0, 0));
    whiteout(at("top"));
    whiteout(at("dir/inner"));
    make_node(&at("device"), FileType::CharacterDevice, (1, 3));
    set_times(&at("dir"), 5, 6);
    let dir = File::open(layer.path()).unwrap();
    let listed = ["top", "dir/inner", "device", "never", "dir/none/x"];
    let listed = listed.map(|path| path.as_bytes().to_vec());
    for deleted in [2, 0] {
        let rebase = Rebase {
            whiteouts: Some(&listed),
            ..rebase(&dir, &[])
        };
        assert_eq!(delete_whiteouts(&rebase).unwrap().deleted, deleted);
    }
    assert!(
        at("device")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(at("top").symlink_metadata().is_err() && at("dir/inner").symlink_metadata().is_err());
    let stat = node::stat(File::open(at("dir")).unwrap().as_fd()).unwrap();
    assert_eq!((stat.modified.tv_sec, stat.modified.tv_nsec), (5, 6));
}

#[test]
fn root_too_many_whiteouts_to_list_are_found_in_the_layer() {
    test_support::need_root();
    let (layer, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |path: &str| layer.path().join(path);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::create_dir_all(lower.path().join("a/b")).unwrap();
    fs::write(lower.path().join("a/kept"), "").unwrap();
    for path in ["top", "a/kept", "a/b/gone"] {
        make_node(&at(path), FileType::CharacterDevice, (0, 0));
    }
    let dir = File::open(layer.path()).unwrap();
    let below = File::open(lower.path()).unwrap();
    let rebase = Rebase {
        whiteouts: None,
        ..rebase(&dir, &[])
    };
    assert_eq!(inherit(&rebase, &[below.as_fd()]).unwrap().deleted, 2);
    assert!(at("a/kept").symlink_metadata().is_ok());
    assert_eq!(delete_whiteouts(&rebase).unwrap().deleted, 1);
}

#[test]
fn root_what_lies_where_a_symlink_is_below_moves_there() {
    test_support::need_root();
    let (layer, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |path: &str| layer.path().join(path);
    fs::create_dir_all(lower.path().join("usr/lib")).unwrap();
    set_times(&lower.path().join("usr/lib"), 5, 6);
    for (link, target) in [("lib", "usr/lib"), ("up", "/up/again"), ("self", "self/x")] {
        std::os::unix::fs::symlink(target, lower.path().join(link)).unwrap();
    }
    for dir in ["lib/d", "usr/lib/d", "up", "self"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for file in [
        "lib/one",
        "lib/d/two",
        "usr/lib/one",
        "usr/lib/d/three",
        "self/y",
    ] {
        fs::write(at(file), file).unwrap();
    }
    set_times(&at("usr/lib"), 7, 8);
    let (dir, below) = (
        File::open(layer.path()).unwrap(),
        File::open(lower.path()).unwrap(),
    );
    let implied = ["lib", "lib/d", "up", "self"].map(|path| path.as_bytes().to_vec());
    for moved in [true, false] {
        let rebased = inherit(&rebase(&dir, &implied), &[below.as_fd()]).unwrap();
        assert_eq!(rebased.moved, moved);
    }
    assert!(!at("lib").exists());
    for (path, content) in [
        ("usr/lib/one", "lib/one"),
        ("usr/lib/d/two", "lib/d/two"),
        ("usr/lib/d/three", "usr/lib/d/three"),
        ("self/y", "self/y"),
    ] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), content);
    }
    let stat = fs::metadata(at("usr/lib")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (7, 8));
}
