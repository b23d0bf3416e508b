//! Names of the store's folder that stand for anything but a file, as a power cut may leave them where there
//! is no journal, or a person: opening neither hangs nor reads or writes through them, and names them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    missing_docs,
    reason = "a test crate"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use layerd_store::{Error, Export, Kind, Record, Store};
use tempfile::TempDir;

use common::{all, create, open};

/// What a name may stand for, besides a file.
#[derive(Debug, Clone, Copy)]
enum Stranger {
    Symlink,
    Fifo,
    Directory,
    /// A directory that holds something.
    FullDirectory,
}

const ALL: [Stranger; 4] = [
    Stranger::Symlink,
    Stranger::Fifo,
    Stranger::Directory,
    Stranger::FullDirectory,
];

impl Stranger {
    /// Takes the place of a file. A symlink leads to `other`, which holds what the file held.
    fn replace(self, path: &Path, other: &Path) {
        fs::rename(path, other).unwrap();
        match self {
            Self::Symlink => symlink(other, path).unwrap(),
            Self::Fifo => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::FullDirectory => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("inside"), "kept").unwrap();
            }
        }
    }
}

/// A store that was closed in order, with an export.
fn closed() -> (TempDir, Vec<Record>) {
    let root = TempDir::new().unwrap();
    let store = open(root.path()).unwrap();
    for n in 0..5 {
        create(&store, &format!("a{n}"), None, Kind::Active).unwrap();
    }
    let records = all(&store);
    drop(store);
    (root, records)
}

/// Paths of its files, below its folder.
fn files(folder: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => files(folder, &path, found),
            false => found.push(path),
        }
    }
}

fn copy_of(root: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(root.join(".")).arg(copy.path());
    assert!(cp.status().unwrap().success());
    copy
}

/// Does what must not hang.
fn in_time<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, done) = channel();
    thread::spawn(move || send.send(act()));
    let done = done.recv_timeout(Duration::from_secs(100));
    done.unwrap_or_else(|cause| panic!("{what}: {cause}"))
}

/// Opens the store, after a restore from its export if it is damaged. Answers the first error.
fn open_or_restore(folder: &Path) -> (Result<Store, Error>, Option<Error>) {
    match open(folder) {
        Err(damage @ Error::Damaged { .. }) => {
            let export = Store::newest_copy(folder).unwrap();
            let restored = match export {
                Some(export) => Store::restore(folder, &export, &[]),
                None => return (open(folder), Some(damage)),
            };
            let opened = restored.and_then(|()| open(folder));
            (opened, Some(damage))
        }
        opened => (opened, None),
    }
}

/// The store's own folders are no symlinks: files of others would be written over.
#[test]
fn folders_of_others_behind_symlinks_are_left_alone() {
    let other = TempDir::new().unwrap();
    for name in ["conf", "db", "lock", "format", "sequence"] {
        fs::write(other.path().join(name), "another's").unwrap();
    }
    let (root, _) = closed();
    let linked = root.path().join("linked");
    symlink(other.path(), &linked).unwrap();
    let error = open(&linked).unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains("it is a symlink, and no folder"), "{error}");
    let (db, aside) = (root.path().join("db"), TempDir::new().unwrap());
    fs::rename(&db, aside.path().join("db")).unwrap();
    fs::rename(&linked, &db).unwrap();
    let (opened, first) = open_or_restore(root.path());
    let error = first.unwrap().to_string();
    assert!(error.contains("it is a symlink, and no folder"), "{error}");
    drop(opened.unwrap());
    let mut left = Vec::new();
    files(other.path(), Path::new(""), &mut left);
    assert_eq!(left.len(), 5, "{left:?}");
    for name in left {
        assert_eq!(fs::read(other.path().join(name)).unwrap(), b"another's");
    }
}

#[test]
fn what_is_no_file_neither_hangs_nor_is_written_through() {
    let (whole, records) = closed();
    let mut names = Vec::new();
    files(whole.path(), Path::new(""), &mut names);
    for wanted in ["lock", "sequence", "db/journal", "db/db", "db/conf"] {
        assert!(names.contains(&PathBuf::from(wanted)), "{names:?}");
    }
    assert!(Export::newest(whole.path()).unwrap().is_some());
    let mut bad = Vec::new();
    for name in &names {
        for stranger in ALL {
            let what = format!("{} is {stranger:?}", name.display());
            let (root, aside) = (copy_of(whole.path()), TempDir::new().unwrap());
            let (path, other) = (root.path().join(name), aside.path().join("other"));
            stranger.replace(&path, &other);
            let before = fs::read(&other).unwrap();
            let folder = root.path().to_owned();
            let (opened, damage) = in_time(&what, move || open_or_restore(&folder));
            let mut named = |error: &Error| {
                let error = error as &dyn std::error::Error;
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                let said = format!("{error}: {cause}");
                let name = name.file_name().unwrap().to_str().unwrap();
                if !said.contains(name) {
                    bad.push(format!("{what}: {said}"));
                }
            };
            damage.iter().for_each(&mut named);
            match opened {
                Ok(store) if all(&store) == records => {}
                Ok(store) => bad.push(format!("{what}: it has {:?}", all(&store))),
                Err(error) => named(&error),
            }
            if fs::read(&other).unwrap() != before {
                bad.push(format!("{what}: written through"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn an_export_that_is_no_file_is_passed_over() {
    let (root, _) = closed();
    let whole = Export::newest(root.path()).unwrap().unwrap();
    let fifo = root.path().join("export.999999");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let folder = root.path().to_owned();
    let (found, bad) = in_time("a FIFO for an export", move || {
        let bad = Export::read_own(&fifo).unwrap_err().to_string();
        (Export::newest(&folder).unwrap().unwrap(), bad)
    });
    assert_eq!(found.path, whole.path);
    assert!(bad.contains("a FIFO"), "{bad}");
}
