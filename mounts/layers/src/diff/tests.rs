use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use nix::mount::MsFlags;
use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use super::{DiffCompression, DiffOptions, Diffed, diff};
use crate::apply;
use crate::archive::{ImportOptions, import};
use crate::copy::{self, Markers, copy_tree};
use crate::error::Error;
use crate::layering::Layering;
use crate::node::{self, Kind, timespec};
use crate::progress::Progress;
use crate::tar::header::{self, Header};
use crate::tar::{BLOCK, EntryKind, Reader, padding, pax};
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{self, Disk, Manifest, Merged, assert_same, give, make_node, manifest};

pub(crate) mod random;
mod whole;

/// Layers on a disk of their own, and an overlay of them that can be written through.
pub(crate) struct Bench<'a> {
    pub(crate) lowers: Vec<tempfile::TempDir>,
    upper: tempfile::TempDir,
    pub(crate) disk: &'a Disk,
}

impl<'a> Bench<'a> {
    /// One empty layer below.
    fn new(disk: &'a Disk) -> Self {
        Self {
            lowers: vec![disk.dir()],
            upper: disk.dir(),
            disk,
        }
    }

    /// Path in the lowest layer.
    fn low(&self, path: &str) -> PathBuf {
        self.lowers.last().expect("a layer").path().join(path)
    }

    fn up(&self, path: &str) -> PathBuf {
        self.upper.path().join(path)
    }

    /// Has `change` work in an overlay mount of all.
    fn through_a_mount(&self, change: impl FnOnce(&Path)) {
        let (work, at) = (self.disk.dir(), tempfile::tempdir().expect("a directory"));
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let lowers: Vec<_> = self.lowers.iter().map(|dir| text(dir.path())).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lowers.join(":"),
            text(self.upper.path()),
            text(work.path())
        );
        let (kind, flags) = (Some("overlay"), MsFlags::empty());
        nix::mount::mount(kind, at.path(), kind, flags, Some(&*options)).expect("mount");
        change(at.path());
        nix::mount::umount(at.path()).expect("unmount");
    }

    fn diff(&self, options: &DiffOptions<'_>) -> Result<(Vec<u8>, Diffed), Error> {
        let lowers: Vec<_> = self.lowers.iter().map(|dir| dir.path()).collect();
        packed(self.upper.path(), &lowers, options)
    }

    pub(crate) fn plain(&self) -> Vec<u8> {
        self.diff(&plain()).expect("a layer").0
    }

    fn layers(&self) -> Vec<PathBuf> {
        let all = std::iter::once(&self.upper).chain(&self.lowers);
        all.map(|dir| dir.path().to_owned()).collect()
    }
}

fn plain() -> DiffOptions<'static> {
    DiffOptions {
        compression: DiffCompression::None,
        ..DiffOptions::default()
    }
}

fn packed(
    upper: &Path,
    lowers: &[&Path],
    options: &DiffOptions<'_>,
) -> Result<(Vec<u8>, Diffed), Error> {
    let open = |path: &Path| File::open(path).expect("a directory");
    let lowers: Vec<_> = lowers.iter().map(|path| open(path)).collect();
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    let mut layer = Vec::new();
    let diffed = diff(open(upper).as_fd(), &lowers, options, &mut layer)?;
    assert_eq!(diffed.size, layer.len() as u64);
    assert_eq!(diffed.sha256[..], Sha256::digest(&layer)[..]);
    Ok((layer, diffed))
}

/// The entries of a layer: path, target of links, content.
fn entries(layer: &[u8]) -> Vec<(String, String, EntryKind)> {
    let mut reader = Reader::new(layer);
    let mut entries = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(entry) = reader.next_entry().expect("an archive") {
        entries.push((text(&entry.path), text(&entry.link), entry.kind));
    }
    entries
}

fn paths(layer: &[u8]) -> Vec<String> {
    entries(layer)
        .into_iter()
        .map(|(path, _, _)| path)
        .collect()
}

/// What a program does that knows nothing but the specification of layers, to a copy of what is
/// below: first it deletes what is deleted or replaced, then it unpacks the rest.
fn apply_by_the_book(layer: &[u8], dest: &Path) {
    let mut reader = Reader::new(layer);
    while let Some(entry) = reader.next_entry().expect("an archive") {
        let mut path = dest.join(OsStr::from_bytes(&entry.path));
        if let Some(name) = deleted(&entry.path) {
            path.set_file_name(OsStr::from_bytes(name));
            assert!(path.symlink_metadata().is_ok(), "{path:?} was not there");
        } else if entry.kind == EntryKind::Directory && is_directory(&path) {
            forget_attributes(&path);
            continue;
        }
        remove(&path);
    }
    let dir = File::open(dest).expect("a directory");
    let rest = without_entries(layer, |path| deleted(path).is_some());
    import(&*rest, dir.as_fd(), &ImportOptions::default()).expect("import");
}

/// What a whiteout stands for.
pub(crate) fn deleted(path: &[u8]) -> Option<&[u8]> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    name.strip_prefix(b".wh.")
}

