use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::FileType;

use super::{DiffCompression, DiffOptions, diff};
use crate::apply;
use crate::copy::{self, Markers, copy_tree};
use crate::error::Error;
use crate::layering::Layering;
use crate::node::Kind;
use crate::progress::Progress;
use crate::tar::{EntryKind, Reader};
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{self, Disk, assert_same, give, make_node, manifest};

mod bench;
pub(crate) mod random;
mod whole;

pub(crate) use bench::{Bench, deleted, set_times, without_entries};
use bench::{
    as_applied, assert_comes_back, carried, entries, is_directory, packed, paths, plain, remove,
    unpacked,
};

#[test]
fn root_each_change_has_its_entry() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    for dir in ["kept", "opaque/sub", "type", "gone"] {
        fs::create_dir_all(bench.low(dir)).unwrap();
    }
    for file in [
        "kept/a",
        "kept/b",
        "kept/c",
        "opaque/x",
        "opaque/sub/y",
        "gone/z",
        "touched",
    ] {
        fs::write(bench.low(file), "before").unwrap();
    }
    bench.through_a_mount(|at| {
        fs::write(at.join("kept/a"), "after").unwrap();
        fs::remove_file(at.join("kept/b")).unwrap();
        remove(&at.join("opaque"));
        fs::create_dir_all(at.join("opaque/sub/new")).unwrap();
        remove(&at.join("gone"));
        remove(&at.join("type"));
        fs::write(at.join("type"), "").unwrap();
        fs::write(at.join("added"), "").unwrap();
        fs::hard_link(at.join("added"), at.join("kept/other")).unwrap();
        // Copied up, then as before.
        fs::set_permissions(at.join("touched"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(at.join("touched"), fs::Permissions::from_mode(0o644)).unwrap();
    });
    let layer = bench.plain();
    let expected = [
        "added",
        ".wh.gone",
        "kept/",
        "kept/a",
        "kept/.wh.b",
        "kept/other",
        "opaque/",
        "opaque/sub/",
        "opaque/sub/new/",
        "opaque/sub/.wh.y",
        "opaque/.wh.x",
        "type",
    ];
    assert_eq!(paths(&layer), expected);
    let link = &entries(&layer)[5];
    assert_eq!((&*link.1, link.2), ("added", EntryKind::HardLink));
    assert_comes_back(&bench);
}

#[test]
fn root_nothing_changed_is_an_empty_layer() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::create_dir(bench.low("dir")).unwrap();
    fs::write(bench.low("dir/file"), "content").unwrap();
    bench.through_a_mount(|at| {
        let file = at.join("dir/file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    });
    assert!(bench.up("dir/file").exists(), "it was not copied up");
    let (layer, diffed) = bench.diff(&plain()).unwrap();
    assert_eq!(layer, [0; 1024]);
    assert_eq!((diffed.entries, diffed.uncompressed), (0, 1024));
}

#[test]
fn root_a_change_behind_an_old_time_is_found() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::write(bench.low("file"), "one").unwrap();
    set_times(&bench.low("file"), 5, 7);
    bench.through_a_mount(|at| {
        fs::write(at.join("file"), "two").unwrap();
        set_times(&at.join("file"), 5, 7);
    });
    assert_eq!(paths(&bench.plain()), ["file"]);
}

#[test]
fn root_names_that_were_one_file_come_apart() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::write(bench.low("a"), "same").unwrap();
    fs::hard_link(bench.low("a"), bench.low("b")).unwrap();
    fs::write(bench.low("c"), "other").unwrap();
    bench.through_a_mount(|at| {
        // Copied up as a file of its own.
        fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o644)).unwrap();
        // Not changed itself, but a second name must know its first.
        fs::hard_link(at.join("c"), at.join("d")).unwrap();
    });
    let layer = bench.plain();
    assert_eq!(paths(&layer), ["a", "c", "d"]);
    assert_eq!(entries(&layer)[2].1, "c");
    assert_comes_back(&bench);
}

#[test]
fn root_a_socket_deletes_what_it_replaced() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::write(bench.low("was"), "").unwrap();
    make_node(&bench.up("was"), FileType::Socket, (0, 0));
    make_node(&bench.up("new"), FileType::Socket, (0, 0));
    assert_eq!(paths(&bench.plain()), [".wh.was"]);
}

#[test]
fn root_whiteouts_of_nothing_are_left_out() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    make_node(&bench.up("never"), FileType::CharacterDevice, (0, 0));
    fs::create_dir(bench.up("dir")).unwrap();
    make_node(&bench.up("dir/never"), FileType::CharacterDevice, (0, 0));
    assert_eq!(paths(&bench.plain()), ["dir/"]);
}

