//! Walks a directory tree by descriptor, to delete, to measure, to label it or to give it to a group.
//!
//! The tree may be hostile and may change meanwhile. So: no path is resolved twice,
//! no symlink is followed, no mount is entered, and neither depth nor width costs more than
//! memory: at most 64 directories are open at once, however deep the tree. Below that, the
//! way back is `..`, and it must lead to the very directory that was left.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::barrier::Barrier;
use crate::error::Error;
use crate::sys::FLAGS;
use crate::sys::{self, Stat, WriteBack};
use crate::types::Usage;
use walk::{Next, Visitor, open, walk};

mod each;
pub mod flags;
mod group;
mod label;
mod walk;

pub use group::give_group;
pub use label::label;

/// Directories that are read again in one deletion because they were not empty after all.
const SECOND_LOOKS: u32 = 1000;

/// Deleted files that are held open at once by one deletion.
const HELD: usize = 256;

/// Deletes `name` in `parent` and all below it, also what is immutable or append-only. `shown` is
/// the path of `parent`, for errors, and `barrier` that of its file system. Cost: one unlink a file;
/// where that file system keeps no order, one descriptor more a file and one syncfs(2) for 256 of
/// them ([`reuse_is_in_order`](Barrier::reuse_is_in_order)). Nothing there is success. `keep_going` is
/// asked before each entry.
///
/// # Errors
/// [`Error::Stopped`] at once when `keep_going` answers false. Otherwise, after everything that
/// could be deleted is: [`Error::Busy`] for the first mount point found, else [`Error::Io`] for
/// the first failure.
pub fn delete(
    parent: BorrowedFd<'_>,
    name: &CStr,
    shown: &Path,
    barrier: &Barrier,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let mut delete = Delete {
        held: (!barrier.reuse_is_in_order()).then(Vec::new),
        barrier,
        busy: None,
        failed: None,
        second_looks: SECOND_LOOKS,
    };
    let walked = walk(parent, name, shown, &mut delete, keep_going);
    delete.release()?;
    walked?;
    match delete.busy.or(delete.failed) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Measures `name` in `parent` and all below it, each inode once; mounts inside are left out, as
/// is what vanishes meanwhile. `shown` is the path of `parent`, for errors. Cost: one stat a
/// file; memory for each file with several names.
///
/// # Errors
/// [`Error::Stopped`] when `keep_going`, asked before each entry, answers false. [`Error::Io`] for
/// the first failure, `NotFound` if there is nothing of that name.
pub fn usage(
    parent: BorrowedFd<'_>,
    name: &CStr,
    shown: &Path,
    keep_going: &dyn Fn() -> bool,
) -> Result<Usage, Error> {
    let path = shown.join(OsStr::from_bytes(name.to_bytes()));
    sys::stat(parent, name).map_err(|cause| Error::io("measure", &path, cause))?;
    let mut measure = Measure::default();
    walk(parent, name, shown, &mut measure, keep_going)?;
    match measure.failed {
        Some(error) => Err(error),
        None => Ok(measure.total),
    }
}

/// True if a directory is empty. `shown` is its path, for errors.
///
/// # Errors
/// [`Error::Io`].
pub fn is_empty(dir: BorrowedFd<'_>, shown: &Path) -> Result<bool, Error> {
    let fail = |cause: Errno| Error::io("read directory", shown, cause);
    let mut dir = Dir::openat(dir, c".", FLAGS, Mode::empty()).map_err(fail)?;
    for entry in dir.iter() {
        let entry = entry.map_err(fail)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Delete<'a> {
    /// Files deleted since the last wait, open, so that its inode is in use; `None` where that is
    /// not needed.
    held: Option<Vec<OwnedFd>>,
    barrier: &'a Barrier,
    busy: Option<Error>,
    failed: Option<Error>,
    second_looks: u32,
}

impl Delete<'_> {
    /// Keeps the inode of `name`, which is about to be deleted, in use until its name has left the
    /// disk.
    fn hold(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let full = self.held.as_ref().is_some_and(|held| held.len() >= HELD);
        if full && let Err(error) = self.release() {
            self.failed.get_or_insert(error);
            return Err(Errno::EIO);
        }
        if let Some(held) = &mut self.held {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            held.push(openat(dir, name, flags, Mode::empty())?);
        }
        Ok(())
    }

    /// Waits until the names of what was deleted have left the disk, and lets go of the inodes.
    fn release(&mut self) -> Result<(), Error> {
        match &mut self.held {
            Some(held) if !held.is_empty() => {
                self.barrier.filled()?;
                held.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Visitor for Delete<'_> {
    fn verb(&self) -> &'static str {
        "delete"
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
        _: &Stat,
    ) -> Result<Next, Errno> {
        let is_dir = match kind {
            Some(kind) => kind == Type::Directory,
            None => sys::stat(dir, name)?.is_dir(),
        };
        if is_dir {
            return Ok(Next::Enter);
        }
        self.hold(dir, name)?;
        let unlink = || unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
        match flags::without(dir, name, unlink) {
            Err(Errno::EISDIR) => Ok(Next::Enter), // it was replaced since it was read
            other => other.map(|()| Next::Pass),
        }
    }

    fn force(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(dir, name, flags, Mode::empty())?;
        let proc = fd_path(found.as_fd());
        fchmodat(
            dir,
            proc.as_path(),
            Mode::S_IRWXU,
            FchmodatFlags::FollowSymlink,
        )?;
        open(found.as_fd(), c".")
    }

    fn entered(&mut self, dir: BorrowedFd<'_>, stat: &Stat) {
        // If it fails, deleting will.
        let _ = flags::make_writable(dir, stat.inode);
        let owner = Mode::S_IRWXU.bits();
        if stat.mode & owner != owner {
            // Who is not root needs these bits to delete inside. If that fails, deleting will.
            let _ = fchmod(dir, Mode::S_IRWXU);
        }
    }

    fn left(&mut self, dir: BorrowedFd<'_>, name: &CStr, clean: bool) -> Result<bool, Errno> {
        self.hold(dir, name)?;
        let rmdir = || unlinkat(dir, name, UnlinkatFlags::RemoveDir);
        match flags::without(dir, name, rmdir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if !clean => Ok(false),
            // Deleting while reading may skip entries on some file systems.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.second_looks > 0 => {
                self.second_looks -= 1;
                Ok(true)
            }
            other => other.map(|()| false),
        }
    }

    fn mounted(&mut self, path: PathBuf) {
        self.busy.get_or_insert(Error::Busy { path });
    }

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

#[derive(Default)]
struct Measure {
    total: Usage,
    seen: HashSet<((u32, u32), u64)>,
    failed: Option<Error>,
}

impl Measure {
    /// Counts an inode, unless it was counted under another name.
    fn count(&mut self, stat: &Stat) {
        // Directories have several links, but only one name.
        if stat.is_dir() || stat.links < 2 || self.seen.insert(stat.identity()) {
            self.total.bytes += stat.blocks * 512;
            self.total.inodes += 1;
        }
    }
}

impl Visitor for Measure {
    fn verb(&self) -> &'static str {
        "measure"
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        _: Option<Type>,
        root: &Stat,
    ) -> Result<Next, Errno> {
        let stat = sys::stat(dir, name)?;
        if !stat.same_mount(root) {
            return Ok(Next::Pass);
        }
        self.count(&stat);
        Ok(if stat.is_dir() {
            Next::Enter
        } else {
            Next::Pass
        })
    }

    fn force(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<OwnedFd, Errno> {
        Err(Errno::EACCES) // measuring changes nothing
    }

    fn entered(&mut self, _: BorrowedFd<'_>, _: &Stat) {}

    fn left(&mut self, _: BorrowedFd<'_>, _: &CStr, _: bool) -> Result<bool, Errno> {
        Ok(false)
    }

    fn mounted(&mut self, _: PathBuf) {}

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

/// Writes the content of all files in a tree back to the disk and measures the tree. Dirty pages
/// of all files are on their way before the first one is waited for. Names, attributes and what is no
/// regular file are left to the barrier. Cost: two walks; one where no file holds anything.
///
/// # Errors
/// [`Error::Lost`] if content could not be written; [`Error::Io`] for the first other failure.
pub fn write_back(parent: BorrowedFd<'_>, name: &CStr, shown: &Path) -> Result<Usage, Error> {
    let path = shown.join(OsStr::from_bytes(name.to_bytes()));
    sys::stat(parent, name).map_err(|cause| Error::io("write back", &path, cause))?;
    let mut write_back = WriteBackWalk {
        what: WriteBack::Start,
        shown: path,
        begun: false,
        measure: Measure::default(),
        failed: None,
    };
    write_back.walk(parent, name, shown)?;
    if write_back.begun {
        write_back.what = WriteBack::Finish;
        write_back.walk(parent, name, shown)?;
    }
    Ok(write_back.measure.total)
}

struct WriteBackWalk {
    what: WriteBack,
    shown: PathBuf,
    /// Set once write-back of a file has begun.
    begun: bool,
    /// Filled by the first walk.
    measure: Measure,
    failed: Option<Error>,
}

impl WriteBackWalk {
    fn walk(&mut self, parent: BorrowedFd<'_>, name: &CStr, shown: &Path) -> Result<(), Error> {
        walk(parent, name, shown, self, &|| true)?;
        self.failed.take().map_or(Ok(()), Err)
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        // Another file may be there by now; it must not be waited for, nor followed.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(()),
            other => other?,
        };
        if let Err(cause) = sys::write_back(file.as_fd(), self.what) {
            let path = self.shown.join(OsStr::from_bytes(name.to_bytes()));
            let cause = cause.into();
            self.failed.get_or_insert(Error::Lost { path, cause });
        }
        Ok(())
    }
}

impl Visitor for WriteBackWalk {
    fn verb(&self) -> &'static str {
        "write back"
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
        root: &Stat,
    ) -> Result<Next, Errno> {
        let is_first = self.what == WriteBack::Start;
        if !is_first && !matches!(kind, Some(Type::Directory | Type::File) | None) {
            return Ok(Next::Pass);
        }
        let stat = sys::stat(dir, name)?;
        if !stat.same_mount(root) {
            return Ok(Next::Pass);
        }
        if is_first {
            self.measure.count(&stat);
        }
        if stat.is_dir() {
            return Ok(Next::Enter);
        }
        if stat.is_file() && stat.size > 0 {
            self.begun = true;
            self.file(dir, name)?;
        }
        Ok(Next::Pass)
    }

    fn force(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<OwnedFd, Errno> {
        Err(Errno::EACCES) // root needs no force, and others must not change modes here
    }

    fn entered(&mut self, _: BorrowedFd<'_>, _: &Stat) {}

    fn left(&mut self, _: BorrowedFd<'_>, _: &CStr, _: bool) -> Result<bool, Errno> {
        Ok(false)
    }

    fn mounted(&mut self, _: PathBuf) {}

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests;
