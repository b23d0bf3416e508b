//! Attachments on the real kernel. Every test has a mount namespace of its own.

mod binds;
mod labels;
mod nested;
mod proof;
mod publish;
mod repeated;
mod sources;
mod steps;
mod targets;
mod together;
mod undone;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_drivers::Memory;
use layerd_mounts::mounter::{KernelMounter, Mounter};
use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};
use layerd_store::{Commit, Create, Key, Kind, Labels, Owner};
use nix::mount::{MntFlags, MsFlags};

use super::{Attach, Wanted};
use crate::{AttachmentEntry, Engine, Error, Options};

/// An engine on a tmpfs, and directories of the host beside it.
struct Host {
    engine: Engine,
    disk: LoopDisk,
}

impl Host {
    fn new() -> Self {
        Self::with(|_| Options::default())
    }

    /// With options that depend on where the disk is.
    fn with(options: impl FnOnce(&Path) -> Options) -> Self {
        enter_private_mounts();
        let disk = LoopDisk::tmpfs();
        let engine = open(disk.path(), options(disk.path()));
        Self { engine, disk }
    }

    /// Starts the daemon anew.
    fn reopen(&mut self) {
        let elsewhere = tempfile::tempdir().unwrap();
        self.engine = open(elsewhere.path(), Options::default());
        self.engine = open(self.disk.path(), Options::default());
    }

    /// A directory of the host, made if need be.
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.disk.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Content of a volume that is there.
    fn volume(&self, name: &str) -> PathBuf {
        let name = layerd_store::VolumeName::parse("name", name).unwrap();
        self.engine.volumes.volume(&name).unwrap().path
    }

    fn attach(&self, mounts: &[Attach]) -> Result<Vec<AttachmentEntry>, Error> {
        self.engine.attachments.attach(&owner(), mounts)
    }

    /// Commits an empty snapshot.
    fn commit(&self, name: &str) {
        let active = key("active");
        let create = Create {
            key: active.clone(),
            kind: Kind::Active,
            parent: None,
            labels: Labels::default(),
        };
        self.engine.layers.create(create).unwrap();
        let commit = Commit {
            name: key(name),
            key: active,
            labels: Labels::default(),
            parent: None,
            usage: None,
        };
        self.engine.layers.commit(commit).unwrap();
    }

    /// Mount points of the host, without the daemon's own folder.
    fn mounts(&self) -> Vec<PathBuf> {
        let all = KernelMounter::new().mounts_below(self.disk.path()).unwrap();
        let mut all: Vec<_> = all.into_iter().map(|mount| mount.target).collect();
        all.retain(|target| *target != self.disk.path().join("root/mnt"));
        all
    }

    fn keys(&self) -> Vec<String> {
        let all = self.engine.attachments.attachments(None, None).unwrap();
        let keys = all.iter().map(|one| one.attachment.key.as_str().to_owned());
        keys.collect()
    }
}

/// Unmounts the test's own mounts too: the disk must be free.
impl Drop for Host {
    fn drop(&mut self) {
        let all = KernelMounter::new().mounts_below(self.disk.path());
        for mount in all.unwrap_or_default().iter().rev() {
            let _ = nix::mount::umount2(&mount.target, MntFlags::UMOUNT_NOFOLLOW);
        }
    }
}

fn open(disk: &Path, options: Options) -> Engine {
    let root = disk.join("root");
    fs::create_dir_all(&root).unwrap();
    Engine::open(
        &root,
        Arc::new(Memory::default()),
        Arc::new(KernelMounter::new()),
        options,
    )
    .unwrap()
}

fn mount_with(source: &Path, target: &Path, kind: Option<&str>, flags: MsFlags) {
    nix::mount::mount(Some(source), target, kind, flags, None::<&str>).unwrap();
}

/// A tmpfs of another's.
fn tmpfs(target: &Path) {
    mount_with(Path::new("theirs"), target, Some("tmpfs"), MsFlags::empty());
}

/// A bind of another's.
fn bind_onto(source: &Path, target: &Path) {
    mount_with(source, target, None, MsFlags::MS_BIND);
}

fn propagate(target: &Path, flag: MsFlags) {
    mount_with(Path::new("none"), target, None, flag);
}

fn umount(target: &Path) {
    nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
}

fn owner() -> Owner {
    Owner::parse("container", "web").unwrap()
}

fn key(text: &str) -> Key {
    Key::parse("key", text).unwrap()
}

/// A mount that is left to the runtime.
fn mount(name: &str, mount: &str) -> Attach {
    Attach {
        key: key(name),
        mount: mount.to_owned(),
        target: None,
        fill_from: None,
        selinux_label: None,
        relabel_by_dialect: false,
        exclusive: false,
    }
}

/// A volume of this name, made if it is missing, at a path of the host.
fn volume_at(name: &str, inside: &str, target: &Path) -> Attach {
    Attach {
        target: Some(target.to_owned()),
        ..mount(
            name,
            &format!("type=volume,src={name},dst={inside},on-missing=create"),
        )
    }
}
