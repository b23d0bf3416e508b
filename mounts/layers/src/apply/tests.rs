//! Unpacked layers, compared with containerd's results.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::apply::{Applied, Compression, Limits, Options, Target, Whiteouts, apply};
use crate::copy::Markers;
use crate::durable::Durable;
use crate::error::Error;
use crate::progress::Progress;
use crate::tar::header;
use crate::tar::samples::{directory, extended, file, hard_link, member, symlink, with};
use crate::test_support;

mod attributes;
mod aufs;
mod blobs;
mod dialects;
mod hostile;
mod images;
mod trees;
mod whiteouts;

const OVERLAY: Whiteouts = Whiteouts::Devices(Markers::Trusted);

/// A layer to be, layers below it, and something beside them that nothing may touch.
struct Bench {
    home: tempfile::TempDir,
    lowers: Cell<usize>,
}

impl Bench {
    fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    fn in_dir(home: tempfile::TempDir) -> Self {
        for dir in ["layer", "beside", "lowers"] {
            fs::create_dir(home.path().join(dir)).unwrap();
        }
        fs::write(home.path().join("beside/secret"), "untouched").unwrap();
        let lowers = Cell::new(0);
        Self { home, lowers }
    }

    fn layer(&self) -> PathBuf {
        self.home.path().join("layer")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.layer().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A new layer below those that are there.
    fn lower(&self) -> PathBuf {
        let number = self.lowers.replace(self.lowers.get() + 1);
        let path = self.home.path().join(format!("lowers/{number:03}"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Applies a blob, and checks what must hold of every layer.
    fn apply(
        &self,
        blob: &[u8],
        whiteouts: Whiteouts,
        options: &Options<'_>,
    ) -> Result<Applied, Error> {
        let lowers = (0..self.lowers.get())
            .map(|number| File::open(self.home.path().join(format!("lowers/{number:03}"))))
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
        let layer = File::open(self.layer()).unwrap();
        let target = Target {
            layer: layer.as_fd(),
            lowers: &lowers,
            whiteouts,
        };
        let result = apply(blob, &target, options);
        assert_eq!(
            fs::read(self.home.path().join("beside/secret")).unwrap(),
            b"untouched"
        );
        assert_eq!(
            fs::read_dir(self.home.path()).unwrap().count(),
            3,
            "made beside the layer"
        );
        if let Ok(applied) = &result {
            assert_eq!(
                (applied.inodes, applied.bytes),
                usage(&self.layer()),
                "usage"
            );
        }
        result
    }

    /// Applies members to a layer of an overlay.
    fn overlay(&self, members: &[Vec<u8>]) -> Applied {
        self.apply(&archive(members), OVERLAY, &Options::default())
            .unwrap()
    }

    fn refused(&self, members: &[Vec<u8>]) -> String {
        let result = self.apply(&archive(members), OVERLAY, &Options::default());
        chain(&result.expect_err("an error"))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = members.concat();
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Inodes and bytes of a tree, as du(1) counts them.
fn usage(root: &Path) -> (u64, u64) {
    let mut seen = std::collections::HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        seen.insert(stat.ino(), stat.blocks() * 512);
        if stat.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    (seen.len() as u64, seen.values().sum())
}

#[test]
fn names_stay_in_the_layer() {
    let bench = Bench::new();
    bench.overlay(&[
        file("/absolute/a"),
        file("../../beside/b"),
        file("x/../../c"),
        directory(".."),
        directory("./"),
        symlink("out", "../../beside"),
        file("out/secret"),
        symlink("root", "/"),
        file("root/d"),
    ]);
    for path in ["absolute/a", "beside/b", "c", "beside/secret", "d"] {
        assert_eq!(bench.read(path), "content", "{path}");
    }
}

#[test]
fn symlinks_on_the_way_lead_within_the_layer() {
    let bench = Bench::new();
    bench.overlay(&[
        symlink("lib", "usr/lib"),
        file("lib/one"),
        directory("usr/lib"),
        symlink("usr/lib64", "/lib"),
        file("usr/lib64/two"),
        symlink("usr/up", "../lib/deep"),
        file("usr/up/three"),
        hard_link("again", "lib/one"),
    ]);
    for path in ["usr/lib/one", "usr/lib/two", "usr/lib/deep/three", "again"] {
        assert_eq!(bench.read(path), "content", "{path}");
    }
    assert!(bench.at("lib").symlink_metadata().unwrap().is_symlink());
    let cycle = [symlink("a", "b"), symlink("b", "a"), file("a/x")];
    assert!(bench.refused(&cycle).contains("Too many levels"));
}

#[test]
fn symlinks_of_lower_layers_are_followed_where_the_layer_has_no_entry() {
    let bench = Bench::new();
    let (upper, lower) = (bench.lower(), bench.lower());
    let link = |target: &str, at: PathBuf| std::os::unix::fs::symlink(target, at).unwrap();
    fs::create_dir_all(lower.join("usr/lib")).unwrap();
    fs::create_dir_all(lower.join("opt")).unwrap();
    link("usr/lib", lower.join("lib"));
    link("/lib", upper.join("lib64"));
    link("missing", lower.join("dangling"));
    link("usr", lower.join("opt/up"));
    link("usr", lower.join("shadowed"));
    fs::create_dir(upper.join("shadowed")).unwrap();
    link("around", lower.join("around"));
    let applied = bench.overlay(&[
        file("lib/x"),
        hard_link("lib/y", "lib/x"),
        file("lib64/z"),
        file("dangling/a"),
        file("opt/up/b"),
        directory("lib64"),
        file("lib64/c"),
        file("shadowed/d"),
    ]);
    for path in [
        "usr/lib/x",
        "usr/lib/y",
        "usr/lib/z",
        "missing/a",
        "opt/usr/b",
        "lib64/c",
        "shadowed/d",
    ] {
        assert_eq!(bench.read(path), "content", "{path}");
    }
    for path in ["lib", "dangling", "opt/up"] {
        assert!(bench.at(path).symlink_metadata().is_err(), "{path}");
    }
    let implied = applied.implied;
    assert_eq!(implied, [&b"missing"[..], b"opt/usr"].map(<[u8]>::to_vec));
    assert!(
        bench
            .refused(&[file("around/x")])
            .contains("Too many levels")
    );
}

type Maker = fn(&str) -> Vec<u8>;

#[test]
fn every_type_replaces_every_other() {
    let makers: [(&str, Maker); 5] = [
        ("file", |name| member(b'0', name.as_bytes(), b"", b"a file")),
        ("directory", directory),
        ("symlink", |name| symlink(name, "elsewhere")),
        ("fifo", |name| member(b'6', name.as_bytes(), b"", b"")),
        ("hard link", |name| hard_link(name, "target")),
    ];
    for (before, first) in &makers {
        for (after, second) in &makers {
            let bench = Bench::new();
            let mut members = vec![file("target"), first("d/x")];
            if *before == "directory" {
                members.push(file("d/x/inside/it"));
            }
            members.push(second("d/x"));
            members.push(file("d/y"));
            bench.overlay(&members);
            let stat = bench.at("d/x").symlink_metadata().unwrap();
            let found = match stat.mode() & libc::S_IFMT {
                libc::S_IFDIR => "directory",
                libc::S_IFLNK => "symlink",
                libc::S_IFIFO => "fifo",
                _ if stat.nlink() == 2 => "hard link",
                _ => "file",
            };
            assert_eq!(found, *after, "{after} over {before}");
            let kept = bench.at("d/x/inside/it").exists();
            assert_eq!(kept, *before == "directory" && *after == "directory");
            assert_eq!(bench.read("target"), "content");
        }
    }
}

#[test]
fn what_replaces_a_directory_on_the_way_is_followed() {
    let bench = Bench::new();
    bench.overlay(&[file("d/a"), directory("e"), symlink("d", "e"), file("d/b")]);
    assert_eq!(bench.read("e/b"), "content");
    assert!(!bench.at("e/a").exists());
    let below = [file("f"), file("f/x")];
    assert!(bench.refused(&below).contains("not a directory"));
}

#[test]
fn hard_links_lead_to_what_the_layer_brings() {
    let bench = Bench::new();
    let lower = bench.lower();
    fs::write(lower.join("below"), "below").unwrap();
    bench.overlay(&[
        file("d/one"),
        hard_link("two", "d/one"),
        hard_link("d/three", "/./two"),
        symlink("s", "nowhere"),
        hard_link("t", "s"),
    ]);
    let inode = |path: &str| bench.at(path).symlink_metadata().unwrap().ino();
    assert_eq!(
        (inode("two"), inode("d/three")),
        (inode("d/one"), inode("d/one"))
    );
    assert_eq!(inode("s"), inode("t"));
    for target in ["below", "d/nothing", "no/thing", "self"] {
        let error = bench.refused(&[hard_link("self", target)]);
        assert!(
            error.contains("a file that this layer does not have"),
            "{target}: {error}"
        );
    }
    let error = bench.refused(&[file(".wh.below"), hard_link("x", "below")]);
    assert!(error.contains("this layer does not have"), "{error}");
    let error = bench.refused(&[hard_link("x", "d")]);
    assert!(error.contains("Operation not permitted"), "{error}");
}

#[test]
fn directories_that_are_missing_are_told() {
    let bench = Bench::new();
    fs::create_dir_all(bench.lower().join("known/deep")).unwrap();
    let applied = bench.overlay(&[
        file("a/b/c"),
        file("known/deep/x"),
        file("known/new/x"),
        file("later/x/y"),
        directory("later"),
        file("gone/x/y"),
        file("gone"),
    ]);
    let implied: Vec<&[u8]> = applied.implied.iter().map(Vec::as_slice).collect();
    let expected: [&[u8]; 4] = [b"a", b"a/b", b"known/new", b"later/x"];
    assert_eq!(implied, expected);
}

type Files = std::collections::BTreeMap<Vec<u8>, (u64, Option<u128>)>;

#[derive(Default)]
struct Told {
    files: Mutex<Files>,
    links: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl super::DigestSink for Told {
    fn file(&self, path: &[u8], size: u64, digest: Option<u128>) {
        self.files
            .lock()
            .unwrap()
            .insert(path.to_vec(), (size, digest));
    }

    fn link(&self, path: &[u8], target: &[u8]) {
        self.links
            .lock()
            .unwrap()
            .push((path.to_vec(), target.to_vec()));
    }

    fn gone(&self, path: &[u8]) {
        let below = [path, b"/"].concat();
        let stays = |known: &[u8]| known != path && !known.starts_with(&below);
        self.files.lock().unwrap().retain(|known, _| stays(known));
    }
}

#[test]
fn file_digests_are_reported() {
    let large = vec![7; 300_000];
    let members = [
        file("d/small"),
        member(b'0', b"large", b"", &large),
        hard_link("link", "large"),
        file("twice"),
        member(b'0', b"twice", b"", b"other"),
        file("replaced/x"),
        symlink("replaced", "d"),
        hard_link("replaced/link", "replaced/small"),
    ];
    let told = Told::default();
    let options = Options {
        digests: Some(&told),
        workers: 3,
        ..Options::default()
    };
    Bench::new()
        .apply(&archive(&members), OVERLAY, &options)
        .unwrap();
    let digest = |content: &[u8]| {
        let digest = xxhash_rust::xxh3::xxh3_128(content);
        (content.len() as u64, Some(digest))
    };
    let expected = [
        (b"d/small".to_vec(), digest(b"content")),
        (b"large".to_vec(), digest(&large)),
        (b"twice".to_vec(), digest(b"other")),
    ];
    assert_eq!(told.files.into_inner().unwrap(), expected.into());
    let links = told.links.into_inner().unwrap();
    let link = |path: &str, target: &str| (path.into(), target.into());
    let expected = [link("link", "large"), link("d/link", "d/small")];
    assert_eq!(links, expected);
}
