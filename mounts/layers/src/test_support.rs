//! Helpers of the tests: random trees, listings of trees, and file systems. Mounts are made in a
//! mount namespace of the test's thread: they vanish with the thread, also when it panics.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags};
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{FileType, Mode, OFlags};

use crate::copy::next_data;
use crate::node::{self, Attributes, Identity, Kind, Xattrs};

pub(crate) mod tree;

/// Everything visible of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) permissions: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: (i64, i64),
    /// Not of symlinks: reading one cannot be kept from setting it.
    pub(crate) accessed: Option<(i64, i64)>,
    pub(crate) number: (u32, u32),
    pub(crate) xattrs: Xattrs,
    /// Content of a file, target of a symlink.
    pub(crate) content: Vec<u8>,
    /// The parts of a file that are no holes.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// The first of its names.
    pub(crate) first: PathBuf,
}

pub(crate) type Manifest = BTreeMap<PathBuf, Seen>;

/// All that can be seen of a tree.
pub(crate) fn manifest(root: &Path) -> Manifest {
    // Until they are on the disk, xfs takes blocks it has only set aside for data.
    let open = fs::File::open(root).expect("a directory");
    rustix::fs::syncfs(&open).expect("sync");
    let mut seen = Manifest::new();
    let mut known = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::open(root.join(&path), flags, Mode::empty()) {
            // An overlay lists whiteouts in directories that lie in one layer only.
            Err(rustix::io::Errno::NOENT) => continue,
            other => other.expect("a file"),
        };
        let file = see(found.as_fd(), &path, &mut known);
        if file.kind == Kind::Directory {
            let names = node::read_dir(found.as_fd()).expect("a directory");
            let names = names.map(|entry| entry.expect("an entry").file_name().to_owned());
            let mut names: Vec<_> = names
                .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
                .collect();
            names.sort();
            todo.extend(
                names
                    .iter()
                    .map(|name| path.join(OsStr::from_bytes(name.to_bytes()))),
            );
        }
        seen.insert(path, file);
    }
    group(&mut seen, &known);
    seen
}

fn see(file: BorrowedFd<'_>, path: &Path, known: &mut BTreeMap<Identity, Vec<PathBuf>>) -> Seen {
    let stat = node::stat(file).expect("stat");
    let mut xattrs = node::xattrs(file).expect("xattrs");
    xattrs.sort();
    let (mut content, mut pieces) = (Vec::new(), Vec::new());
    match stat.kind() {
        Kind::Symlink => {
            let target = rustix::fs::readlinkat(file, c"", Vec::new()).expect("a target");
            content = target.into_bytes();
        }
        Kind::Regular => {
            let open = node::reopen(file).expect("open");
            forget(open.as_fd());
            let mut at = 0;
            while let Some((start, end)) = next_data(open.as_fd(), at, stat.size).expect("seek") {
                pieces.push((start, end));
                at = end;
            }
            rustix::fs::seek(&open, rustix::fs::SeekFrom::Start(0)).expect("seek");
            let mut open = fs::File::from(open);
            std::io::copy(&mut open, &mut content).expect("read");
            forget(open.as_fd());
        }
        _ => {}
    }
    known
        .entry(stat.identity())
        .or_default()
        .push(path.to_owned());
    let accessed = (stat.accessed.tv_sec, stat.accessed.tv_nsec);
    Seen {
        kind: stat.kind(),
        permissions: stat.permissions(),
        owner: (stat.uid, stat.gid),
        modified: (stat.modified.tv_sec, stat.modified.tv_nsec),
        accessed: (stat.kind() != Kind::Symlink).then_some(accessed),
        number: stat.number,
        xattrs,
        content,
        pieces,
        first: path.to_owned(),
    }
}

