//! Deletions in the names that AUFS gives them. No kernel here has it, so that a model of how it looks
//! names up takes its place (Documentation of aufs, "Whiteout" and "Opaque directory").

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::Strategy;
use proptest::sample::select;

use super::*;
use crate::copy::{self, copy_tree};
use crate::diff::{DiffCompression, DiffOptions, diff};
use crate::layering::Layering;
use crate::test_support::for_random;

const AUFS: Whiteouts = Whiteouts::Devices(Markers::Aufs);

/// Paths with their content; `/` for a directory.
type Shown = BTreeMap<String, String>;

/// Tree that AUFS shows of branches, given from the topmost down.
fn mounted(branches: &[PathBuf]) -> Shown {
    let mut shown = Shown::new();
    merge(branches, "", &mut shown);
    shown
}

fn merge(dirs: &[PathBuf], path: &str, shown: &mut Shown) {
    let mut merged: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut closed = BTreeSet::new();
    for dir in dirs {
        let names = fs::read_dir(dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let (notes, names): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with(".wh."));
        for name in names {
            assert!(
                !notes.contains(&format!(".wh.{name}")),
                "{path}{name} is there and deleted in {}",
                dir.display()
            );
            if closed.contains(&name) {
                continue;
            }
            let at = dir.join(&name);
            if !at.is_dir() {
                if let std::collections::btree_map::Entry::Vacant(place) =
                    merged.entry(name.clone())
                {
                    place.insert(vec![at]);
                }
                closed.insert(name);
                continue;
            }
            if at.join(".wh..wh..opq").exists() {
                closed.insert(name.clone());
            }
            merged.entry(name).or_default().push(at);
        }
        let deleted = notes.iter().filter(|note| !note.starts_with(".wh..wh."));
        closed.extend(deleted.map(|note| note[4..].to_owned()));
    }
    for (name, all) in merged {
        let path = format!("{path}{name}");
        if all[0].is_dir() {
            shown.insert(path.clone(), "/".to_owned());
            merge(&all, &format!("{path}/"), shown);
        } else {
            shown.insert(path, fs::read_to_string(&all[0]).unwrap());
        }
    }
}

/// A tree as it is.
fn plain(root: &Path) -> Shown {
    let mut shown = Shown::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let inside = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.is_dir() {
                shown.insert(inside, "/".to_owned());
                todo.push(path);
            } else {
                shown.insert(inside, fs::read_to_string(&path).unwrap());
            }
        }
    }
    shown
}

/// Layers one on the other.
struct Layers {
    home: tempfile::TempDir,
    /// Topmost first.
    all: Vec<PathBuf>,
}

