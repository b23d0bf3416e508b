//! Files of a store's folder that are lost, cut, zeroed or put back, one and two at a time: either all
//! acknowledged records are there, or the store says that it is damaged.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    missing_docs,
    reason = "a test crate"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use layerd_store::{Error, Export, Kind, Record, Store};
use tempfile::TempDir;

use common::{all, create, key, open};

/// Content of each file of a folder, by its path, as a kill leaves it.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image_of(folder: &Path) -> Image {
    let mut image = Image::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "reserve" {
                let content = fs::read(&path).unwrap();
                image.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            }
        }
    }
    image
}

fn lay_out(image: &Image) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, content) in image {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

/// A store at two moments, and the records of the later one.
struct History {
    older: Image,
    newer: Image,
    records: Vec<Record>,
}

fn wait_for_export(root: &Path, above: u64) {
    let began = Instant::now();
    let newest = || Export::newest(root).unwrap();
    while newest().is_none_or(|export| export.sequence() <= above) {
        assert!(began.elapsed() < Duration::from_secs(20), "no export");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A store that is killed after so many commits since the older moment, the last of them not exported.
fn history(commits: u32) -> History {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    let make = |store: &Store, name: String| create(store, &name, None, Kind::Active).unwrap();
    for n in 0..5 {
        make(&store, format!("a{n}"));
    }
    wait_for_export(root.path(), 0);
    let older = image_of(root.path());
    for n in 0..commits {
        make(&store, format!("b{n}"));
        if n % 3 == 0 {
            store.remove(&key(&format!("b{n}"))).unwrap();
        }
    }
    wait_for_export(root.path(), store.records().sequence() - 1);
    for n in 0..5 {
        make(&store, format!("c{n}"));
    }
    let records = all(&store);
    let newer = image_of(root.path());
    History {
        older,
        newer,
        records,
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Removed,
    Empty,
    Cut,
    ZeroedFromAPageOn,
    ZeroedFromTheMiddleOn,
    Older,
}

const FAULTS: [Fault; 6] = [
    Fault::Removed,
    Fault::Empty,
    Fault::Cut,
    Fault::ZeroedFromAPageOn,
    Fault::ZeroedFromTheMiddleOn,
    Fault::Older,
];

/// Those of which pairs are made.
const PAIRED: [Fault; 3] = [Fault::Removed, Fault::ZeroedFromAPageOn, Fault::Older];

impl Fault {
    /// False if it would change nothing.
    fn inject(self, image: &mut Image, path: &Path, older: &Image) -> bool {
        let Some(content) = image.get_mut(path) else {
            return false;
        };
        let before = content.clone();
        let half = before.len() / 2;
        match self {
            Self::Removed => return image.remove(path).is_some(),
            Self::Empty => content.clear(),
            Self::Cut => content.truncate(half),
            // Files of less than a page are all zeros then.
            Self::ZeroedFromAPageOn if half < 4096 => content.fill(0),
            Self::ZeroedFromAPageOn => content[4096..].fill(0),
            Self::ZeroedFromTheMiddleOn => content[half + half / 9..].fill(0),
            Self::Older => match older.get(path) {
                Some(old) => content.clone_from(old),
                None => return false,
            },
        }
        *content != before
    }
}

/// Opens the folder, and says which records are wrong then, if any are.
fn verdict(image: &Image, records: &[Record]) -> Result<(), String> {
    let root = lay_out(image);
    match open(root.path()) {
        Ok(store) if all(&store) == records => Ok(()),
        Ok(_) => Err("served with other records".to_owned()),
        Err(Error::Damaged { .. }) => {
            let [before, left] = [image.clone(), image_of(root.path())].map(|mut image| {
                image.remove(Path::new("lock"));
                image
            });
            let is_same = before == left;
            is_same
                .then_some(())
                .ok_or("damage was written over".to_owned())
        }
        Err(other) => Err(other.to_string()),
    }
}

fn assert_all_or_damaged(history: &History, cases: impl Iterator<Item = (Image, String)>) {
    let verdicts = cases.map(|(image, what)| (verdict(&image, &history.records), what));
    let bad: Vec<_> = verdicts
        .filter_map(|(verdict, what)| Some(format!("{what}: {}", verdict.err()?)))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

impl History {
    fn singles(&self) -> impl Iterator<Item = (Image, String)> {
        let each = self.newer.keys();
        let each = each.flat_map(|path| FAULTS.map(|fault| (path, fault)));
        each.filter_map(|(path, fault)| {
            let mut left = self.newer.clone();
            let is_other = fault.inject(&mut left, path, &self.older);
            is_other.then(|| (left, format!("{} {fault:?}", path.display())))
        })
    }

    /// Each two of the files, with each two faults.
    fn pairs<'h>(&'h self, files: &'h [&'h Path]) -> impl Iterator<Item = (Image, String)> {
        let pairs = (0..files.len()).flat_map(|at| (0..at).map(move |before| (before, at)));
        let faults = PAIRED
            .into_iter()
            .flat_map(|one| PAIRED.map(|two| (one, two)));
        let all = pairs.flat_map(move |pair| faults.clone().map(move |faults| (pair, faults)));
        all.filter_map(|((first, second), (one, two))| {
            let (first, second) = (files[first], files[second]);
            let mut left = self.newer.clone();
            let is_other = one.inject(&mut left, first, &self.older)
                && two.inject(&mut left, second, &self.older);
            let name = || {
                let (first, second) = (first.display(), second.display());
                format!("{first} {one:?}, {second} {two:?}")
            };
            is_other.then(|| (left, name()))
        })
    }
}

/// All commits of the process are in the write-ahead log alone.
#[test]
fn a_file_lost_before_a_checkpoint_is_noticed() {
    let history = history(20);
    assert_all_or_damaged(&history, history.singles());
}

/// The log was turned over, and sled has part of the commits.
#[test]
fn a_file_lost_after_a_checkpoint_is_noticed() {
    let history = history(300);
    assert_all_or_damaged(&history, history.singles());
}

#[test]
fn two_files_lost_before_a_checkpoint_are_noticed() {
    let history = history(20);
    let files: Vec<_> = history.newer.keys().map(PathBuf::as_path).collect();
    assert_all_or_damaged(&history, history.pairs(&files));
}

#[test]
fn two_files_lost_after_a_checkpoint_are_noticed() {
    let history = history(300);
    let files = ["db/db", "db/journal", "sequence", "lock"].map(Path::new);
    assert_all_or_damaged(&history, history.pairs(&files));
}

/// Records that no export has are in the damaged database still, which only cannot vouch for its end.
#[test]
fn a_restore_takes_what_a_damaged_database_holds() {
    let history = history(20);
    let lose = |paths: &[&str]| {
        let mut left = history.newer.clone();
        for path in paths {
            assert!(left.remove(Path::new(path)).is_some(), "{path}");
        }
        lay_out(&left)
    };
    let root = lose(&["sequence"]);
    assert!(matches!(open(root.path()), Err(Error::Damaged { .. })));
    let copy = Store::newest_copy(root.path()).unwrap().unwrap();
    assert!(!copy.path.to_string_lossy().contains("export"), "{copy:?}");
    Store::restore(root.path(), &copy, &[]).unwrap();
    assert_eq!(all(&open(root.path()).unwrap()), history.records);

    // Without its log it is older than the newest export.
    let root = lose(&["sequence", "db/journal"]);
    assert!(matches!(open(root.path()), Err(Error::Damaged { .. })));
    let copy = Store::newest_copy(root.path()).unwrap().unwrap();
    assert!(copy.path.to_string_lossy().contains("export"), "{copy:?}");
    Store::restore(root.path(), &copy, &[]).unwrap();
    let back = all(&open(root.path()).unwrap());
    assert_eq!(
        back.len(),
        history.records.len() - 5,
        "the last five are newer"
    );
}