#[test]
fn root_notes_of_overlayfs_stay_where_they_are() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    let notes = [
        "trusted.overlay.opaque",
        "trusted.overlay.origin",
        "trusted.overlay.impure",
        "trusted.overlay.overlay.opaque",
        "user.overlay.opaque",
        "user.kept",
        "trusted.else",
    ];
    fs::create_dir(bench.up("dir")).unwrap();
    give(&bench.up("dir"), |attributes| {
        attributes.xattrs = notes
            .map(|name| (test_support::c(name), b"y".to_vec()))
            .to_vec();
    });
    let layer = bench.plain();
    let text = String::from_utf8_lossy(&layer);
    assert!(
        !text.contains("overlay") && !text.contains("trusted"),
        "{text}"
    );
    assert!(text.contains("SCHILY.xattr.user.kept=y"), "{text}");
}

#[test]
fn root_what_cannot_be_understood_is_refused() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    for (note, value, dir) in [
        ("trusted.overlay.redirect", &b"/elsewhere"[..], true),
        ("trusted.overlay.redirect", b"elsewhere", false),
        ("trusted.overlay.metacopy", b"", false),
        ("trusted.overlay.opaque", b"x", true),
        ("trusted.overlay.whiteout", b"y", false),
    ] {
        let bench = Bench::new(&disk);
        let path = bench.up("it");
        let made = if dir {
            fs::create_dir(&path)
        } else {
            fs::write(&path, "")
        };
        made.unwrap();
        give(&path, |attributes| {
            attributes.xattrs = vec![(test_support::c(note), value.to_vec())];
        });
        let refused = bench.diff(&plain()).expect_err(note);
        assert!(
            matches!(refused, Error::Feature { .. }),
            "{note}: {refused}"
        );
    }
}

/// No layer can hold them, and one of them must not keep all else from being committed.
#[test]
fn root_names_that_stand_for_deletions_are_left_out() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::write(bench.low("file"), "below").unwrap();
    bench.through_a_mount(|at| {
        fs::create_dir_all(at.join("dir/.wh.d/below")).unwrap();
        fs::write(at.join(".wh.file"), "").unwrap();
        fs::write(at.join("dir/kept"), "").unwrap();
    });
    let (layer, diffed) = bench.diff(&plain()).unwrap();
    assert_eq!(paths(&layer), ["dir/", "dir/kept"]);
    let first = diffed.first_left_out.as_deref();
    assert_eq!((diffed.left_out, first), (2, Some(Path::new(".wh.file"))));
}

fn top(path: &Path) -> (u32, u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.mode() & 0o7777, stat.uid(), stat.gid())
}

#[test]
fn root_the_top_directory_comes_back() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::set_permissions(bench.low(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(bench.up(""), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(paths(&bench.plain()).is_empty());
    bench.through_a_mount(|at| {
        std::os::unix::fs::chown(at, Some(5), Some(6)).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o1770)).unwrap();
        fs::write(at.join("file"), "").unwrap();
    });
    let layer = bench.plain();
    assert_eq!(paths(&layer), ["./", "file"]);
    assert_eq!(top(unpacked(&layer, &bench).path()), (0o1770, 5, 6));
    // An entry of another program's is passed over, as by containerd.
    let name = b"LAYERD.top=1";
    let at = layer
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    let mut other = layer.clone();
    other[at..at + 6].copy_from_slice(b"OTHERS");
    let made = unpacked(&other, &bench);
    assert_ne!(top(made.path()), (0o1770, 5, 6));
}

#[test]
fn root_ids_are_those_of_the_container() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 64);
    let bench = Bench::new(&disk);
    fs::write(bench.low("same"), "").unwrap();
    fs::write(bench.low("changed"), "").unwrap();
    let range = |host, length| {
        vec![crate::diff::IdRange {
            container: 0,
            host,
            length,
        }]
    };
    let ids = crate::diff::IdRanges {
        uid: range(100_000, 1000),
        gid: range(200_000, 1000),
    };
    let options = DiffOptions {
        ids: Some(&ids),
        ..plain()
    };
    let owned = |path: &str, uid, gid| {
        std::os::unix::fs::chown(bench.up(path), Some(uid), Some(gid)).unwrap();
    };
    // As the kernel copies them up in a mount whose layers below are mapped.
    for name in ["same", "changed", "new"] {
        fs::write(bench.up(name), "").unwrap();
        owned(name, 100_000, 200_000);
    }
    fs::write(bench.up("changed"), "changed").unwrap();
    owned("", 100_000, 200_000);
    owned("new", 100_005, 200_006);
    for name in ["same", "changed"] {
        let stat = fs::metadata(bench.low(name)).unwrap();
        set_times(&bench.up(name), stat.mtime(), stat.mtime_nsec());
    }
    let top_below = fs::metadata(bench.low("")).unwrap().permissions();
    fs::set_permissions(bench.up(""), top_below).unwrap();
    let (layer, _) = bench.diff(&options).unwrap();
    assert_eq!(paths(&layer), ["changed", "new"]);
    let again = unpacked(&layer, &bench);
    let (changed, new) = (
        top(&again.path().join("changed")),
        top(&again.path().join("new")),
    );
    assert_eq!((changed.1, changed.2, new.1, new.2), (0, 0, 5, 6));
    owned("new", 7, 200_006);
    let error = bench
        .diff(&options)
        .expect_err("an id of the host")
        .to_string();
    assert!(
        error.contains("new belongs to user 7 of the host"),
        "{error}"
    );
}

