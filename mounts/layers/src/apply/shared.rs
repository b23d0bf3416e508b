//! State shared by the threads of an Apply: the queues between them, and what goes through those.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::apply::attributes::PendingAttributes;
use crate::apply::queue::{Chunk, Pool, Queue};
use crate::error::Error;

/// Bytes of a buffer of the blob, and buffers that there are.
const RAW: (usize, usize) = (128 << 10, 16);

/// The same for the decompressed stream. The parser, a batch on its way to the workers and each
/// worker may hold some of them; all others lie between decompression and the two who read.
const PLAIN: (usize, usize) = (256 << 10, 64);

/// A new file, and all that shall be in it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) file: OwnedFd,
    /// As the archive has it, cleaned.
    pub(super) path: PathBuf,
    pub(super) content: Vec<Chunk>,
    pub(super) attributes: PendingAttributes,
}

/// A file that is complete.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: OwnedFd,
    pub(super) path: PathBuf,
}

/// State shared by all threads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) raw_blocks: Arc<Pool>,
    pub(super) raw: Queue<Chunk>,
    /// Bytes of the blob that were decompressed.
    pub(super) consumed: AtomicU64,
    pub(super) blocks: Arc<Pool>,
    pub(super) hashed: Queue<Chunk>,
    pub(super) plain: Queue<Chunk>,
    pub(super) jobs: Queue<Vec<Job>>,
    pub(super) written: Queue<Vec<Written>>,
    /// Blocks of 512 bytes, and inodes, of the regular files.
    pub(super) blocks_used: AtomicU64,
    pub(super) inodes: AtomicU64,
    failed: Mutex<Option<Error>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            raw_blocks: Pool::new(RAW.1, RAW.0),
            raw: Queue::new(RAW.1),
            consumed: AtomicU64::new(0),
            blocks: Pool::new(PLAIN.1, PLAIN.0),
            hashed: Queue::new(PLAIN.1),
            plain: Queue::new(PLAIN.1),
            jobs: Queue::new(4),
            written: Queue::new(2),
            blocks_used: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    /// Counts one inode.
    pub(super) fn count(&self, blocks: u64) {
        self.blocks_used.fetch_add(blocks, Relaxed);
        self.inodes.fetch_add(1, Relaxed);
    }

    /// Ends the whole; the first error is the one that counts.
    fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
        self.abort();
    }

    fn abort(&self) {
        self.raw_blocks.abort();
        self.raw.abort();
        self.blocks.abort();
        self.hashed.abort();
        self.plain.abort();
        self.jobs.abort();
        self.written.abort();
    }

    /// Does the work of a thread. If it fails, or panics, no other waits for it.
    pub(super) fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        let guard = AbortOnDrop(self);
        let done = work();
        std::mem::forget(guard);
        done.map_err(|error| self.fail(error)).ok()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }

    /// The first error; [`Error::Stopped`] if there is none.
    pub(super) fn error(&self) -> Error {
        let mut failed = self.failed.lock();
        failed.take().unwrap_or(Error::Stopped)
    }
}

/// Aborts the queues when a thread unwinds: none may wait for it.
pub(super) struct AbortOnDrop<'a>(pub(super) &'a Shared);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
