//! Attachments on the real kernel. Every test has a mount namespace of its own.

mod nested;
mod sources;
mod together;
mod undone;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_mounts::fake::Fake;
use layerd_mounts::mounter::{KernelMounter, Mounter};
use layerd_mounts::rig::{LoopDisk, enter_private_mounts};
use layerd_store::{Commit, Create, Key, Kind, Labels, Owner};

use super::Attach;
use crate::{AttachmentEntry, Engine, Error, Options};

/// An engine on a tmpfs, and directories of the host beside it.
struct Host {
    engine: Engine,
    disk: LoopDisk,
}

impl Host {
    fn new() -> Self {
        enter_private_mounts();
        let disk = LoopDisk::tmpfs();
        fs::create_dir(disk.path().join("root")).unwrap();
        let engine = open(disk.path());
        Self { engine, disk }
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
        self.engine.volume(&name).unwrap().path
    }

    fn attach(&self, mounts: &[Attach]) -> Result<Vec<AttachmentEntry>, Error> {
        self.engine.attach(&owner(), mounts)
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
        self.engine.create(create).unwrap();
        let commit = Commit {
            name: key(name),
            key: active,
            labels: Labels::default(),
            parent: None,
            usage: None,
        };
        self.engine.commit(commit).unwrap();
    }

    /// Mount points of the host, without the daemon's own folder.
    fn mounts(&self) -> Vec<PathBuf> {
        let all = KernelMounter::new().mounts_below(self.disk.path()).unwrap();
        let mut all: Vec<_> = all.into_iter().map(|mount| mount.target).collect();
        all.retain(|target| *target != self.disk.path().join("root/mnt"));
        all
    }

    fn keys(&self) -> Vec<String> {
        let all = self.engine.attachments(None, None).unwrap();
        let keys = all.iter().map(|one| one.attachment.key.as_str().to_owned());
        keys.collect()
    }
}

/// What a test mounted beside the daemon goes with its namespace; the disk must be free before.
impl Drop for Host {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        for mount in KernelMounter::new()
            .mounts_below(self.disk.path())
            .unwrap_or_default()
            .iter()
            .rev()
        {
            let _ = nix::mount::umount2(&mount.target, flags);
        }
    }
}

fn open(disk: &Path) -> Engine {
    let root = disk.join("root");
    Engine::open(&root, Arc::new(Fake::default()), Options::default()).unwrap()
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
