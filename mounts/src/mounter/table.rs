//! The mount table: by number where the kernel can (Linux 6.8), else from mountinfo.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;

use super::{
    Attached, Handle, MountEntry, MountError, MountId, Position, Propagation, Symlinks, path,
};
use crate::mountinfo;
use crate::sys::{self, ALL_MOUNTS, MountStat};

/// Numbers from here on are never used again; lower ones are those of mountinfo.
const UNIQUE: MountId = 1 << 31;

const PROC: &str = "/proc/thread-self/mountinfo";

/// See [`super::Mounter::mounts_below`].
pub(super) fn below(root: &Path) -> Result<Vec<MountEntry>, MountError> {
    let handle = path::open_source(root, Symlinks::Follow)?;
    let top = handle.mount_id()?;
    let root = handle.real_path()?;
    let inside = |entry: &MountEntry| entry.target != root && entry.target.starts_with(&root);
    let mut found: Vec<MountEntry> = all_below(top)?.into_iter().filter(inside).collect();
    in_order(&mut found);
    Ok(found)
}

/// All mounts that stand on mount `top`, or on one that does. In no order, but where numbers are
/// used again in that of the mount table: there it is the order of mounting.
pub(super) fn all_below(top: MountId) -> Result<Vec<MountEntry>, MountError> {
    if top < UNIQUE || !sys::has_unique_ids() {
        return old_below(top);
    }
    let ids = match list(top) {
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

/// True for a mount id that is not reused within a boot. Such ids increase.
pub(super) fn is_unique(id: MountId) -> bool {
    id >= UNIQUE
}

/// Those of the mounts below `bind` that did not come along with it. Where numbers are used again,
/// they tell nothing; there as many as came along count as those, from the oldest on.
pub(super) fn later<'a>(
    below: &'a [MountEntry],
    bind: &Attached,
) -> impl Iterator<Item = &'a MountEntry> {
    let Attached { id, last_id, .. } = *bind;
    let count = if is_unique(id) { 0 } else { last_id - id };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let along = move |other| is_unique(id) && id < other && other <= last_id;
    below
        .iter()
        .skip(count)
        .filter(move |entry| !along(entry.id))
}

/// All mounts of this mount namespace.
pub(super) fn all() -> Result<Vec<MountEntry>, MountError> {
    all_below(ALL_MOUNTS)
}

/// See [`super::Mounter::are_mounted`].
pub(super) fn are_mounted(expected: &[(&Path, Attached)]) -> Result<Vec<bool>, MountError> {
    if sys::has_unique_ids() {
        let is_there = |(_, one): &(&Path, Attached)| by_id(one.id).map(|found| found.is_some());
        return expected.iter().map(is_there).collect();
    }
    let table = old()?.into_iter();
    let targets: HashMap<MountId, PathBuf> = table.map(|entry| (entry.id, entry.target)).collect();
    let stands = |(target, one): &(&Path, Attached)| match targets.get(&one.id) {
        Some(there) if there == target => is_same(target, one),
        _ => Ok(false),
    };
    expected.iter().map(stands).collect()
}

/// True if the mount with this id at this mount point shows the same file. One covered by another
/// mount, there or above, cannot be opened, and counts as the same.
fn is_same(target: &Path, expected: &Attached) -> Result<bool, MountError> {
    let Ok(top) = path::open_source(target, Symlinks::Refuse) else {
        return Ok(true);
    };
    let covered = top.mount_id()? != expected.id;
    Ok(covered || (top.device(), top.inode()) == (expected.device, expected.inode))
}

/// The mount that something was reached through.
pub(super) fn mount_of(handle: &Handle) -> Result<MountEntry, MountError> {
    let missing = || MountError::io("find the mount of", handle.path(), Errno::ENOENT);
    by_id(handle.mount_id()?)?.ok_or_else(missing)
}

/// See [`super::Mounter::position`].
pub(super) fn position(found: &Handle) -> Result<Position, MountError> {
    let through = mount_of(found)?;
    let path = found.real_path()?;
    let inner = path.strip_prefix(&through.target).unwrap_or(Path::new(""));
    Ok(Position {
        device: through.device,
        path: through
            .root
            .components()
            .chain(inner.components())
            .collect(),
        shown: through.root,
        mount: through.id,
    })
}

/// A mount of this mount namespace.
pub(super) fn by_id(id: MountId) -> Result<Option<MountEntry>, MountError> {
    if id < UNIQUE || !sys::has_unique_ids() {
        return Ok(old()?.into_iter().find(|entry| entry.id == id));
    }
    match sys::stat_mount(id) {
        Ok(stat) => Ok(Some(entry(stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(cause) => Err(fail("look at a mount of", cause)),
    }
}

/// A mount that was put on `target`. If its number is unique it may stand elsewhere by now; where
/// numbers are used again, what has the number and stands elsewhere is another mount.
pub(super) fn standing(id: MountId, target: &Path) -> Result<Option<MountEntry>, MountError> {
    let found = by_id(id)?;
    Ok(found.filter(|entry| is_unique(id) || entry.target == target))
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
    // A stable sort: numbers that are used again say nothing, and leave the order of the table.
    let age = |id| if is_unique(id) { id } else { 0 };
    entries.sort_by_cached_key(|entry| (depth(entry.id), age(entry.id)));
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

/// All entries of the mount table.
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
    let mut all = old()?;
    if top == ALL_MOUNTS {
        return Ok(all);
    }
    let mut children: HashMap<MountId, Vec<MountId>> = HashMap::new();
    for entry in all.iter().filter(|entry| entry.id != entry.parent) {
        children.entry(entry.parent).or_default().push(entry.id);
    }
    let mut found: HashSet<MountId> = HashSet::new();
    let mut tops = vec![top];
    while let Some(top) = tops.pop() {
        let ids = children.remove(&top).unwrap_or_default();
        found.extend(&ids);
        tops.extend(ids);
    }
    all.retain(|entry| found.contains(&entry.id));
    Ok(all)
}

fn fail(attempt: &'static str, cause: Errno) -> MountError {
    MountError::io(attempt, Path::new(PROC), cause)
}
