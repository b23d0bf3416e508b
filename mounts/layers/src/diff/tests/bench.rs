//! Overlays on test disks, and layers made of them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use sha2::{Digest, Sha256};

use crate::apply;
use crate::archive::{ImportOptions, import};
use crate::copy::{self, Markers, copy_tree};
use crate::diff::{DiffCompression, DiffOptions, Diffed, diff};
use crate::error::Error;
use crate::node::{self, Kind, timespec};
use crate::tar::header::{self, Header};
use crate::tar::{BLOCK, EntryKind, Reader, padding, pax};
use crate::test_support::{self, Disk, Manifest, Merged, assert_same, manifest};

/// Layers on a disk of their own, and an overlay of them that can be written through.
pub(crate) struct Bench<'a> {
    pub(crate) lowers: Vec<tempfile::TempDir>,
    pub(super) upper: tempfile::TempDir,
    pub(crate) disk: &'a Disk,
}

impl<'a> Bench<'a> {
    /// One empty layer below.
    pub(super) fn new(disk: &'a Disk) -> Self {
        Self {
            lowers: vec![disk.dir()],
            upper: disk.dir(),
            disk,
        }
    }

    /// Path in the lowest layer.
    pub(super) fn low(&self, path: &str) -> PathBuf {
        self.lowers.last().expect("a layer").path().join(path)
    }

    pub(super) fn up(&self, path: &str) -> PathBuf {
        self.upper.path().join(path)
    }

    /// Has `change` work in an overlay mount of all.
    pub(super) fn through_a_mount(&self, change: impl FnOnce(&Path)) {
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

    pub(super) fn diff(&self, options: &DiffOptions<'_>) -> Result<(Vec<u8>, Diffed), Error> {
        let lowers: Vec<_> = self.lowers.iter().map(|dir| dir.path()).collect();
        packed(self.upper.path(), &lowers, options)
    }

    pub(crate) fn plain(&self) -> Vec<u8> {
        self.diff(&plain()).expect("a layer").0
    }

    pub(super) fn layers(&self) -> Vec<PathBuf> {
        let all = std::iter::once(&self.upper).chain(&self.lowers);
        all.map(|dir| dir.path().to_owned()).collect()
    }
}

pub(super) fn plain() -> DiffOptions<'static> {
    DiffOptions {
        compression: DiffCompression::None,
        ..DiffOptions::default()
    }
}

pub(super) fn packed(
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
pub(super) fn entries(layer: &[u8]) -> Vec<(String, String, EntryKind)> {
    let mut reader = Reader::new(layer);
    let mut entries = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(entry) = reader.next_entry().expect("an archive") {
        entries.push((text(&entry.path), text(&entry.link), entry.kind));
    }
    entries
}

pub(super) fn paths(layer: &[u8]) -> Vec<String> {
    entries(layer)
        .into_iter()
        .map(|(path, _, _)| path)
        .collect()
}

/// Applies a layer to a copy of the lower directory by the image specification alone: first it
/// deletes removed and replaced files, then it unpacks the rest.
pub(super) fn apply_by_the_book(layer: &[u8], dest: &Path) {
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

/// The name that a whiteout deletes.
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
pub(super) fn forget_attributes(path: &Path) {
    let dir = File::open(path).expect("a directory");
    for (name, _) in node::xattrs(dir.as_fd()).expect("attributes") {
        rustix::fs::fremovexattr(&dir, &*name).expect("remove an attribute");
    }
}

pub(super) fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

pub(super) fn remove(path: &Path) {
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

/// The part of a tree that a layer can carry: no sockets, access times, attributes of overlayfs or
/// holes, and nothing of the root directory.
pub(super) fn carried(mut tree: Manifest) -> Manifest {
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

pub(super) fn shown(layers: &[PathBuf]) -> Manifest {
    let mut layers = layers.to_vec();
    let empty = tempfile::tempdir().expect("a directory");
    if layers.len() == 1 {
        layers.push(empty.path().to_owned()); // overlayfs wants two
    }
    carried(manifest(Merged::new(&layers).path()))
}

/// Applied to the lower directory, by any applier, the layer gives the content of the mount.
pub(super) fn assert_comes_back(bench: &Bench<'_>) {
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
pub(super) fn unpacked(layer: &[u8], bench: &Bench<'_>) -> tempfile::TempDir {
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
pub(super) fn as_applied(tree: Manifest) -> Manifest {
    test_support::without(tree, |seen| {
        seen.xattrs
            .retain(|(name, _)| !name.to_bytes().starts_with(b"system.posix_acl_"));
        if seen.modified.0 < 0 {
            seen.modified = (0, 0);
        }
    })
}
