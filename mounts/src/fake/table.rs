//! The mount table of a [`FakeMounter`](super::FakeMounter).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::mounter::{Attached, Detached, Identity, MountEntry, MountError, MountId, Propagation};

/// First number given out.
const FIRST: MountId = 1 << 32;

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) mounts: BTreeMap<MountId, Entry>,
    pub(super) numbers: u64,
    pub(super) steps: Vec<&'static str>,
    pub(super) failure: Option<(usize, Errno)>,
    pub(super) crash: Option<usize>,
    pub(super) shared: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) mount: MountEntry,
    pub(super) top: Identity,
    pub(super) busy: bool,
    pub(super) self_bind: bool,
}

impl Table {
    pub(super) fn add(
        &mut self,
        target: PathBuf,
        root: &Path,
        device: (u32, u32),
        top: Identity,
        self_bind: bool,
    ) -> MountId {
        let id = self.number();
        self.put(id, target, root, device, top, self_bind);
        id
    }

    /// The next number.
    pub(super) fn number(&mut self) -> MountId {
        self.numbers += 1;
        FIRST + self.numbers
    }

    pub(super) fn put(
        &mut self,
        id: MountId,
        target: PathBuf,
        root: &Path,
        device: (u32, u32),
        top: Identity,
        self_bind: bool,
    ) {
        let mount = MountEntry {
            id,
            parent: self.under(&target).unwrap_or(FIRST),
            target,
            device,
            root: root.to_owned(),
            propagation: Propagation::Private,
            unbindable: self_bind,
        };
        let entry = Entry {
            mount,
            top,
            busy: false,
            self_bind,
        };
        self.mounts.insert(id, entry);
    }

    /// The mount that a path lies on: the last one on its longest part.
    pub(super) fn under(&self, path: &Path) -> Option<MountId> {
        let above = self.mounts.values().map(|entry| &entry.mount);
        above
            .filter(|mount| path.starts_with(&mount.target))
            .max_by_key(|mount| (mount.target.components().count(), mount.id))
            .map(|mount| mount.id)
    }

    pub(super) fn on(&self, id: MountId) -> Option<&MountEntry> {
        let mut mounts = self.mounts.values().map(|entry| &entry.mount);
        mounts.find(|mount| mount.parent == id)
    }

    pub(super) fn take(
        &mut self,
        target: &Path,
        expected: &Attached,
    ) -> Result<Detached, MountError> {
        let id = expected.id;
        let Some(entry) = self.mounts.get(&id) else {
            return Ok(Detached::AlreadyGone);
        };
        if entry.top != (expected.device, expected.inode) {
            return Ok(Detached::AlreadyGone);
        }
        if entry.mount.target != target {
            return Err(MountError::Elsewhere {
                path: target.to_owned(),
                expected: id,
            });
        }
        if let Some(other) = self.on(id) {
            return Err(MountError::Covered {
                path: other.target.clone(),
                expected: id,
                other: other.id,
            });
        }
        self.mounts.remove(&id);
        Ok(Detached::Now)
    }
}
