//! A deletion leaves nothing on the disk from which e2fsck(8) would take other trees apart.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "this file is tests as a whole"
)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use layerd_crash::disk::{Filesystem, Later, Recorder};
use layerd_mounts::barrier::Barrier;
use layerd_mounts::tree;

const SIZE: u64 = 64 << 20;
const DIRS: usize = 150;
const IMAGES: usize = 8;

fn dirs(top: &Path) -> impl Iterator<Item = PathBuf> {
    (0..DIRS).map(|number| top.join(number.to_string()))
}

fn make_dirs(top: &Path) {
    fs::create_dir(top).unwrap();
    dirs(top).for_each(|dir| fs::create_dir(dir).unwrap());
}

fn remove_dirs(top: &Path) {
    dirs(top).for_each(|dir| fs::remove_dir(dir).unwrap());
    fs::remove_dir(top).unwrap();
}

/// Cuts the power while directories are made that get the blocks of deleted ones, in which files had
/// the inodes that directories of a synced tree have by now. Answers how many of the images lack
/// entries of that tree. ext4 hands out the lowest inode and block that are free.
fn damaged(delete: impl Fn(&Path)) -> usize {
    let mut recorder = Recorder::start(Filesystem::Ext4WithoutJournal, SIZE).unwrap();
    let (root, barrier) = (recorder.path(), Barrier::open(&recorder.path()).unwrap());
    let [old, synced, new] = ["old", "synced", "new"].map(|name| root.join(name));
    make_dirs(&old);
    dirs(&old).for_each(|dir| fs::write(dir.join("file"), "").unwrap());
    barrier.filled().unwrap();
    delete(&root);
    // Keeps the blocks for `new`; it never reaches the disk.
    let placeholder = root.join("placeholder");
    make_dirs(&placeholder);
    make_dirs(&synced);
    remove_dirs(&placeholder);
    barrier.filled().unwrap();
    recorder.begin();
    make_dirs(&new);
    barrier.filled().unwrap();
    drop(barrier);
    let mut recording = recorder.finish().unwrap();
    let lacks = |seed: &u64| {
        let cut = recording.cuts(*seed, 1, &[Later::Torn(4096)]).remove(0);
        let mounted = recording.image(&cut).unwrap().mount().unwrap();
        let top = mounted.path().join("synced");
        let lacks = dirs(&top).any(|dir| !dir.exists());
        mounted.unmount().unwrap();
        lacks
    };
    (0..IMAGES as u64).filter(lacks).count()
}

#[test]
fn root_a_deletion_endangers_no_synced_tree() {
    let ours = damaged(|root| {
        let barrier = Barrier::open(root).unwrap();
        let parent = File::open(root).unwrap();
        tree::delete(parent.as_fd(), c"old", root, &barrier, &|| true).unwrap();
    });
    let plain = damaged(|root| {
        dirs(&root.join("old")).for_each(|dir| fs::remove_file(dir.join("file")).unwrap());
        remove_dirs(&root.join("old"));
    });
    println!("{ours} of {IMAGES} images damaged, after a plain deletion {plain}");
    assert_eq!(ours, 0);
    assert!(plain > 0, "the test cannot see what it is for");
}
