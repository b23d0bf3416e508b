//! Files that were unpacked into a directory which is a symlink below.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timestamps};
use rustix::io::Errno;

use super::{Rebase, open};
use crate::apply::below::Below;
use crate::apply::dirs::{Dirs, ROOT, Setting};
use crate::apply::names::{c_name, clean};
use crate::apply::remove;
use crate::error::Error;
use crate::node::{self, Kind};

/// Moves what lies in the directory at `path` to where `target`, the symlink below, leads, and
/// removes the directory, so that the symlink is seen. Answers where that is; `None` if nothing was
/// changed, because it is no directory, or the directory itself.
pub(super) fn relocate(
    rebase: &Rebase<'_>,
    lowers: &[BorrowedFd<'_>],
    path: &Path,
    target: &CStr,
) -> Result<Option<PathBuf>, Error> {
    let Some(from) = open(rebase.layer, path)? else {
        return Ok(None);
    };
    let failed = |cause| Error::io("move", path, cause);
    let mut dirs = dirs(rebase, lowers)?;
    let text = led_to(path, target);
    let names = clean(&text);
    let into = match dirs.resolve(&names, true) {
        Ok(Some(into)) if into != ROOT || names.is_empty() => into,
        Ok(_) | Err(Error::NotADirectory { .. }) => return Ok(None),
        Err(error) if error.errno() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let target = dirs.path(into);
    if target.starts_with(path) {
        return Ok(None);
    }
    merge(from.as_fd(), dirs.open(into)?).map_err(failed)?;
    remove(rebase, path).map_err(failed)?;
    dirs.finish()?;
    Ok(Some(target))
}

/// The directories of the layer, none of which is known yet.
pub(super) fn dirs<'a>(
    rebase: &Rebase<'_>,
    lowers: &'a [BorrowedFd<'a>],
) -> Result<Dirs<'a>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::openat(rebase.layer, c".", flags, Mode::empty())
        .map_err(|cause| Error::io("open", Path::new(""), cause))?;
    let us = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let setting = Setting {
        below: Below::new(lowers, rebase.markers),
        markers: Some(rebase.markers),
        us,
        most: u64::MAX,
    };
    Ok(Dirs::new(layer, false, setting))
}

/// The path that a symlink at `path` stands for.
fn led_to(path: &Path, target: &CStr) -> Vec<u8> {
    let target = target.to_bytes();
    if target.starts_with(b"/") {
        return target.to_vec();
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    [parent.as_os_str().as_bytes(), b"/", target].concat()
}

/// Moves all names of one directory to another; what has a name there is replaced, but for
/// directories, which are merged.
fn merge(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<(), Errno> {
    let own = |dir: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(dir, 0);
    let mut todo = vec![(own(from)?, own(into)?)];
    while let Some((from, into)) = todo.pop() {
        let before = node::stat(into.as_fd())?;
        for name in remove::names(from.as_fd())? {
            if let Some(pair) = move_one(from.as_fd(), into.as_fd(), &name)? {
                todo.push(pair);
            }
        }
        let times = Timestamps {
            last_access: before.accessed,
            last_modification: before.modified,
        };
        let path = node::proc_path(into.as_fd());
        rustix::fs::utimensat(CWD, &*path, &times, AtFlags::empty())?;
    }
    Ok(())
}

/// Moves a name. Two directories are answered, to be merged.
fn move_one(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &CString,
) -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
    match rustix::fs::renameat_with(from, name, into, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {}
        other => return other.map(|()| None),
    }
    let (ours, stat) = node::find(from, name)?;
    let (theirs, there) = node::find(into, name)?;
    let are_directories = stat.kind() == Kind::Directory && there.kind() == Kind::Directory;
    if are_directories {
        return Ok(Some((ours, theirs)));
    }
    if there.kind() == Kind::Directory || stat.kind() == Kind::Directory {
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        remove::remove(into, name, path)
            .map_err(|error| Errno::from_raw_os_error(error.errno().unwrap_or(libc::EIO)))?;
    }
    rustix::fs::renameat(from, name, into, name).map(|()| None)
}

/// Removes a directory in which only directories are left.
fn remove(rebase: &Rebase<'_>, path: &Path) -> Result<(), Errno> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let name = c_name(path.file_name().unwrap_or_default().as_bytes()).unwrap_or_default();
    let Ok(Some(dir)) = open(rebase.layer, parent) else {
        return Ok(());
    };
    match rustix::fs::unlinkat(&dir, &*name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => remove::remove(dir.as_fd(), &name, path)
            .map_err(|error| Errno::from_raw_os_error(error.errno().unwrap_or(libc::EIO))),
        other => other,
    }
}