impl Layers {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self {
            home,
            all: Vec::new(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn open(all: &[PathBuf]) -> Vec<File> {
        all.iter().map(|path| File::open(path).unwrap()).collect()
    }

    /// Unpacks a layer on top of the others, the lowest as the engine does.
    fn unpack(&mut self, members: &[Vec<u8>]) -> Applied {
        let path = self.dir(&self.all.len().to_string());
        let lowers = Self::open(&self.all);
        let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
        let layer = File::open(&path).unwrap();
        let target = Target {
            layer: layer.as_fd(),
            lowers: &lowers,
            whiteouts: if lowers.is_empty() {
                Whiteouts::Delete
            } else {
                AUFS
            },
        };
        let applied = apply(&*archive(members), &target, &Options::default()).unwrap();
        assert_eq!((applied.inodes, applied.bytes), usage(&path), "usage");
        self.all.insert(0, path);
        applied
    }

    /// The copy that fills a volume.
    fn copied(&self) -> Shown {
        let to = self.dir("copy");
        let all = Self::open(&self.all);
        let all: Vec<_> = all.iter().map(AsFd::as_fd).collect();
        let options = copy::Options {
            markers: Markers::Aufs,
            ..copy::Options::default()
        };
        let open = File::open(&to).unwrap();
        copy_tree(&all, Path::new(""), open.as_fd(), &options).unwrap();
        plain(&to)
    }

    /// The archive of the topmost layer's changes.
    fn packed(&self) -> Vec<u8> {
        let all = Self::open(&self.all);
        let all: Vec<_> = all.iter().map(AsFd::as_fd).collect();
        let options = DiffOptions {
            compression: DiffCompression::None,
            layering: Layering::Diff(Markers::Aufs),
            ..DiffOptions::default()
        };
        let mut packed = Vec::new();
        diff(all[0], &all[1..], &options, &mut packed).unwrap();
        packed
    }

    /// All that is at the path of a layer is a name of a regular file or directory.
    fn entries(&self, layer: usize) -> Vec<String> {
        plain(&self.all[layer]).into_keys().collect()
    }
}

#[test]
fn deletions_have_names() {
    let mut layers = Layers::new();
    layers.unpack(&[
        file("gone"),
        file("d/old"),
        file("d/s/old"),
        file("back"),
        file("b/in"),
        file("implied/in"),
        file("kept"),
    ]);
    layers.unpack(&[
        file(".wh.gone"),
        file("d/new"),
        file("d/.wh..wh..opq"),
        file(".wh.back"),
        file("back"),
        file(".wh.b"),
        directory("b"),
        file(".wh.implied"),
        file("implied/new"),
        file(".wh.never"),
        file(".wh..wh.plnk"),
    ]);
    let wanted = [
        ".wh.gone",
        "b",
        "b/.wh..wh..opq",
        "back",
        "d",
        "d/.wh..wh..opq",
        "d/new",
        "implied",
        "implied/.wh..wh..opq",
        "implied/new",
    ];
    assert_eq!(layers.entries(0), wanted);
    let note = fs::metadata(layers.all[0].join(".wh.gone")).unwrap();
    assert!(note.is_file() && note.len() == 0);
    assert_eq!(note.mode() & 0o222, 0, "as AUFS makes it");
    let shown = mounted(&layers.all);
    let names: Vec<_> = shown.keys().map(String::as_str).collect();
    let wanted = ["b", "back", "d", "d/new", "implied", "implied/new", "kept"];
    assert_eq!(names, wanted);
    assert_eq!(layers.copied(), shown);
}

/// A second archive for the same layer finds the notes of the first.
#[test]
fn a_layer_may_be_unpacked_in_parts() {
    let mut layers = Layers::new();
    layers.unpack(&[file("a/x"), file("b/x"), file("c"), file("d/x")]);
    layers.unpack(&[file(".wh.a"), file(".wh.b"), file(".wh.c"), file("d/.wh.x")]);
    let target = layers.all.remove(0);
    let (lowers, layer) = (Layers::open(&layers.all), File::open(&target).unwrap());
    let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
    let to = Target {
        layer: layer.as_fd(),
        lowers: &lowers,
        whiteouts: AUFS,
    };
    let members = [directory("a"), file("b/new"), file("c"), file("d/x")];
    let applied = apply(&*archive(&members), &to, &Options::default()).unwrap();
    assert_eq!((applied.inodes, applied.bytes), usage(&target));
    layers.all.insert(0, target);
    let shown = mounted(&layers.all);
    let names: Vec<_> = shown.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "b/new", "c", "d", "d/x"]);
}

