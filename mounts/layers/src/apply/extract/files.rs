//! Regular files: small ones are made here and filled by others, large ones are filled at once.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::apply::attributes::PendingAttributes;
use crate::apply::dirs::Id;
use crate::apply::extract::Extractor;
use crate::apply::queue::Chunk;
use crate::apply::shared::Job;
use crate::apply::write::Content;
use crate::apply::write_back;
use crate::durable::Durable;
use crate::error::Error;
use crate::sys::{self, WriteBack};
use crate::tar::Entry;

/// Bytes of a file up to which a worker fills it.
const SMALL: u64 = 128 << 10;

/// Files that are handed over at once, and bytes of the stream that they may span: buffers are
/// few, and those of jobs that wait here cannot be filled again.
const BATCH: (usize, u64) = (32, 1 << 20);

/// Bytes of a large file after which the disk gets to know them.
const STEP: u64 = 8 << 20;

impl Extractor<'_> {
    pub(super) fn file(&mut self, dir: Id, name: &CStr, entry: &Entry) -> Result<(), Error> {
        let attributes = self.rest(dir, entry)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.permissions);
        let file = self.create(dir, name, &|here| {
            rustix::fs::openat(here, name, flags | OFlags::NOFOLLOW, mode)
        })?;
        let path = self.dirs.join(dir, name);
        if entry.stored > SMALL || entry.pieces.is_some() {
            return self.large(file, path, entry, &attributes);
        }
        if self.batch.is_empty() {
            self.batch_from = self.reader.offset();
        }
        let content = self.content()?;
        self.batch.push(Job {
            file,
            path,
            content,
            attributes,
        });
        if self.batch.len() >= BATCH.0 || self.reader.offset() - self.batch_from >= BATCH.1 {
            self.hand_over()?;
        }
        Ok(())
    }

    /// All content of the current file.
    fn content(&mut self) -> Result<Vec<Chunk>, Error> {
        let mut content = Vec::new();
        while self.reader.left() > 0 {
            content.push(self.chunk(usize::MAX)?);
        }
        Ok(content)
    }

    /// The next piece of the current file's content, which is not over; never empty.
    fn chunk(&mut self, most: usize) -> Result<Chunk, Error> {
        let taken = self.reader.take_with(|plain, left| {
            let chunk = plain.next(left.min(most));
            let length = chunk.as_deref().map_or(0, <[u8]>::len);
            Ok((chunk, length))
        })?;
        let offset = self.reader.offset();
        taken.ok_or(Error::Truncated { offset })
    }

    /// Gives the batch to the workers.
    pub(super) fn hand_over(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.shared.jobs.push(batch).map_err(|_| Error::Stopped)
    }

    /// Waits until all files are filled.
    pub(super) fn catch_up(&mut self) -> Result<(), Error> {
        self.hand_over()?;
        self.shared.jobs.idle().map_err(|_| Error::Stopped)
    }

    /// Fills a file here and now: there is nothing else to do before its content is over.
    fn large(
        &mut self,
        file: OwnedFd,
        path: PathBuf,
        entry: &Entry,
        attributes: &PendingAttributes,
    ) -> Result<(), Error> {
        self.hand_over()?;
        // xfs sets blocks aside beyond the end of what grows, and counts them.
        rustix::fs::ftruncate(&file, entry.size)
            .map_err(|cause| Error::io("write", &path, cause))?;
        let mut content = match entry.pieces {
            Some(_) => Content::sparse(),
            None => Content::new(self.options),
        };
        let whole = [(0, entry.size)];
        let mut told = 0;
        for (offset, length) in entry.pieces.as_deref().unwrap_or(&whole) {
            let (mut at, end) = (*offset, *offset + *length);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX);
                let chunk = self.chunk(most)?;
                content
                    .write(&file, &chunk, at)
                    .map_err(|cause| Error::io("write", &path, cause))?;
                at += chunk.len() as u64;
                if self.options.durable != Durable::No && content.written() - told >= STEP {
                    told = content.written();
                    sys::write_back(file.as_fd(), WriteBack::Start)
                        .map_err(|cause| Error::io("write to the disk", &path, cause))?;
                }
            }
        }
        let written = content.complete(file, path, entry.size, attributes, self.options)?;
        write_back::hand_over(vec![written], self.shared);
        Ok(())
    }
}
