//! Mounts by descriptor on the real kernel. Every test has a mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::mount::{MntFlags, MsFlags, umount2};

use super::{
    Attached, BindOptions, DetachMode, Detached, Handle, KernelMounter, Mounter, Symlinks, Tree,
};
use crate::test_support::{LoopDisk, enter_private_mounts};

mod ancestors;
mod going;
mod ids;
mod options;
mod race;
mod views;

/// A tmpfs to work in, and a mounter.
pub(super) struct Ground {
    pub(super) mounter: KernelMounter,
    pub(super) disk: LoopDisk,
    foreign: Mutex<Vec<PathBuf>>,
}

/// Unmounts the test's own mounts; those of the mounter must be gone by then.
impl Drop for Ground {
    fn drop(&mut self) {
        let foreign = std::mem::take(&mut *self.foreign.lock().expect("no panic in between"));
        for path in foreign.iter().rev() {
            let _ = umount2(path, MntFlags::MNT_DETACH); // the test may have done it
        }
        let left = self.mounter.mounts_below(self.disk.path());
        let left = left.unwrap_or_default();
        for entry in left.iter().rev() {
            let _ = umount2(&entry.target, MntFlags::MNT_DETACH);
        }
        assert!(
            left.is_empty() || std::thread::panicking(),
            "left: {left:?}"
        );
    }
}

impl Ground {
    pub(super) fn new() -> Self {
        enter_private_mounts();
        Self::on(LoopDisk::tmpfs())
    }

    pub(super) fn on(disk: LoopDisk) -> Self {
        Self {
            mounter: KernelMounter::new(),
            disk,
            foreign: Mutex::default(),
        }
    }

    /// A tmpfs on a directory, behind layerd's back.
    pub(super) fn foreign(&self, name: &str) -> PathBuf {
        let path = self.dir(name);
        let none = None::<&str>;
        let flags = MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, none).expect("a tmpfs");
        let mut foreign = self.foreign.lock().expect("no panic in between");
        foreign.push(path.clone());
        path
    }

    /// Has mount(8) make a mount shared, or the like.
    pub(super) fn propagate(&self, path: &Path, flag: MsFlags) {
        let none = None::<&str>;
        nix::mount::mount(none, path, none, flag, none).expect("change the propagation");
    }

    /// A directory, made if need be.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        let path = self.disk.path().join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    pub(super) fn open(&self, path: &Path) -> Handle {
        self.mounter
            .open_source(path, Symlinks::Refuse)
            .expect("it is there")
    }

    pub(super) fn bind(&self, source: &Path, options: &BindOptions) -> Tree {
        self.mounter
            .bind(&self.open(source), options)
            .expect("bind")
    }

    pub(super) fn attach(&self, tree: Tree, target: &Path) -> Attached {
        self.mounter
            .attach(tree, &self.open(target))
            .expect("attach")
    }

    pub(super) fn detach(&self, target: &Path, attached: &Attached) {
        let gone = self.mounter.detach(target, attached, DetachMode::Normal);
        assert_eq!(gone.expect("detach"), Detached::Now);
    }
}

#[test]
fn root_a_bind_comes_and_goes() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(source.join("file"), "content").expect("write");
    let tree = ground.bind(&source, &BindOptions::default());
    let attached = ground.attach(tree, &target);
    assert_eq!(fs::read(target.join("file")).expect("read"), b"content");
    assert!(ground.mounter.is_mounted(&target, &attached).expect("look"));
    let below = ground.mounter.mounts_below(ground.disk.path());
    let below = below.expect("list");
    assert_eq!(below.len(), 1, "{below:?}");
    assert_eq!((below[0].id, &below[0].target), (attached.id, &target));
    ground.detach(&target, &attached);
    assert!(!target.join("file").exists());
    let again = ground
        .mounter
        .detach(&target, &attached, DetachMode::Normal);
    assert_eq!(again.expect("detach"), Detached::AlreadyGone);
    assert!(!ground.mounter.is_mounted(&target, &attached).expect("look"));
}

#[test]
fn root_the_kernel_keeps_the_contract() {
    let ground = Ground::new();
    super::contract::check(&ground.mounter, &ground.dir("scratch"));
}
