//! Unmounts exactly one mount.
//!
//! umount2(2) goes by path and unmounts the topmost mount of that moment. To make sure of the
//! mount, it is unmounted in two steps: MNT_EXPIRE marks the topmost, which is then proved to be the
//! right one with nothing on top of it; the second MNT_EXPIRE unmounts only a marked mount. A
//! mount attached in between is not marked, unless another caller is unmounting that one in
//! the same way: so this process unmounts from one path at a time.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use parking_lot::{Condvar, Mutex};

use super::detached::propagation_word;
use super::{
    Attached, DetachMode, Detached, Handle, MountEntry, MountError, MountId, Propagation, Symlinks,
    Tree, holders, path, table,
};
use crate::sys::{self, Identity, MountAttributes};
use crate::user_namespace;

/// Attempts while the mount is busy for a moment, as during a path walk by another process.
const TRIES: u32 = 20;
const QUICK_TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(5);

/// Time limit of the search for users.
const SEARCH: Duration = Duration::from_millis(500);

/// See [`super::Mounter::detach`].
pub(super) fn detach(
    target: &Path,
    expected: &Attached,
    mode: DetachMode,
) -> Result<Detached, MountError> {
    let mount_point = match MountPoint::new(target) {
        Ok(mount_point) => mount_point,
        Err(MountError::Missing { .. } | MountError::NotADirectory { .. }) => {
            return not_at(target, expected.id);
        }
        Err(error) => return Err(error),
    };
    for _ in 0..TRIES {
        match mount_point.seen()? {
            Some((id, top)) if id == expected.id => {
                // Numbers begin anew when the machine restarts, and old kernels use them again.
                if top != (expected.device, expected.inode) {
                    return Ok(Detached::AlreadyGone);
                }
            }
            _ => match mount_point.without(expected.id)? {
                Some(gone) => return Ok(gone),
                None => continue, // what was on top is gone by now
            },
        }
        let below = table::all_below(expected.id)?;
        refuse_foreign_submounts(&below, expected)?;
        if !below.is_empty() {
            // Else what is unmounted here would go at its origin, too.
            mount_point.make_private(expected.id)?;
        }
        let done = match mode {
            DetachMode::Normal => take_all(&mount_point, expected.id, &below)?,
            DetachMode::Lazy => drop_lazily(&mount_point, expected.id)?,
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
    Err(mount_point.busy(expected.id))
}

/// Opens the top of mount `id`, which keeps it busy; `None` if it is not the topmost on `target`.
pub(super) fn topmost(target: &Path, id: MountId) -> Result<Option<Handle>, MountError> {
    let mount_point = match MountPoint::new(target) {
        Ok(mount_point) => mount_point,
        Err(MountError::Missing { .. } | MountError::NotADirectory { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let top = match mount_point.open() {
        Err(Errno::ENOENT) => return Ok(None),
        top => Handle::new(top.map_err(|cause| mount_point.fail(cause))?, target)?,
    };
    Ok((top.mount_id()? == id).then_some(top))
}

/// A mount point: the directory it is in, held open, and its name there.
struct MountPoint<'a> {
    parent: Handle,
    name: CString,
    shown: &'a Path,
}

impl<'a> MountPoint<'a> {
    fn new(target: &'a Path) -> Result<Self, MountError> {
        let bad = || MountError::BadPath {
            path: target.to_owned(),
            problem: "cannot be a mount point",
        };
        let (parent, name) = match (target.parent(), target.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => return Err(bad()),
        };
        Ok(Self {
            parent: path::open_source(parent, Symlinks::Follow)?,
            name: CString::new(name.as_bytes()).map_err(|_| bad())?,
            shown: target,
        })
    }

    /// Number of the topmost mount here, and the identity of what it shows.
    fn seen(&self) -> Result<Option<(MountId, Identity)>, MountError> {
        match sys::mount_and_file(self.parent.as_fd(), &self.name, false) {
            Ok(seen) => Ok(Some(seen)),
            Err(Errno::ENOENT) => Ok(None),
            Err(cause) => Err(self.fail(cause)),
        }
    }

    fn top(&self) -> Result<Option<MountId>, MountError> {
        Ok(self.seen()?.map(|(id, _)| id))
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.parent, self.name.as_c_str(), flags, Mode::empty())
    }

    fn make_private(&self, expected: MountId) -> Result<(), MountError> {
        let top = self.open().map_err(|cause| self.fail(cause))?;
        let top = Handle::new(top, self.shown)?;
        if top.mount_id()? != expected {
            return Ok(()); // it will be noticed
        }
        make_private(top.as_fd(), true).map_err(|cause| self.fail(cause))
    }

    /// Result if the topmost mount is another one; `None` if that has changed by now.
    fn without(&self, expected: MountId) -> Result<Option<Detached>, MountError> {
        let here = self.real_path()?;
        let Some(entry) = table::standing(expected, &here)? else {
            return Ok(Some(Detached::AlreadyGone));
        };
        if entry.target != here {
            return Err(self.elsewhere(expected));
        }
        let on_top = table::all_below(expected)?;
        match on_top.iter().find(|entry| entry.target == here) {
            Some(on_top) => Err(covered(on_top, expected)),
            None => Ok(None),
        }
    }

    /// The path that the mount table has for it.
    fn real_path(&self) -> Result<PathBuf, MountError> {
        let parent = self.parent.real_path()?;
        Ok(parent.join(OsStr::from_bytes(self.name.to_bytes())))
    }

    fn elsewhere(&self, expected: MountId) -> MountError {
        MountError::Elsewhere {
            path: self.shown.to_owned(),
            expected,
        }
    }

    fn busy(&self, id: MountId) -> MountError {
        MountError::Busy {
            path: self.shown.to_owned(),
            holders: holders::of_mounts(&[id], SEARCH),
        }
    }

    fn unmount(&self, flags: MntFlags) -> Result<(), Errno> {
        let parent = format!("/proc/self/fd/{}", self.parent.as_fd().as_raw_fd());
        let path = Path::new(&parent).join(OsStr::from_bytes(self.name.to_bytes()));
        umount2(&path, flags | MntFlags::UMOUNT_NOFOLLOW)
    }

    fn fail(&self, cause: Errno) -> MountError {
        MountError::io("unmount", self.shown, cause)
    }
}

fn make_private(mount: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let attributes = MountAttributes {
        propagation: propagation_word(Propagation::Private),
        ..MountAttributes::default()
    };
    sys::mount_setattr(mount, recursive, &attributes)
}

/// There is not even a mount point to look at.
fn not_at(target: &Path, expected: MountId) -> Result<Detached, MountError> {
    if table::standing(expected, target)?.is_some() {
        return Err(MountError::Elsewhere {
            path: target.to_owned(),
            expected,
        });
    }
    Ok(Detached::AlreadyGone)
}

fn covered(entry: &MountEntry, expected: MountId) -> MountError {
    MountError::Covered {
        path: entry.target.clone(),
        expected,
        other: entry.id,
    }
}

/// Refuses submounts that were mounted later, unless they arrived by propagation and so still exist
/// at their origin. The id of such a one may be lower: it may be older than this mount.
fn refuse_foreign_submounts(below: &[MountEntry], expected: &Attached) -> Result<(), MountError> {
    let later = table::later(below, expected);
    let mut strange = later.filter(|entry| entry.propagation == Propagation::Private);
    match strange.next() {
        Some(entry) => Err(covered(entry, expected.id)),
        None => Ok(()),
    }
}

/// Takes a mount away with those below it. Nothing goes while a process uses one of them: of such a
/// tree the mounts go one by one, and the first ones would be missing under the rest. Users that
/// are no processes, such as loop devices, are found when it is the turn of their mount. In a user
/// namespace the kernel lets those below go with the whole tree alone (MNT_LOCKED), so that it goes in one
/// step once no process uses it.
fn take_all(
    mount_point: &MountPoint<'_>,
    id: MountId,
    below: &[MountEntry],
) -> Result<Option<Detached>, MountError> {
    if !below.is_empty() {
        refuse_used(mount_point, id, below)?;
        if user_namespace::current().is_some() {
            return drop_lazily(mount_point, id);
        }
        take_below(below)?;
    }
    take(mount_point, id)
}

/// Waits a moment for users to go, as [`take`] does.
fn refuse_used(
    mount_point: &MountPoint<'_>,
    id: MountId,
    below: &[MountEntry],
) -> Result<(), MountError> {
    let all: Vec<MountId> = below.iter().map(|entry| entry.id).chain([id]).collect();
    let end = Instant::now() + SEARCH;
    loop {
        let holders = holders::of_mounts(&all, SEARCH);
        if holders.found.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let path = mount_point.shown.to_owned();
            return Err(MountError::Busy { path, holders });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Takes the mounts below away, those on top first.
fn take_below(below: &[MountEntry]) -> Result<(), MountError> {
    let mut below: Vec<&MountEntry> = below.iter().collect();
    below.sort_by_key(|entry| (entry.target.components().count(), entry.id));
    for entry in below.into_iter().rev() {
        take_at(&entry.target, entry.id)?;
    }
    Ok(())
}

/// Takes the mount `id` away from `target`, as described above, if it is the topmost there.
pub(super) fn take_at(target: &Path, id: MountId) -> Result<Detached, MountError> {
    let mount_point = match MountPoint::new(target) {
        Ok(mount_point) => mount_point,
        Err(MountError::Missing { .. }) => return not_at(target, id),
        Err(error) => return Err(error),
    };
    match take(&mount_point, id)? {
        Some(done) => Ok(done),
        None => not_at(target, id),
    }
}

/// `None` if it is not the topmost.
fn take(mount_point: &MountPoint<'_>, id: MountId) -> Result<Option<Detached>, MountError> {
    let _turn = Turn::wait(mount_point);
    for _ in 0..TRIES {
        if mount_point.top()? != Some(id) {
            return Ok(None);
        }
        match try_take(mount_point, id)? {
            Ok(()) => return Ok(Some(Detached::Now)),
            // It was accessed since, or is in use, maybe only for a moment.
            Err(Errno::EAGAIN | Errno::EBUSY) => std::thread::sleep(PAUSE),
            // It went, and nothing else is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(cause) => return Err(mount_point.fail(cause)),
        }
    }
    Err(mount_point.busy(id))
}

/// Lock of this process on unmounts from one path. Other paths are not affected, as their file
/// system may hang.
struct Turn(Key);

/// Identity of the directory, and the name in it.
type Key = (Identity, CString);

static TURNS: Mutex<BTreeSet<Key>> = Mutex::new(BTreeSet::new());
static TURN_OVER: Condvar = Condvar::new();

impl Turn {
    fn wait(mount_point: &MountPoint<'_>) -> Self {
        let identity = (mount_point.parent.device(), mount_point.parent.inode());
        let key = (identity, mount_point.name.clone());
        let mut turns = TURNS.lock();
        while !turns.insert(key.clone()) {
            TURN_OVER.wait(&mut turns);
        }
        Self(key)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = TURNS.lock();
        turns.remove(&self.0);
        TURN_OVER.notify_all();
    }
}

/// The two steps, quickly repeated, because everyone who walks through the mount takes the mark
/// off again. A refused try is the first step of the next one.
fn try_take(mount_point: &MountPoint<'_>, id: MountId) -> Result<Result<(), Errno>, MountError> {
    let mut answer = Err(Errno::EAGAIN);
    for _ in 0..QUICK_TRIES {
        if let Some(entry) = table::all_below(id)?.first() {
            return Err(covered(entry, id));
        }
        answer = mount_point.unmount(MntFlags::MNT_EXPIRE);
        if !matches!(answer, Err(Errno::EAGAIN | Errno::EBUSY)) {
            break;
        }
    }
    Ok(answer)
}

/// A lazy unmount has no two steps; a mount that another process puts on top between the check and
/// the call, a few microseconds, would go instead. `None` then, if it was not the mount that went.
fn drop_lazily(mount_point: &MountPoint<'_>, id: MountId) -> Result<Option<Detached>, MountError> {
    if mount_point.top()? != Some(id) {
        return Ok(None);
    }
    match mount_point.unmount(MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(cause) => return Err(mount_point.fail(cause)),
    }
    let here = mount_point.real_path()?;
    Ok(table::standing(id, &here)?
        .is_none()
        .then_some(Detached::Now))
}

/// Takes the mounts that are not to come along out of a tree that was just put in place. It is
/// private, so their originals stay.
pub(super) fn prune(tree: &Tree) -> Result<(), MountError> {
    if tree.without.is_empty() {
        return Ok(());
    }
    let (id, last) = (tree.attached.id, tree.attached.last_id);
    let came_along = |mount: MountId| !table::is_unique(id) || (id < mount && mount <= last);
    let top = Handle::new(
        tree.fd
            .try_clone()
            .map_err(|cause| MountError::io("look at", &tree.shown, cause))?,
        &tree.shown,
    )?;
    let top = top.real_path()?;
    for inner in &tree.without {
        let target = top.join(inner);
        let mount_point = match MountPoint::new(&target) {
            Err(MountError::Missing { .. }) => continue, // it stood inside another one of these
            mount_point => mount_point?,
        };
        let below = mount_point.parent.mount_id()?;
        while let Some(mount) = mount_point.top()?.filter(|mount| *mount != below) {
            if !came_along(mount) {
                break;
            }
            mount_point
                .unmount(MntFlags::MNT_DETACH)
                .map_err(|cause| mount_point.fail(cause))?;
        }
    }
    Ok(())
}

/// Takes back a mount whose attachment failed half-way; the first error counts.
pub(super) fn undo(tree: BorrowedFd<'_>, target: &Path) {
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    if let Err(error) = umount2(path.as_str(), MntFlags::MNT_DETACH) {
        tracing::warn!(target = %target.display(), %error, "cannot take a half-made mount back");
    }
}