/// A layer that AUFS wrote to, with the files that it keeps for itself.
#[test]
fn changes_of_a_branch_are_packed() {
    let mut layers = Layers::new();
    layers.unpack(&[
        file("gone"),
        file("d/old"),
        file("d/kept"),
        file("o/hidden"),
    ]);
    let branch = layers.dir("branch");
    for dir in ["d", "o", ".wh..wh.plnk", ".wh..wh.orph"] {
        fs::create_dir(branch.join(dir)).unwrap();
    }
    for name in [
        ".wh..wh.aufs",
        ".wh.gone",
        ".wh.never",
        "d/.wh.old",
        "d/new",
        "o/.wh..wh..opq",
        "o/new",
        ".wh..wh.plnk/12.34",
    ] {
        fs::write(
            branch.join(name),
            if name.contains("new") { "new" } else { "" },
        )
        .unwrap();
    }
    layers.all.insert(0, branch);
    let shown = mounted(&layers.all);
    let names: Vec<_> = shown.keys().map(String::as_str).collect();
    assert_eq!(names, ["d", "d/kept", "d/new", "o", "o/new"]);
    assert_eq!(layers.copied(), shown);
    let packed = layers.packed();
    let mut reader = crate::tar::Reader::new(&packed[..]);
    let mut paths = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        paths.push(String::from_utf8(entry.path).unwrap());
    }
    let wanted = [
        ".wh.gone",
        "d/",
        "d/new",
        "d/.wh.old",
        "o/",
        "o/.wh.hidden",
        "o/new",
    ];
    let sorted = |paths: Vec<String>| paths.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(sorted(paths), sorted(wanted.map(str::to_owned).to_vec()));
    layers.all.remove(0);
    layers.unpack_blob(&packed);
    assert_eq!(
        mounted(&layers.all),
        shown,
        "unpacked again, it shows the same"
    );
}

impl Layers {
    fn unpack_blob(&mut self, blob: &[u8]) {
        let path = self.dir("again");
        let lowers = Self::open(&self.all);
        let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
        let layer = File::open(&path).unwrap();
        let target = Target {
            layer: layer.as_fd(),
            lowers: &lowers,
            whiteouts: AUFS,
        };
        apply(blob, &target, &Options::default()).unwrap();
        self.all.insert(0, path);
    }
}

/// One entry of a random archive: directories and files never have each other's names.
fn path_of() -> impl Strategy<Value = &'static str> {
    let names = [
        "d/",
        "e/",
        "d/s/",
        "d/",
        "d/s/",
        "f",
        "d/f",
        "d/s/f",
        "e/f",
        "e/g",
        ".wh.d",
        ".wh.e",
        "d/.wh.s",
        ".wh.f",
        "d/.wh.f",
        "d/s/.wh.f",
        "e/.wh.f",
        "e/.wh.g",
        "d/.wh..wh..opq",
        "e/.wh..wh..opq",
        "d/s/.wh..wh..opq",
    ];
    select(names.to_vec())
}

fn members(paths: &[&str]) -> Vec<Vec<u8>> {
    let member = |path: &&str| match path.strip_suffix('/') {
        Some(dir) => directory(dir),
        None => file(path),
    };
    paths.iter().map(member).collect()
}

/// Compares a stack with the same layers unpacked into one directory, one after the other; changes that
/// are packed and unpacked again show the same.
#[test]
fn any_stack_shows_what_its_layers_say() {
    for_random(200, &vec(vec(path_of(), 0..8), 1..5), |archives| {
        let mut layers = Layers::new();
        let flat = layers.dir("flat");
        let open = File::open(&flat).unwrap();
        let target = Target {
            layer: open.as_fd(),
            lowers: &[],
            whiteouts: Whiteouts::Delete,
        };
        for paths in &archives {
            layers.unpack(&members(paths));
            // Executed at once, a deletion takes what its own layer brought only if that is implied.
            let mut ordered = paths.clone();
            let is_file = |path: &&str| !path.contains(".wh.");
            ordered.sort_by_key(|path| (is_file(path), path.matches('/').count()));
            apply(&*archive(&members(&ordered)), &target, &Options::default()).unwrap();
        }
        let shown = mounted(&layers.all);
        assert_eq!(shown, plain(&flat), "{:?}", layers.entries(0));
        if layers.all.len() > 1 {
            assert_eq!(layers.copied(), shown);
            let packed = layers.packed();
            layers.all.remove(0);
            layers.unpack_blob(&packed);
            assert_eq!(mounted(&layers.all), shown, "packed and unpacked");
        }
    });
}
