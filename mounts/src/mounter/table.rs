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

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: MountId, parent: MountId, target: &str) -> MountEntry {
        MountEntry {
            id,
            parent,
            target: PathBuf::from(target),
            device: (0, 0),
            root: PathBuf::from("/"),
            propagation: Propagation::Private,
            unbindable: false,
        }
    }

    fn bound(id: MountId, last_id: MountId) -> Attached {
        Attached {
            id,
            last_id,
            device: (0, 0),
            inode: 0,
        }
    }

    #[test]
    fn later_mounts_are_told_from_those_that_came_along() {
        let ids = |below: &[MountEntry], bind: &Attached| -> Vec<MountId> {
            later(below, bind)
                .map(|entry| entry.id - entry.id / UNIQUE * UNIQUE)
                .collect()
        };
        let unique = [1, 2, 3, 4].map(|id| mount(UNIQUE + id, UNIQUE, "/a"));
        assert_eq!(ids(&unique, &bound(UNIQUE, UNIQUE + 2)), [3, 4]);
        assert_eq!(ids(&unique, &bound(UNIQUE + 1, UNIQUE + 3)), [1, 4]);
        assert_eq!(ids(&unique, &bound(UNIQUE, UNIQUE)), [1, 2, 3, 4]);
        // Numbers that are used again: the oldest came along, as many as there were.
        let reused = [9, 3, 7].map(|id| mount(id, 5, "/a"));
        assert_eq!(ids(&reused, &bound(5, 7)), [7]);
        assert_eq!(ids(&reused, &bound(5, 5)), [9, 3, 7]);
    }

    #[test]
    fn a_mount_comes_after_the_one_it_stands_on() {
        let order = |mut entries: Vec<MountEntry>| -> Vec<MountId> {
            in_order(&mut entries);
            entries.iter().map(|entry| entry.id).collect()
        };
        let u = UNIQUE;
        let moved = vec![mount(u + 1, u + 3, "/a/b"), mount(u + 3, u, "/a")];
        assert_eq!(order(moved), [u + 3, u + 1]);
        let beside = vec![mount(u + 3, u, "/b"), mount(u + 2, u, "/a")];
        assert_eq!(order(beside), [u + 2, u + 3], "the older one first");
        let reused = vec![mount(9, 1, "/b"), mount(4, 9, "/b/c"), mount(3, 1, "/a")];
        assert_eq!(order(reused), [9, 3, 4], "in the order of the table");
        assert_eq!(order(vec![mount(1, 1, "/")]), [1], "its own parent");
    }

    #[test]
    fn a_mount_is_found_by_its_number_and_a_file_by_its_position() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = std::fs::canonicalize(dir.path()).expect("its path");
        let proc = path::open_source(Path::new("/proc"), Symlinks::Refuse).expect("procfs");
        let through = mount_of(&proc).expect("its mount");
        assert_eq!(through.target, Path::new("/proc"));
        assert_eq!(through.root, Path::new("/"));
        let found = by_id(through.id).expect("look").expect("it is mounted");
        assert_eq!(found, through);
        assert!(all().expect("read").contains(&through));
        assert!(all_below(through.parent).expect("read").contains(&through));
        assert!(!all_below(through.id).expect("read").contains(&through));
        assert_eq!(by_id(MountId::MAX / 2).expect("look"), None);
        let elsewhere = standing(through.id, &dir).expect("look");
        assert_eq!(elsewhere.is_some(), is_unique(through.id));
        let there = standing(through.id, Path::new("/proc")).expect("look");
        assert_eq!(there, Some(through.clone()));

        let place = position(&proc).expect("its position");
        assert_eq!(
            (place.path.as_path(), place.mount),
            (Path::new("/"), through.id)
        );
        assert_eq!((place.device, place.shown), (through.device, through.root));

        let own = Attached {
            device: proc.device(),
            inode: proc.inode(),
            ..bound(through.id, through.id)
        };
        let other = Attached {
            inode: own.inode + 1,
            ..own
        };
        let covered = Attached {
            id: own.id + 1,
            ..other
        };
        let target = Path::new("/proc");
        let same = |expected| is_same(target, &expected).expect("look");
        assert_eq!([own, other, covered].map(same), [true, false, true]);
        assert!(is_same(&dir.join("gone"), &own).expect("look"));
    }
}