/// Has the kernel forget what it holds of a file: to xfs, zeros that it holds are data.
fn forget(file: BorrowedFd<'_>) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

fn group(seen: &mut Manifest, known: &BTreeMap<Identity, Vec<PathBuf>>) {
    for names in known.values() {
        let first = names.iter().min().expect("a name").clone();
        for name in names {
            if let Some(seen) = seen.get_mut(name) {
                seen.first = first.clone();
            }
        }
    }
}

/// Compares two trees and names the first difference.
pub(crate) fn assert_same(source: &Manifest, copy: &Manifest) {
    let names = |manifest: &Manifest| manifest.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(source), names(copy), "other names");
    for (path, seen) in source {
        let (mut seen, mut other) = (seen.clone(), copy[path].clone());
        if seen.content != other.content {
            let at = seen
                .content
                .iter()
                .zip(&other.content)
                .position(|(a, b)| a != b);
            panic!("{path:?}: content differs at {at:?}");
        }
        seen.content.clear();
        other.content.clear();
        assert_eq!(seen, other, "{path:?} differs");
    }
}

/// Leaves out of a manifest what an archive need not keep.
pub(crate) fn without(mut manifest: Manifest, forget: impl Fn(&mut Seen)) -> Manifest {
    manifest.values_mut().for_each(forget);
    manifest
}

/// Runs `check` on `cases` random values; the seed is fixed, so a failure comes again.
pub(crate) fn for_random<S: proptest::strategy::Strategy>(
    cases: u32,
    strategy: &S,
    check: impl Fn(S::Value),
) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..Config::default()
    };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(strategy, |value| {
        check(value);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Gives this thread, and what it starts from here on, a mount namespace of its own and the usual umask.
pub(crate) fn enter_private_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .expect("this test mounts file systems: run it as root");
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .expect("root may make its mounts private");
    set_umask();
}

/// Gives the files that this thread and what it starts make the usual modes, whatever the umask of
/// who runs the tests.
pub(crate) fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// Fails unless this is root, who alone may make devices and give files away.
pub(crate) fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes devices: run it as root"
    );
}

/// A file system of its own in a file, mounted. Call [`enter_private_mounts`] first.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Made by `mkfs.KIND`.
    pub(crate) fn new(kind: &str, mib: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (image, path) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::File::create(&image)
            .expect("a file")
            .set_len(mib << 20)
            .expect("a sparse file");
        fs::create_dir(&path).expect("a directory");
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), image.as_ref()]);
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_ref(),
                path.as_ref(),
            ],
        );
        Self { folder }
    }

    /// A new directory on it.
    pub(crate) fn dir(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.folder.path().join("mounted")).expect("a directory")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.folder.path().join("mounted");
        // A program that another test starts holds our descriptors until it runs.
        for _ in 0..100 {
            match nix::mount::umount2(&path, MntFlags::empty()) {
                Err(nix::errno::Errno::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                other => return other.expect("unmount"),
            }
        }
        // Never delete through a mount.
        let _ = nix::mount::umount2(&path, MntFlags::MNT_DETACH);
        assert!(std::thread::panicking(), "something keeps the disk busy");
    }
}

/// An overlay of layers, topmost first, mounted read-only until dropped.
pub(crate) struct Merged {
    folder: tempfile::TempDir,
}

impl Merged {
    pub(crate) fn new(layers: &[PathBuf]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| layer.to_str().expect("text"))
            .collect();
        let options = format!("lowerdir={}", layers.join(":"));
        let read_only = MsFlags::MS_RDONLY;
        nix::mount::mount(
            Some("overlay"),
            folder.path(),
            Some("overlay"),
            read_only,
            Some(&*options),
        )
        .expect("mount an overlay");
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs a program of the system; what it says on standard output.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs `{program}`: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

/// Makes a node of any type with a mode.
pub(crate) fn make_node(path: &Path, kind: FileType, number: (u32, u32)) {
    let mode = Mode::RUSR | Mode::WUSR;
    let number = rustix::fs::makedev(number.0, number.1);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, number).expect("mknod");
}

/// Gives attributes to a file that is there.
pub(crate) fn give(path: &Path, change: impl FnOnce(&mut Attributes)) {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).expect("a file");
    let stat = node::stat(file.as_fd()).expect("stat");
    let mut attributes = Attributes::of(&stat, Vec::new());
    change(&mut attributes);
    attributes.give(file.as_fd()).expect("attributes");
}

pub(crate) fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}
