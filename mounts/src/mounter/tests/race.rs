//! Exchanges of directories for symlinks while they are attached. None may lead out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::Ground;
use crate::mounter::{
    BindOptions, DetachMode, Detached, Handle, MountError, Mounter, NewSource, Symlinks, Want,
};
use crate::test_support::{LoopDisk, enter_private_mounts};

/// Tells the good directories from the rest.
struct Field {
    ground: Ground,
    volume: PathBuf,
    /// Inodes that an attachment may show.
    good: Vec<u64>,
    stop: AtomicBool,
    swaps: AtomicU64,
    /// Attackers that have met both sides of an exchange.
    content: AtomicU64,
}

/// Attackers in a race.
const ATTACKERS: u64 = 3;

/// Ends the race when an attacker has failed, instead of waiting for it to be content.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Outcomes of the attempts.
#[derive(Debug, Default)]
struct Tally {
    good: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Field {
    /// `volume/a/b` is good; `volume/evil`, `volume/a/evil` and `moved/evil` lead to a canary.
    fn new(ground: Ground) -> Self {
        let volume = ground.dir("volume");
        let outside = ground.dir("outside");
        fs::write(outside.join("canary"), "secret").expect("write");
        fs::write(ground.dir("outside/b").join("canary"), "secret").expect("write");
        let inner = ground.dir("volume/a/b");
        fs::write(inner.join("good"), "").expect("write");
        symlink(&outside, volume.join("evil")).expect("symlink");
        symlink("../../outside/b", volume.join("a/evil")).expect("symlink");
        // A directory that is moved out of the volume and back, so that `..` leads out.
        ground.dir("volume/c/d");
        fs::write(ground.dir("moved").join("canary"), "secret").expect("write");
        fs::write(ground.disk.path().join("canary"), "secret").expect("write");
        let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
        let good = vec![inode(&inner), inode(&volume.join("c")), inode(&volume)];
        Self {
            ground,
            volume,
            good,
            stop: AtomicBool::new(false),
            swaps: AtomicU64::new(0),
            content: AtomicU64::new(0),
        }
    }

    /// Exchanges the three pairs in turn.
    fn swap(&self, swaps: u64) {
        let pairs = [
            (self.volume.join("a"), self.volume.join("evil")),
            (
                self.volume.join("c/d"),
                self.ground.disk.path().join("moved"),
            ),
        ];
        let deep = [self.volume.join("a/b"), self.volume.join("a/evil")];
        let swap = |one: &Path, other: &Path| {
            let done = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
            done.expect("both are there");
            self.swaps.fetch_add(1, Ordering::Relaxed);
        };
        let more = || {
            self.swaps.load(Ordering::Relaxed) < swaps
                || self.content.load(Ordering::Relaxed) < ATTACKERS
        };
        while more() && !self.stop.load(Ordering::Relaxed) {
            for (one, other) in &pairs {
                swap(one, other);
                swap(one, other);
            }
            // Only while `a` is the directory.
            swap(&deep[0], &deep[1]);
            swap(&deep[0], &deep[1]);
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Attaches what `open` finds, looks for the canary, detaches, until the swaps are done.
    fn attack(
        &self,
        target: &Path,
        mut open: impl FnMut(u64) -> Result<Option<Handle>, MountError>,
    ) -> Tally {
        let _stop = StopOnPanic(&self.stop);
        let mut tally = Tally::default();
        let mut turn = 0;
        let mut content = false;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            match open(turn) {
                Ok(found) => {
                    if let Some(found) = found {
                        self.inspect(found, target);
                    }
                    tally.good += 1;
                }
                Err(error) => *tally.refused.entry(name(&error)).or_default() += 1,
            }
            if !content && tally.good > 0 && tally.refused.contains_key("symlink") {
                content = true;
                self.content.fetch_add(1, Ordering::Relaxed);
            }
        }
        tally
    }

    /// Only looks, which is quicker, so that it meets more moments of an exchange.
    fn look(&self, found: &Handle) {
        let known = self.good.contains(&found.inode());
        assert!(known, "inode {} was opened", found.inode());
    }

    fn inspect(&self, found: Handle, target: &Path) {
        let tree = self.ground.mounter.bind(&found, &BindOptions::default());
        drop(found);
        let attached = self.ground.attach(tree.expect("bind"), target);
        let escaped = target.join("canary").exists();
        let known = self.good.contains(&attached.inode);
        let gone = self
            .ground
            .mounter
            .detach(target, &attached, DetachMode::Lazy);
        assert_eq!(gone.expect("detach"), Detached::Now);
        assert!(!escaped, "the canary is seen through an attachment");
        assert!(known, "inode {} was attached", attached.inode);
    }
}

fn name(error: &MountError) -> &'static str {
    match error {
        MountError::Symlink { .. } => "symlink",
        MountError::Escape { .. } => "escape",
        MountError::Raced { .. } => "raced",
        MountError::Missing { .. } => "missing",
        MountError::NotADirectory { .. } => "not a directory",
        other => unreachable!("{other}: {:?}", other.errno()),
    }
}

/// Lets three attackers loose on a field while it is being swapped.
fn race(ground: Ground, swaps: u64) {
    let field = &Field::new(ground);
    let volume = &field.ground.open(&field.volume);
    let mounter = &field.ground.mounter;
    let targets = ["t0", "t1"].map(|name| field.ground.dir(name));
    let ways = ["a/b", "a/b/../b", "c/d/..", "c/d/../../a/b"];
    let resolve = |turn| {
        let way = ways[usize::try_from(turn).unwrap_or(0) % ways.len()];
        mounter.resolve(volume, Path::new(way), Want::Directory)
    };
    let resolve = &resolve;
    let tallies = std::thread::scope(|scope| {
        let lookups = scope.spawn(|| {
            field.attack(Path::new("/"), |turn| {
                resolve(turn).map(|found| {
                    field.look(&found);
                    None
                })
            })
        });
        let subpaths = scope.spawn(|| field.attack(&targets[0], |turn| resolve(turn).map(Some)));
        let sources = scope.spawn(|| {
            let path = field.volume.join("a/b");
            field.attack(&targets[1], |_| {
                mounter.open_source(&path, Symlinks::Refuse).map(Some)
            })
        });
        scope.spawn(|| field.swap(swaps));
        [lookups, subpaths, sources].map(|thread| thread.join().expect("no escape"))
    });
    println!("{} swaps: {tallies:?}", field.swaps.load(Ordering::Relaxed));
    assert!(field.swaps.load(Ordering::Relaxed) >= swaps);
    let left = mounter.mounts_below(field.ground.disk.path());
    assert_eq!(left.expect("list"), []);
}

/// A symlink is planted where a directory is about to be made.
#[test]
fn root_nothing_is_made_where_a_planted_symlink_leads() {
    const ROUNDS: u32 = 20_000;
    let ground = Ground::new();
    let (volume, outside) = (ground.dir("volume"), ground.dir("outside"));
    let (name, stop) = (&volume.join("new"), AtomicBool::new(false));
    let new = NewSource {
        symlinks: Symlinks::Refuse,
        ..NewSource::DIRECTORY
    };
    let (made, refused) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if symlink(&outside, name).is_ok() {
                    fs::remove_file(name).expect("it is a symlink");
                }
            }
        });
        let (mut made, mut refused) = (0_u32, 0_u32);
        let mut rounds = 0;
        while rounds < ROUNDS || made == 0 || refused == 0 {
            rounds += 1;
            match ground.mounter.create_source(&name.join("deep"), &new) {
                Ok(_) => {
                    made += 1;
                    fs::remove_dir(name.join("deep")).expect("it was just made");
                    fs::remove_dir(name).expect("it was just made");
                }
                Err(MountError::Symlink { .. } | MountError::Io { .. }) => refused += 1,
                Err(error) => unreachable!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        (made, refused)
    });
    println!("made {made}, refused {refused}");
    let outside = fs::read_dir(&outside).expect("list").count();
    assert_eq!(outside, 0, "something was made outside");
}

#[test]
fn root_exchanged_directories_lead_nowhere() {
    race(Ground::new(), 50_000);
}

#[test]
fn root_full_exchanged_directories_lead_nowhere() {
    race(Ground::new(), 1_000_000);
}

#[test]
fn root_full_exchanged_directories_lead_nowhere_on_ext4() {
    enter_private_mounts();
    race(Ground::on(LoopDisk::ext4(64)), 1_000_000);
}
