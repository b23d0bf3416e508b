use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{ExportOptions, Exported, ImportOptions, Imported, export, import};
use crate::durable::Durable;
use crate::error::Error;
use crate::node::Kind;
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{self, Disk, Manifest, Seen, assert_same, manifest, without};

mod hostile;

fn packed(tree: &Path, options: &ExportOptions<'_>) -> (Vec<u8>, Exported) {
    let mut archive = Vec::new();
    let dir = fs::File::open(tree).unwrap();
    let exported = export(dir.as_fd(), &mut archive, options).unwrap();
    (archive, exported)
}

fn unpack(archive: &[u8], dest: &Path, options: &ImportOptions<'_>) -> Result<Imported, Error> {
    let dir = fs::File::open(dest).unwrap();
    import(archive, dir.as_fd(), options)
}

/// The part of a tree that an archive keeps: all but sockets.
fn kept(mut tree: Manifest) -> Manifest {
    tree.retain(|_, seen| seen.kind != Kind::Socket);
    tree
}

fn same_through_archive(from: &Path, to: &Path) {
    let source = manifest(from);
    let (archive, exported) = packed(from, &ExportOptions::default());
    let sockets = source
        .values()
        .filter(|seen| seen.kind == Kind::Socket)
        .count() as u64;
    assert_eq!(exported.left_out, sockets);
    assert_eq!(exported.bytes, archive.len() as u64);
    assert_eq!(exported.sha256[..], Sha256::digest(&archive)[..]);
    assert_eq!(exported.changed, 0);
    let options = ImportOptions {
        checksum: true,
        ..ImportOptions::default()
    };
    let imported = unpack(&archive, to, &options).expect("import");
    assert_eq!(imported.files, exported.files);
    assert!(imported.verified);
    assert_same(&kept(source), &manifest(to));
    // The same tree gives the same bytes.
    let again = packed(to, &ExportOptions::default());
    if sockets == 0 && !manifest(to).values().any(|seen| seen.kind == Kind::Symlink) {
        assert!(again.0 == archive, "another archive of the same tree");
    }
}

#[test]
fn random_trees_of_anybody_come_back() {
    test_support::for_random(60, &items(Who::Anybody, 40), |tree| {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(from.path(), &tree);
        same_through_archive(from.path(), to.path());
    });
}

fn root_trees_come_back_on(disk: &Disk) {
    test_support::for_random(40, &items(Who::Root, 40), |tree| {
        let (from, to) = (disk.dir(), disk.dir());
        build(from.path(), &tree);
        same_through_archive(from.path(), to.path());
    });
}

#[test]
fn root_random_trees_come_back_on_ext4() {
    test_support::enter_private_mounts();
    root_trees_come_back_on(&Disk::new("ext4", 600));
}

#[test]
fn root_random_trees_come_back_on_xfs() {
    test_support::enter_private_mounts();
    root_trees_come_back_on(&Disk::new("xfs", 400));
}

#[test]
fn root_random_trees_come_back_on_btrfs() {
    test_support::enter_private_mounts();
    root_trees_come_back_on(&Disk::new("btrfs", 400));
}

fn feed(program: &str, arguments: &[&str], dir: &Path, archive: &[u8]) {
    let mut child = Command::new(program);
    child.args(arguments).arg("-C").arg(dir);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!("this test needs `{program}`: {error}");
    });
    child.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(
        child.wait().unwrap().success(),
        "{program} refused the archive"
    );
}

fn readable_by(program: &str, arguments: &[&str], cases: u32, forget: impl Fn(&mut Seen)) {
    test_support::need_root();
    test_support::for_random(cases, &items(Who::Root, 30), |tree| {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(from.path(), &tree);
        let (archive, _) = packed(from.path(), &ExportOptions::default());
        feed(program, arguments, to.path(), &archive);
        let forget = |seen: &mut Seen| {
            seen.accessed = None; // a tar program does not set it
            forget(seen);
        };
        let source = without(kept(manifest(from.path())), forget);
        assert_same(&source, &without(manifest(to.path()), forget));
    });
}

#[test]
fn root_gnu_tar_reads_what_is_exported() {
    let arguments = [
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-xpf",
        "-",
    ];
    readable_by("tar", &arguments, 40, |_| ());
}

