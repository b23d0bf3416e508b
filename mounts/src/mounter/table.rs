//! The mount table: by number where the kernel can (Linux 6.8), else from mountinfo.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;

use super::{Handle, MountEntry, MountError, MountId, Propagation, Symlinks, path};
use crate::mountinfo;
use crate::sys::{self, ALL_MOUNTS, MountStat};

/// Numbers from here on are never used again; lower ones are those of mountinfo.
const UNIQUE: MountId = 1 << 31;

const PROC: &str = "/proc/thread-self/mountinfo";

/// See [`super::Mounter::mounts_below`].
pub(super) fn below(root: &Path) -> Result<Vec<MountEntry>, MountError> {
    let handle = path::open_source(root, Symlinks::Follow)?;
    let top = handle.mount_id()?;
    let root = real_path(&handle)?;
    let inside = |entry: &MountEntry| entry.target != root && entry.target.starts_with(&root);
    let mut found: Vec<MountEntry> = all_below(top)?.into_iter().filter(inside).collect();
    in_order(&mut found);
    Ok(found)
}

/// All mounts that stand on mount `top`, or on one that does. In no order.
pub(super) fn all_below(top: MountId) -> Result<Vec<MountEntry>, MountError> {
    if top < UNIQUE {
        return old_below(top);
    }
    let ids = match list(top) {
        Err(Errno::ENOSYS | Errno::EPERM) => return old_below(top),
        Err(Errno::ENOENT) => Vec::new(), // gone meanwhile
        other => other.map_err(|cause| fail("list mounts of", cause))?,
    };
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match sys::stat_mount(id) {
            Ok(stat) => found.push(entry(stat)),
            Err(Errno::ENOENT) => {} // gone meanwhile
            Err(cause) => return Err(fail("look at a mount of", cause)),
        }
    }
    Ok(found)
}

/// Whether a number will not be used again until the machine restarts.
pub(super) fn is_unique(id: MountId) -> bool {
    id >= UNIQUE
}

/// All mounts of this mount namespace.
pub(super) fn all() -> Result<Vec<MountEntry>, MountError> {
    all_below(ALL_MOUNTS)
}

/// See [`super::Mounter::is_mounted`].
pub(super) fn is_mounted(id: MountId) -> Result<bool, MountError> {
    Ok(by_id(id)?.is_some())
}

/// The mount that something was reached through.
pub(super) fn mount_of(handle: &Handle) -> Result<MountEntry, MountError> {
    let missing = || MountError::io("find the mount of", handle.path(), Errno::ENOENT);
    by_id(handle.mount_id()?)?.ok_or_else(missing)
}

/// A mount of this mount namespace.
pub(super) fn by_id(id: MountId) -> Result<Option<MountEntry>, MountError> {
    if id < UNIQUE {
        return Ok(old()?.into_iter().find(|entry| entry.id == id));
    }
    match sys::stat_mount(id) {
        Ok(stat) => Ok(Some(entry(stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(cause) => Err(fail("look at a mount of", cause)),
    }
}

/// The path that the mount table has for it.
pub(crate) fn real_path(handle: &Handle) -> Result<PathBuf, MountError> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    std::fs::read_link(&link)
        .map_err(|cause| MountError::io("find the real path of", handle.path(), cause))
}

/// Sorts so that a mount comes after the one it stands on.
fn in_order(entries: &mut [MountEntry]) {
    // A mount is never older than what it was put on, unless it was moved; the depth decides then.
    let parents: HashMap<MountId, MountId> = entries.iter().map(|e| (e.id, e.parent)).collect();
    let depth = |id: MountId| {
        let mut at = id;
        let mut depth = 0_u32;
        while let Some(parent) = parents.get(&at).filter(|parent| **parent != at) {
            at = *parent;
            depth += 1;
        }
        depth
    };
    entries.sort_by_cached_key(|entry| (depth(entry.id), entry.id));
}

fn list(top: MountId) -> Result<Vec<MountId>, Errno> {
    let mut all = Vec::new();
    let mut part = [0; 512];
    loop {
        let after = all.last().copied().unwrap_or(0);
        match sys::list_mounts(top, after, &mut part)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&part[..count]),
        }
    }
}

fn entry(stat: MountStat) -> MountEntry {
    let has = |flag: MsFlags| stat.propagation & flag.bits() != 0;
    MountEntry {
        id: stat.id,
        parent: stat.parent,
        target: PathBuf::from(OsString::from_vec(stat.point)),
        device: stat.device,
        root: PathBuf::from(OsString::from_vec(stat.root)),
        propagation: if has(MsFlags::MS_SHARED) {
            Propagation::Shared
        } else if has(MsFlags::MS_SLAVE) {
            Propagation::Slave
        } else {
            Propagation::Private
        },
        unbindable: has(MsFlags::MS_UNBINDABLE),
    }
}

/// What all of the mount table says.
pub(super) fn old() -> Result<Vec<MountEntry>, MountError> {
    let entries = mountinfo::read()?.into_iter();
    Ok(entries
        .map(|entry| MountEntry {
            id: entry.id,
            parent: entry.parent,
            target: entry.target,
            device: entry.device,
            root: entry.root,
            propagation: match (entry.shared, entry.slave) {
                (true, _) => Propagation::Shared,
                (false, true) => Propagation::Slave,
                (false, false) => Propagation::Private,
            },
            unbindable: entry.unbindable,
        })
        .collect())
}

fn old_below(top: MountId) -> Result<Vec<MountEntry>, MountError> {
    let mut rest = old()?;
    if top == ALL_MOUNTS {
        return Ok(rest);
    }
    let mut tops = vec![top];
    let mut found = Vec::new();
    while let Some(top) = tops.pop() {
        let (children, others): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|entry| entry.parent == top && entry.id != top);
        tops.extend(children.iter().map(|entry| entry.id));
        found.extend(children);
        rest = others;
    }
    Ok(found)
}

fn fail(attempt: &'static str, cause: Errno) -> MountError {
    MountError::io(attempt, Path::new(PROC), cause)
}
