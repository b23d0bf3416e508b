//! What layers hold: files of every kind to fill them with, and all of it read back.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use layerd_integration::Tree;
use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::{XattrFlags, setxattr};

/// Everything about a layer that a client could see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    tree: Tree,
    /// Time of last change of each path: seconds and nanoseconds.
    times: BTreeMap<String, (i64, i64)>,
}

impl Layer {
    /// Whether there is nothing in it.
    pub(crate) fn is_bare(&self) -> bool {
        self.tree.0.len() == 1
    }

    /// Reads a layer.
    pub(crate) fn read(top: &Path) -> Self {
        let tree = Tree::read(top);
        let time = |path: &String| {
            let data = fs::symlink_metadata(top.join(path)).unwrap();
            (path.clone(), (data.mtime(), data.mtime_nsec()))
        };
        let times = tree.0.keys().map(time).collect();
        Self { tree, times }
    }

    /// The paths in which two layers differ, and how.
    pub(crate) fn difference(&self, wanted: &Self) -> Option<String> {
        let paths = self.tree.0.keys().chain(wanted.tree.0.keys());
        let state = |layer: &Self, path: &String| {
            let node = layer.tree.0.get(path).cloned();
            (node, layer.times.get(path).copied())
        };
        let mut differing = paths.filter(|path| state(self, path) != state(wanted, path));
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
    attributes(top, seed);
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
    mknod(&top.join("whiteout"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
}
