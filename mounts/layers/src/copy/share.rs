//! Blocks of a file in a mounted image, shared with a copy of the file.
//!
//! EROFS cannot clone a file onto another file system. But a file that is not compressed lies as it is
//! in the image file, at the position that FIEMAP tells, and the file system of the image file can
//! share those blocks.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::copy::job::Job;
use crate::sys;

/// Block of EROFS, and of the file systems that share blocks.
pub(super) const BLOCK: u64 = 4096;

/// The smallest file that is worth the calls.
const LEAST: u64 = 4 * BLOCK;

/// Outcome of sharing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// All whole blocks of the file are shared or holes; the bytes from here on are not written.
    Up(u64),
    /// Not this file. What was written of it is to be written again.
    NotThis,
    /// Nor any other file of this image.
    Never,
}

/// Shares the whole blocks of a job's file with the image file that its layer is mounted from. The
/// target may be shorter than the file in the end.
pub(super) fn share(job: &Job, image: BorrowedFd<'_>) -> Result<Shared, Errno> {
    let whole = job.size - job.size % BLOCK;
    if job.size < LEAST {
        return Ok(Shared::NotThis);
    }
    let mut at = 0;
    while at < whole {
        let extents = match sys::extents(job.from.as_fd(), at, whole - at) {
            Err(Errno::OPNOTSUPP | Errno::NOTTY) => return Ok(Shared::Never),
            extents => extents?,
        };
        let Some(last) = extents.last() else {
            break;
        };
        let next = last.logical.saturating_add(last.length);
        for extent in &extents {
            let end = extent.logical.saturating_add(extent.length).min(whole);
            let is_whole = extent.logical.is_multiple_of(BLOCK)
                && extent.physical.is_multiple_of(BLOCK)
                && end.is_multiple_of(BLOCK);
            if !extent.is_plain() || !is_whole || extent.logical >= end {
                return Ok(Shared::NotThis);
            }
            let to = (job.to.as_fd(), extent.logical);
            match sys::clone_range((image, extent.physical), end - extent.logical, to) {
                Ok(()) => {}
                // Another file system than the image's, or one that cannot, or of larger blocks.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
                    return Ok(Shared::Never);
                }
                Err(Errno::TXTBSY | Errno::PERM) => return Ok(Shared::NotThis),
                Err(cause) => return Err(cause),
            }
        }
        if next <= at {
            return Ok(Shared::NotThis);
        }
        at = next;
    }
    Ok(Shared::Up(whole))
}
