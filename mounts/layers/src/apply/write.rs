//! Fills files that have been made. A thread, of which there may be several.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use crate::apply::Options;
use crate::apply::give::Give;
use crate::apply::queue::Chunk;
use crate::apply::run::Shared;
use crate::apply::settle::{self, Written};
use crate::error::Error;
use crate::node;

/// A new file, and all that shall be in it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) file: OwnedFd,
    /// As the archive has it, cleaned.
    pub(super) path: PathBuf,
    pub(super) content: Vec<Chunk>,
    pub(super) give: Give,
}

/// Does jobs until no more come.
pub(super) fn work(options: &Options<'_>, shared: &Shared) -> Result<(), Error> {
    while let Some(jobs) = shared.jobs.pop() {
        let filled = jobs.into_iter().map(|job| fill(job, options));
        let filled = filled.collect::<Result<Vec<_>, _>>()?;
        settle::hand_over(filled, shared);
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
    content.complete(job.file, job.path, size, &job.give, options)
}

/// What is being written to one file.
pub(super) struct Content {
    written: u64,
    sum: Option<Box<Xxh3>>,
}

impl Content {
    pub(super) fn new(options: &Options<'_>) -> Self {
        Self {
            written: 0,
            sum: options.manifest.map(|_| Box::new(Xxh3::new())),
        }
    }

    /// As [`new`](Self::new), for a file with holes, which nobody wants to hash.
    pub(super) fn sparse() -> Self {
        let (written, sum) = (0, None);
        Self { written, sum }
    }

    /// Writes the next bytes, which belong at `at`.
    pub(super) fn write(&mut self, file: &OwnedFd, data: &[u8], at: u64) -> Result<(), Errno> {
        if let Some(sum) = &mut self.sum {
            sum.update(data);
        }
        self.written += data.len() as u64;
        node::write_all(file.as_fd(), data, at)
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
        give: &Give,
        options: &Options<'_>,
    ) -> Result<Written, Error> {
        give.to(file.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        if let Some(manifest) = options.manifest {
            let digest = self.sum.map(|sum| sum.digest128());
            manifest.file(path.as_os_str().as_bytes(), size, digest);
        }
        Ok(Written { file, path })
    }
}
