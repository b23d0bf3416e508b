//! Content of layers: files of every type to fill them with, and reading all of it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use layerd_integration::Tree;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::{XattrFlags, setxattr};

use crate::Verdict;

/// Everything about a layer that a client could see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    tree: Tree,
    /// Time of last change of each path: seconds and nanoseconds.
    times: BTreeMap<String, (i64, i64)>,
}

impl Layer {
    /// True if it is empty.
    pub(crate) fn is_bare(&self) -> bool {
        self.tree.0.len() == 1
    }

    /// Reads a layer.
    pub(crate) fn read(top: &Path) -> Self {
        Self::try_read(top).unwrap()
    }

    /// Reads a layer that may be deleted meanwhile.
    pub(crate) fn try_read(top: &Path) -> Verdict<Self> {
        let tree = Tree::try_read(top)?;
        let time = |path: &String| {
            let data =
                fs::symlink_metadata(top.join(path)).map_err(|error| format!("{path}: {error}"))?;
            Ok((path.clone(), (data.mtime(), data.mtime_nsec())))
        };
        let times = tree.0.keys().map(time).collect::<Verdict<_>>()?;
        Ok(Self { tree, times })
    }

    /// Forgets the time of the top directory: xfs takes an exchange of two directories for a change
    /// of them.
    pub(crate) fn forget_time_of_top(mut self) -> Self {
        self.times.remove("");
        self
    }

    /// The paths in which two layers differ, and how.
    pub(crate) fn difference(&self, wanted: &Self) -> Option<String> {
        let paths: BTreeSet<_> = self.tree.0.keys().chain(wanted.tree.0.keys()).collect();
        let is_timed = |path: &String| {
            [self, wanted]
                .iter()
                .all(|one| one.times.contains_key(path))
        };
        let state = |layer: &Self, path: &String| {
            let node = layer.tree.0.get(path).cloned();
            let time = layer.times.get(path).filter(|_| is_timed(path));
            (node, time.copied())
        };
        let differs = |path: &&String| state(self, path) != state(wanted, path);
        let mut differing = paths.into_iter().filter(differs);
        let first = differing.next()?;
        let (is, was) = (state(self, first), state(wanted, first));
        let more = differing.count();
        Some(format!("{first:?} is {is:?}, was {was:?}; {more} more"))
    }
}

/// Writes what an image's layer may hold; `seed` makes it differ. About `kib` KiB.
pub(crate) fn fill(top: &Path, seed: u64, kib: usize) {
    let nested = top.join(format!("usr/share/{seed}/a/b/c"));
    fs::create_dir_all(&nested).unwrap();
    let pattern = |length: usize| -> Vec<u8> {
        (0..length as u64)
            .map(|place| (place.wrapping_mul(seed | 1) >> 3).to_le_bytes()[0])
            .collect()
    };
    fs::write(nested.join("deep"), pattern(17)).unwrap();
    fs::write(top.join("large"), pattern(kib * 1024 + 13)).unwrap();
    File::create(top.join("empty")).unwrap();
    fs::write(top.join("small"), format!("content {seed}")).unwrap();
    fs::hard_link(top.join("small"), nested.join("linked")).unwrap();
    symlink("../nowhere", top.join("dangling")).unwrap();
    fs::write(top.join("temporary"), pattern(5000)).unwrap();
    fs::rename(top.join("temporary"), nested.join("renamed")).unwrap();
    let mut appended = File::create(top.join("sparse")).unwrap();
    appended.set_len(100_000).unwrap();
    appended.write_all(b"start").unwrap();
    special(&nested);
    attributes(top, seed);
}

/// Makes some of every type that cannot be opened, and so cannot be synced by itself. So many that
/// their inodes share no block of an ext4 with those of files and directories alone.
fn special(top: &Path) {
    const SYMLINKS: usize = 40;
    for number in 0..SYMLINKS {
        symlink("elsewhere", top.join(format!("symlink {number}"))).unwrap();
    }
    // Longer than what fits into an inode.
    symlink("long/".repeat(40), top.join("long symlink")).unwrap();
    let nodes = [
        ("pipe", SFlag::S_IFIFO, 0),
        ("socket", SFlag::S_IFSOCK, 0),
        ("null", SFlag::S_IFCHR, makedev(1, 3)),
        ("loop", SFlag::S_IFBLK, makedev(7, 0)),
    ];
    for (name, kind, number) in nodes {
        let path = top.join(name);
        mknod(&path, kind, Mode::empty(), number).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        chown(&path, Some(7), Some(8)).unwrap();
    }
    lchown(top.join("long symlink"), Some(7), Some(8)).unwrap();
}

fn attributes(top: &Path, seed: u64) {
    let script = top.join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    chown(&script, Some(1000), Some(50)).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o4755)).unwrap();
    let value = format!("value {seed}");
    setxattr(
        &script,
        "user.origin",
        value.as_bytes(),
        XattrFlags::empty(),
    )
    .unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(
        &script,
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    fs::create_dir(top.join("opaque")).unwrap();
    fs::set_permissions(top.join("opaque"), Permissions::from_mode(0o1777)).unwrap();
    setxattr(
        top.join("opaque"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    for number in 0..20 {
        let whiteout = top.join(format!("whiteout {number}"));
        mknod(&whiteout, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }
}
