//! Comparison of a copied-up file with its original.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::node::{self, Kind, Stat, Xattrs};

/// Bytes compared at once.
const BUFFER: usize = 64 << 10;

/// A file and what belongs to it.
pub(super) struct Version<'a> {
    pub(super) file: BorrowedFd<'a>,
    pub(super) stat: &'a Stat,
    /// In order, without overlayfs' notes.
    pub(super) xattrs: &'a Xattrs,
}

/// True if attributes and times are equal, access times excluded: reading sets them.
pub(super) fn same_attributes(upper: &Version<'_>, lower: &Version<'_>) -> bool {
    let key = |stat: &Stat| (stat.mode, stat.uid, stat.gid, stat.number);
    key(upper.stat) == key(lower.stat)
        && upper.stat.modified == lower.stat.modified
        && upper.xattrs == lower.xattrs
}

/// True if two files, no directories, are equal in everything that a layer keeps. Files with
/// several names never are: the set of names may have changed.
pub(super) fn same_file(upper: &Version<'_>, lower: &Version<'_>) -> Result<bool, Errno> {
    if !same_attributes(upper, lower) || upper.stat.links > 1 || lower.stat.links > 1 {
        return Ok(false);
    }
    match upper.stat.kind() {
        Kind::Regular => {
            Ok(upper.stat.size == lower.stat.size && same_content(upper.file, lower.file)?)
        }
        Kind::Symlink => {
            let target = |file| rustix::fs::readlinkat(file, c"", Vec::new());
            Ok(target(upper.file)? == target(lower.file)?)
        }
        _ => Ok(true),
    }
}

fn same_content(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (upper, lower) = (node::reopen(upper)?, node::reopen(lower)?);
    let (mut ours, mut theirs) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut at = 0;
    loop {
        let read = fill(upper.as_fd(), &mut ours, at)?;
        if fill(lower.as_fd(), &mut theirs, at)? != read || ours[..read] != theirs[..read] {
            return Ok(false);
        }
        if read < BUFFER {
            return Ok(true);
        }
        at += read as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Err(Errno::INTR) => {}
            Ok(0) => break,
            other => filled += other?,
        }
    }
    Ok(filled)
}
