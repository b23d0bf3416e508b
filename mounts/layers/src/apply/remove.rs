//! Recursive removal of a replaced file, and a walk that measures a layer whose usage is not the sum
//! of the files made.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_128;

use crate::dir_stack::DirStack;
use crate::error::Error;
use crate::node::{self, Kind, Stat};

/// Directories that stay open, besides the current one.
const OPEN_DIRECTORIES: usize = 16;

/// The names that a layer brought, by their hashes.
#[derive(Debug, Default)]
pub(super) struct Own(HashSet<u128>);

impl Own {
    pub(super) fn add(&mut self, path: &Path) {
        self.0.insert(xxh3_128(path.as_os_str().as_bytes()));
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.0.contains(&xxh3_128(path.as_os_str().as_bytes()))
    }
}

/// The names in a directory.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in node::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// True if a directory is empty.
pub(super) fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in node::read_dir(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes what is called `name` in `dir`, and all below; what is mounted there is not entered.
/// `shown` is its path, for errors.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &CStr, shown: &Path) -> Result<(), Error> {
    let failed = |cause| Error::io("replace", shown, cause);
    match unlink(dir, name).map_err(failed)? {
        Gone::Yes => return Ok(()),
        Gone::IsDirectory => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(dir, c".", flags, Mode::empty()).map_err(failed)?;
    let device = node::stat(top.as_fd()).map_err(failed)?;
    let mut dir_stack = DirStack::new(top, OPEN_DIRECTORIES);
    let mut todo = vec![vec![name.to_owned()]];
    let mut entered: Vec<CString> = Vec::new();
    while let Some(names) = todo.last_mut() {
        let Some(next) = names.pop() else {
            todo.pop();
            dir_stack.leave();
            if let Some(done) = entered.pop() {
                let here = dir_stack.here()?;
                rustix::fs::unlinkat(here, &*done, AtFlags::REMOVEDIR).map_err(failed)?;
            }
            continue;
        };
        let here = dir_stack.here()?;
        if let Gone::Yes = unlink(here, &next).map_err(failed)? {
            continue;
        }
        let (found, stat) = node::find(here, &next).map_err(failed)?;
        if !stat.same_mount(&device) {
            let path = shown.to_owned();
            return Err(Error::MountPoint { path });
        }
        todo.push(self::names(found.as_fd()).map_err(failed)?);
        dir_stack.enter(&next, found, stat.identity());
        entered.push(next);
    }
    Ok(())
}

enum Gone {
    Yes,
    IsDirectory,
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<Gone, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Gone::Yes),
        Err(Errno::ISDIR) => Ok(Gone::IsDirectory),
        Err(other) => Err(other),
    }
}

/// Blocks of 512 bytes and inodes of a tree, its root included.
pub(super) fn usage(root: BorrowedFd<'_>) -> Result<(u64, u64), Error> {
    let top = node::stat(root).map_err(|cause| Error::io("measure", Path::new(""), cause))?;
    let (mut blocks, mut inodes) = (top.blocks, 1);
    let mut seen = HashSet::new();
    walk(root, &mut |_, stat| {
        let is_one = stat.kind() == Kind::Directory || stat.links == 1;
        if is_one || seen.insert(stat.identity()) {
            blocks += stat.blocks;
            inodes += 1;
        }
        Ok(())
    })?;
    Ok((blocks, inodes))
}

/// Tells `visit` each file of a tree, and its path, but the root's. A directory is told before what
/// is in it.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(&Path, &Stat) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |cause| Error::io("walk", Path::new(""), cause);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(root, c".", flags, Mode::empty()).map_err(failed)?;
    let mut todo = vec![names(top.as_fd()).map_err(failed)?];
    let mut dir_stack = DirStack::new(top, OPEN_DIRECTORIES);
    while let Some(names) = todo.last_mut() {
        let Some(next) = names.pop() else {
            todo.pop();
            dir_stack.leave();
            continue;
        };
        let (found, stat) = node::find(dir_stack.here()?, &next).map_err(failed)?;
        visit(&dir_stack.join(&next), &stat)?;
        if stat.kind() == Kind::Directory {
            todo.push(self::names(found.as_fd()).map_err(failed)?);
            dir_stack.enter(&next, found, stat.identity());
        }
    }
    Ok(())
}