#[test]
fn notes_are_looked_for_where_the_mount_keeps_them() {
    let (upper, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&upper, &lower] {
        fs::create_dir(dir.path().join("dir")).unwrap();
    }
    fs::write(lower.path().join("dir/hidden"), "").unwrap();
    let name = upper.path().join("dir");
    rustix::fs::setxattr(
        &name,
        "user.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    set_times(&name, 1, 2);
    let paths_with = |markers| {
        let options = DiffOptions {
            layering: Layering::Diff(markers),
            ..plain()
        };
        paths(&packed(upper.path(), &[lower.path()], &options).unwrap().0)
    };
    assert_eq!(paths_with(Markers::User), ["dir/", "dir/.wh.hidden"]);
    assert_eq!(paths_with(Markers::Trusted), ["dir/"]);
}

fn sample() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("dir")).unwrap();
    for number in 0..40_u8 {
        let content = vec![number; 100_000];
        fs::write(tree.path().join(format!("dir/{number}")), content).unwrap();
    }
    tree
}

#[test]
fn packings_hold_the_same_archive_and_come_out_the_same_again() {
    let tree = sample();
    let (plain, diffed) = packed(tree.path(), &[], &plain()).unwrap();
    assert_eq!(
        (diffed.sha256, diffed.size),
        (diffed.diff_id, diffed.uncompressed)
    );
    for compression in [DiffCompression::Gzip, DiffCompression::Zstd] {
        let options = DiffOptions {
            compression,
            ..DiffOptions::default()
        };
        let (layer, packed_as) = packed(tree.path(), &[], &options).unwrap();
        assert_eq!(packed_as.diff_id, diffed.diff_id);
        assert_eq!(packed_as.uncompressed, plain.len() as u64);
        let mut unpacked = Vec::new();
        match compression {
            DiffCompression::Gzip => {
                std::io::copy(&mut GzDecoder::new(&*layer), &mut unpacked).unwrap()
            }
            _ => std::io::copy(&mut zstd::Decoder::new(&*layer).unwrap(), &mut unpacked).unwrap(),
        };
        assert!(unpacked == plain, "{compression:?}");
        assert!(
            layer.len() * 10 < plain.len(),
            "{compression:?} packs nothing"
        );
        assert!(
            packed(tree.path(), &[], &options).unwrap().0 == layer,
            "{compression:?}"
        );
        if compression == DiffCompression::Gzip {
            // No flags, no time.
            assert_eq!(layer[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn times_end_at_the_source_date_epoch() {
    test_support::set_umask();
    let tree = tempfile::tempdir().unwrap();
    for (name, seconds) in [("a-young", 2000), ("b-epoch", 1000), ("c-old", 500)] {
        fs::write(tree.path().join(name), "").unwrap();
        set_times(&tree.path().join(name), seconds, 5);
    }
    let options = DiffOptions {
        source_date_epoch: Some(1000),
        ..plain()
    };
    let (layer, _) = packed(tree.path(), &[], &options).unwrap();
    let mut reader = Reader::new(&*layer);
    let mut times = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        times.push((entry.modified.tv_sec, entry.modified.tv_nsec));
    }
    assert_eq!(times, [(1000, 0), (1000, 0), (500, 5)]);
}

#[test]
fn stops_when_told_and_says_when_the_stream_fails() {
    struct Stop;
    impl Progress for Stop {
        fn advanced(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(libc::ENOSPC))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let tree = sample();
    let dir = File::open(tree.path()).unwrap();
    let stop = DiffOptions {
        progress: &Stop,
        ..plain()
    };
    let stopped = diff(dir.as_fd(), &[], &stop, &mut Vec::new());
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    for compression in [
        DiffCompression::None,
        DiffCompression::Gzip,
        DiffCompression::Zstd,
    ] {
        let options = DiffOptions {
            compression,
            ..plain()
        };
        let failed = diff(dir.as_fd(), &[], &options, &mut Full);
        assert!(
            matches!(failed, Err(Error::Stream { .. })),
            "{compression:?}: {failed:?}"
        );
    }
}
