//! The content of one file: cloned where the file system can, or sharing the blocks of the image that
//! it is in, else copied by the kernel, else by us; holes stay holes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::copy::job::Job;
use crate::copy::share::{Shared, share};
use crate::error::Error;
use crate::node;
use crate::progress::Progress;

/// Bytes between two looks at whether to stop.
const STRIDE: u64 = 8 << 20;

/// Bytes read and written at once where the kernel does not copy.
const BUFFER: usize = 256 << 10;

/// Method by which the content of a file was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// It shares the blocks of the source.
    Cloned,
    /// It shares all but its last block, which is written in part.
    AllButLast,
    /// It has blocks of its own.
    Copied,
}

/// Copies content; remembers for each layer which methods its file system refused.
pub(super) struct Content<'a> {
    layers: Vec<Ways>,
    images: &'a [Option<BorrowedFd<'a>>],
    progress: &'a dyn Progress,
}

#[derive(Debug)]
struct Ways {
    clone: AtomicBool,
    share: AtomicBool,
    in_kernel: AtomicBool,
}

impl<'a> Content<'a> {
    pub(super) fn new(
        layers: usize,
        images: &'a [Option<BorrowedFd<'a>>],
        progress: &'a dyn Progress,
    ) -> Self {
        let ways = || Ways {
            clone: AtomicBool::new(true),
            share: AtomicBool::new(true),
            in_kernel: AtomicBool::new(true),
        };
        Self {
            layers: std::iter::repeat_with(ways).take(layers).collect(),
            images,
            progress,
        }
    }

    /// Fills the empty file of a job.
    pub(super) fn copy(&self, job: &Job, buffer: &mut Vec<u8>) -> Result<Moved, Error> {
        if job.size == 0 {
            return Ok(Moved::Copied);
        }
        let ways = &self.layers[job.layer];
        if ways.clone.load(Ordering::Relaxed) && self.clone(job, ways)? {
            self.progress.advanced(0, job.size);
            return Ok(Moved::Cloned);
        }
        if let Some(whole) = self.share(job, ways)? {
            self.advance(whole)?;
            self.piece(job, ways, buffer, whole, job.size)?;
            self.end(job)?;
            let is_whole = whole == job.size;
            return Ok(if is_whole {
                Moved::Cloned
            } else {
                Moved::AllButLast
            });
        }
        self.pieces(job, ways, buffer)?;
        Ok(Moved::Copied)
    }

    /// Answers how much of the file is there by sharing the blocks of an image.
    fn share(&self, job: &Job, ways: &Ways) -> Result<Option<u64>, Error> {
        let image = self.images.get(job.layer).copied().flatten();
        let Some(image) = image.filter(|_| ways.share.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        let shared = share(job, image);
        match shared.map_err(|cause| Error::io("share the blocks of", &job.path, cause))? {
            Shared::Up(whole) => Ok(Some(whole)),
            Shared::NotThis => Ok(None),
            Shared::Never => {
                ways.share.store(false, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    fn clone(&self, job: &Job, ways: &Ways) -> Result<bool, Error> {
        match rustix::fs::ioctl_ficlone(&job.to, &job.from) {
            Ok(()) => Ok(true),
            // Another file system, or one that cannot: so it will be for the next file.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                ways.clone.store(false, Ordering::Relaxed);
                Ok(false)
            }
            // This file cannot: nocow, encrypted or in use for swap.
            Err(Errno::INVAL | Errno::TXTBSY | Errno::PERM) => Ok(false),
            Err(cause) => Err(Error::io("clone", &job.path, cause)),
        }
    }

    fn pieces(&self, job: &Job, ways: &Ways, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let failed = |cause| Error::io("copy", &job.path, cause);
        let mut at = 0;
        while at < job.size {
            let (start, end) = if job.sparse {
                match next_data(job.from.as_fd(), at, job.size).map_err(failed)? {
                    Some(piece) => piece,
                    None => break,
                }
            } else {
                (at, job.size)
            };
            self.advance(start - at)?;
            self.piece(job, ways, buffer, start, end)?;
            at = end;
        }
        self.advance(job.size - at)?;
        self.end(job)
    }

    /// The last piece may have been a hole, and the source may have shrunk meanwhile.
    fn end(&self, job: &Job) -> Result<(), Error> {
        let set = rustix::fs::ftruncate(&job.to, job.size);
        set.map_err(|cause| Error::io("copy", &job.path, cause))
    }

    fn piece(
        &self,
        job: &Job,
        ways: &Ways,
        buffer: &mut Vec<u8>,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        let failed = |cause| Error::io("copy", &job.path, cause);
        let mut at = start;
        while at < end {
            let length = STRIDE.min(end - at);
            let mut done = None;
            if ways.in_kernel.load(Ordering::Relaxed) {
                done = in_kernel(job, at, length).map_err(failed)?;
                if done.is_none() {
                    ways.in_kernel.store(false, Ordering::Relaxed);
                }
            }
            let done = match done {
                Some(done) => done,
                None => by_hand(job, at, length, buffer).map_err(failed)?,
            };
            if done == 0 {
                return self.advance(end - at); // it shrank
            }
            at += done;
            self.advance(done)?;
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) -> Result<(), Error> {
        if self.progress.cancelled() {
            return Err(Error::Stopped);
        }
        if bytes > 0 {
            self.progress.advanced(0, bytes);
        }
        Ok(())
    }
}

/// Copies some bytes within the kernel; `None` if it does not do that between these two files.
fn in_kernel(job: &Job, at: u64, length: u64) -> Result<Option<u64>, Errno> {
    let (mut from, mut to) = (at, at);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (source, target) = (&job.from, &job.to);
    loop {
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(done) => return Ok(Some(done as u64)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::PERM
                | Errno::TXTBSY,
            ) => return Ok(None),
            Err(other) => return Err(other),
        }
    }
}

fn by_hand(job: &Job, at: u64, length: u64, buffer: &mut Vec<u8>) -> Result<u64, Errno> {
    buffer.resize(BUFFER, 0);
    let length = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
    let read = loop {
        match rustix::io::pread(&job.from, &mut buffer[..length], at) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    node::write_all(job.to.as_fd(), &buffer[..read], at)?;
    Ok(read as u64)
}

/// The next part of a file that is no hole, from `at` on and before `size`. Moves the file's
/// offset.
pub(crate) fn next_data(
    file: BorrowedFd<'_>,
    at: u64,
    size: u64,
) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))), // knows no holes
        other => other?,
    };
    if start >= size {
        return Ok(None);
    }
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Err(Errno::NXIO) => size,
        other => other?,
    };
    Ok(Some((start, end.min(size))))
}