#[test]
fn root_bsdtar_reads_what_is_exported() {
    // It takes trusted attributes and access lists only from its own kind of record.
    let arguments = ["--numeric-owner", "-xpf", "-"];
    readable_by("bsdtar", &arguments, 40, |seen| {
        seen.xattrs.clear();
        seen.pieces.clear();
        // It leaves the directory it works in alone, and reads fractions before 1970 wrongly.
        if seen.first.as_os_str().is_empty() || seen.modified.0 < 0 {
            seen.modified = (0, 0);
        }
    });
}

fn reads_from(arguments: &[&str], forget: impl Fn(&mut Seen)) {
    test_support::need_root();
    test_support::for_random(40, &items(Who::Root, 30), |tree| {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        build(from.path(), &tree);
        let mut all: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        all.extend(["-C".as_ref(), from.path().as_os_str(), ".".as_ref()]);
        let archive = test_support::run("tar", &all);
        let imported = unpack(&archive, to.path(), &ImportOptions::default()).expect("import");
        assert!(!imported.verified);
        let forget = |seen: &mut Seen| {
            seen.accessed = None;
            if seen.kind != Kind::Regular {
                seen.first.clear(); // GNU tar writes each name of a device as one of its own
            }
            forget(seen);
        };
        let source = without(kept(manifest(from.path())), forget);
        assert_same(&source, &without(manifest(to.path()), forget));
    });
}

#[test]
fn root_reads_pax_from_gnu_tar() {
    for sparse in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={sparse}");
        let arguments = [
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "--sparse",
            &version,
            "-cf",
            "-",
        ];
        reads_from(&arguments, |_| ());
    }
}

#[test]
fn root_reads_old_gnu_formats() {
    let plain = |seen: &mut Seen| {
        seen.xattrs.clear();
        seen.modified.1 = 0;
    };
    reads_from(
        &["--format=gnu", "--sparse", "--numeric-owner", "-cf", "-"],
        plain,
    );
    reads_from(
        &["--format=oldgnu", "--numeric-owner", "-cf", "-"],
        |seen| {
            plain(seen);
            seen.pieces.clear();
        },
    );
}

#[test]
fn the_options_are_kept() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x".repeat(3000)).unwrap();
    let (with, _) = packed(from.path(), &ExportOptions::default());
    let options = ExportOptions {
        access_times: false,
        ..ExportOptions::default()
    };
    let (archive, _) = packed(from.path(), &options);
    test_support::give(&from.path().join("file"), |attributes| {
        attributes.accessed.tv_sec += 1
    });
    assert!(
        packed(from.path(), &options).0 == archive,
        "reading a file changed its archive"
    );
    assert!(
        packed(from.path(), &ExportOptions::default()).0 != with,
        "the access time is lost"
    );
}

#[test]
fn the_limits_are_kept() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "x".repeat(3000)).unwrap();
    let (archive, _) = packed(from.path(), &ExportOptions::default());
    let import = |most_files, most_bytes, durable| {
        let to = tempfile::tempdir().unwrap();
        let options = ImportOptions {
            most_files,
            most_bytes,
            durable,
            ..ImportOptions::default()
        };
        unpack(&archive, to.path(), &options)
    };
    let few = import(1, u64::MAX, Durable::No).unwrap_err().to_string();
    assert!(few.contains("more than 1 files"), "{few}");
    let small = import(2, 2999, Durable::No).unwrap_err().to_string();
    assert!(small.contains("more than 2999 bytes"), "{small}");
    let expected = Imported {
        files: 2,
        bytes: 3000,
        verified: true,
    };
    for durable in [Durable::No, Durable::Content] {
        assert_eq!(import(2, 3000, durable).unwrap(), expected);
    }
}

#[test]
fn what_is_there_is_replaced() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("dir/sub")).unwrap();
    fs::write(from.path().join("dir/file"), "new").unwrap();
    let (archive, _) = packed(from.path(), &ExportOptions::default());
    for _ in 0..2 {
        unpack(&archive, to.path(), &ImportOptions::default()).unwrap();
        assert_same(&manifest(from.path()), &manifest(to.path()));
    }
    fs::remove_dir(to.path().join("dir/sub")).unwrap();
    std::os::unix::fs::symlink("/etc", to.path().join("dir/sub")).unwrap();
    let before = fs::metadata("/etc").unwrap().ctime_nsec();
    unpack(&archive, to.path(), &ImportOptions::default()).unwrap();
    assert_same(&manifest(from.path()), &manifest(to.path()));
    assert_eq!(fs::metadata("/etc").unwrap().ctime_nsec(), before);
}