/// A layer that lacks some of its entries.
pub(crate) fn without_entries(mut layer: &[u8], lacks: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut rest = Vec::new();
    loop {
        let mut length = 0;
        let mut path = None;
        let kind = loop {
            let header = Header(layer[length..length + BLOCK].try_into().expect("a block"));
            let size = header.number(header::SIZE).expect("a size");
            let begin = length + BLOCK;
            let end = begin + usize::try_from(size).expect("a small file");
            length = end + padding(size);
            if header.kind() != b'x' {
                path = path.or(Some(header.text(header::NAME).to_owned()));
                break header.kind();
            }
            let records = pax::parse(&layer[begin..end]).expect("records");
            let long = records.iter().find(|(key, _)| *key == b"path");
            path = long.map(|(_, value)| value.to_vec());
        };
        if kind == 0 {
            rest.extend_from_slice(layer); // the end mark
            return rest;
        }
        let (entry, others) = layer.split_at(length);
        if !lacks(&path.expect("a path")) {
            rest.extend_from_slice(entry);
        }
        layer = others;
    }
}

/// An entry says all there is to a directory, also to one that is there.
fn forget_attributes(path: &Path) {
    let dir = File::open(path).expect("a directory");
    for (name, _) in node::xattrs(dir.as_fd()).expect("attributes") {
        rustix::fs::fremovexattr(&dir, &*name).expect("remove an attribute");
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn remove(path: &Path) {
    if is_directory(path) {
        #[allow(
            clippy::disallowed_methods,
            reason = "nothing is mounted in a test's folder"
        )]
        fs::remove_dir_all(path).expect("remove");
    } else if path.symlink_metadata().is_ok() {
        fs::remove_file(path).expect("remove");
    }
}

pub(crate) fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let nanoseconds = u32::try_from(nanoseconds).expect("nanoseconds");
    let time = timespec(seconds, nanoseconds);
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).expect("times");
}

/// What a layer can carry of a tree: no sockets, no access times, no notes of overlayfs, no holes,
/// and nothing of the root directory.
fn carried(mut tree: Manifest) -> Manifest {
    tree.remove(Path::new(""));
    tree.retain(|_, seen| seen.kind != Kind::Socket);
    test_support::without(tree, |seen| {
        seen.accessed = None;
        seen.pieces.clear();
        seen.xattrs.retain(|(name, _)| {
            let name = name.to_bytes();
            !name.starts_with(b"trusted.") && !name.starts_with(b"user.overlay.")
        });
    })
}

fn shown(layers: &[PathBuf]) -> Manifest {
    let mut layers = layers.to_vec();
    let empty = tempfile::tempdir().expect("a directory");
    if layers.len() == 1 {
        layers.push(empty.path().to_owned()); // overlayfs wants two
    }
    carried(manifest(Merged::new(&layers).path()))
}

/// The layer, applied to what is below, gives what the mount shows, whoever applies it.
fn assert_comes_back(bench: &Bench<'_>) {
    let layer = bench.plain();
    let seen = shown(&bench.layers());
    let again = unpacked(&layer, bench);
    let mut layers = bench.layers();
    layers[0] = again.path().to_owned();
    assert_same(&as_applied(seen.clone()), &as_applied(shown(&layers)));
    let (below, dest) = (bench.layers(), bench.disk.dir());
    let below: Vec<_> = below[1..]
        .iter()
        .map(|path| File::open(path).unwrap())
        .collect();
    let mut below: Vec<_> = below.iter().map(AsFd::as_fd).collect();
    let empty = bench.disk.dir();
    let empty = File::open(empty.path()).unwrap();
    below.push(empty.as_fd()); // a single layer would be a plain tree to it
    let options = copy::Options::default();
    let open = File::open(dest.path()).unwrap();
    copy_tree(&below, Path::new(""), open.as_fd(), &options).expect("copy");
    apply_by_the_book(&layer, dest.path());
    assert_same(&seen, &carried(manifest(dest.path())));
}

/// The layer as an upper directory, made by layerd's own applier.
fn unpacked(layer: &[u8], bench: &Bench<'_>) -> tempfile::TempDir {
    let upper = bench.disk.dir();
    let open = |path: &Path| File::open(path).expect("a directory");
    let lowers: Vec<_> = bench.lowers.iter().map(|dir| open(dir.path())).collect();
    let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
    let layer_dir = open(upper.path());
    let target = apply::Target {
        layer: layer_dir.as_fd(),
        lowers: &lowers,
        whiteouts: apply::Whiteouts::Devices(Markers::Trusted),
    };
    let applied = apply::apply(layer, &target, &apply::Options::default()).expect("apply");
    assert_eq!(applied.diff_id[..], Sha256::digest(layer)[..]);
    upper
}

/// Appliers take earlier times for the first of 1970, and what they make inherits the access lists
/// that its directory hands down.
fn as_applied(tree: Manifest) -> Manifest {
    test_support::without(tree, |seen| {
        seen.xattrs
            .retain(|(name, _)| !name.to_bytes().starts_with(b"system.posix_acl_"));
        if seen.modified.0 < 0 {
            seen.modified = (0, 0);
        }
    })
}

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
