//! Fills files that have been made. A thread, of which there may be several.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use crate::apply::Options;
use crate::apply::attributes::PendingAttributes;
use crate::apply::shared::{Job, Shared, Written};
use crate::apply::write_back;
use crate::error::Error;
use crate::node;

/// Does jobs until no more come.
pub(super) fn work(options: &Options<'_>, shared: &Shared) -> Result<(), Error> {
    while let Some(jobs) = shared.jobs.pop() {
        let filled = jobs.into_iter().map(|job| fill(job, options));
        let filled = filled.collect::<Result<Vec<_>, _>>()?;
        write_back::hand_over(filled, shared);
        shared.jobs.done();
    }
    Ok(())
}

fn fill(job: Job, options: &Options<'_>) -> Result<Written, Error> {
    let mut content = Content::new(options);
    for chunk in &job.content {
        let at = content.written;
        content
            .write(&job.file, chunk, at)
            .map_err(|cause| Error::io("write", &job.path, cause))?;
    }
    drop(job.content);
    let size = content.written;
    content.complete(job.file, job.path, size, &job.attributes, options)
}

/// Bytes of a run of zeros that becomes a hole.
const HOLE: usize = 64 << 10;

/// The parts of `data` between runs of zeros.
pub(super) fn runs(data: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let end_of_piece = |at: usize| data.len().min(at + HOLE);
    let is_hole = move |at: usize| {
        let piece = &data[at..end_of_piece(at)];
        piece.len() == HOLE && is_zero(piece)
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < data.len() && is_hole(at) {
            at = end_of_piece(at);
        }
        let start = at;
        while at < data.len() && !is_hole(at) {
            at = end_of_piece(at);
        }
        (start < at).then_some(start..at)
    })
}

fn is_zero(data: &[u8]) -> bool {
    // SIMD where the compiler finds it; most pieces end the search in their first block.
    data.chunks(64)
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Content being written to one file.
pub(super) struct Content {
    /// Bytes so far, and those up to the last that is not in a hole.
    written: u64,
    end: u64,
    sum: Option<Box<Xxh3>>,
}

impl Content {
    pub(super) fn new(options: &Options<'_>) -> Self {
        Self {
            written: 0,
            end: 0,
            sum: options.digests.map(|_| Box::new(Xxh3::new())),
        }
    }

    /// As [`new`](Self::new), for a sparse file, which is not hashed.
    pub(super) fn sparse() -> Self {
        Self {
            written: 0,
            end: 0,
            sum: None,
        }
    }

    /// Writes the next bytes, which belong at `at`; for long runs of zeros it leaves holes.
    pub(super) fn write(&mut self, file: &OwnedFd, data: &[u8], at: u64) -> Result<(), Errno> {
        if let Some(sum) = &mut self.sum {
            sum.update(data);
        }
        self.written += data.len() as u64;
        for run in runs(data) {
            self.end = at + run.end as u64;
            node::write_all(file.as_fd(), &data[run.clone()], at + run.start as u64)?;
        }
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Gives the file what it has yet to get.
    pub(super) fn complete(
        self,
        file: OwnedFd,
        path: PathBuf,
        size: u64,
        attributes: &PendingAttributes,
        options: &Options<'_>,
    ) -> Result<Written, Error> {
        if self.end < size {
            rustix::fs::ftruncate(&file, size).map_err(|cause| Error::io("write", &path, cause))?;
        }
        attributes
            .to(file.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        if let Some(digests) = options.digests {
            let digest = self.sum.map(|sum| sum.digest128());
            digests.file(path.as_os_str().as_bytes(), size, digest);
        }
        Ok(Written { file, path })
    }
}

#[cfg(test)]
mod tests {
    use super::{HOLE, runs};

    #[test]
    fn runs_leave_out_whole_pieces_of_zeros() {
        let mut data = vec![0; 5 * HOLE + 7];
        data[HOLE] = 1;
        data[3 * HOLE - 1] = 1;
        let found: Vec<_> = runs(&data).collect();
        assert_eq!(found, [HOLE..3 * HOLE, 5 * HOLE..5 * HOLE + 7]);
        assert_eq!(runs(&[]).count() + runs(&data[..HOLE]).count(), 0);
        let mut short = runs(&data[..HOLE - 1]);
        assert_eq!((short.next(), short.next()), (Some(0..HOLE - 1), None));
    }
}
