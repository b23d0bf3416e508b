//! The threads, and what they share.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::apply::extract::{Extracted, Extractor};
use crate::apply::queue::{Chunk, Pool, Queue};
use crate::apply::stream;
use crate::apply::write::{self, Job};
use crate::apply::write_back::{self, Written};
use crate::apply::{Applied, Options, Target};
use crate::error::Error;
use crate::sys;
use parking_lot::Mutex;

/// Bytes of a buffer of the blob, and buffers that there are.
const RAW: (usize, usize) = (128 << 10, 16);

/// The same for the decompressed stream. The parser, a batch on its way to the workers and each
/// worker may hold some of them; all others lie between decompression and the two who read.
const PLAIN: (usize, usize) = (256 << 10, 64);

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

    fn error(&self) -> Error {
        let mut failed = self.failed.lock();
        failed.take().unwrap_or(Error::Stopped)
    }
}

struct AbortOnDrop<'a>(&'a Shared);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn run(
    source: impl Read + Send,
    target: &Target<'_>,
    options: &Options<'_>,
) -> Result<Applied, Error> {
    let shared = Shared::new();
    let place = || extract(target, options, &shared);
    let ((diff_id, size), placed) = pipeline(source, options, &shared, place)?;
    Ok(Applied {
        diff_id,
        size,
        bytes: placed.blocks * 512,
        inodes: placed.inodes,
        implied: placed.implied,
        whiteouts: placed.whiteouts,
        top: placed.top,
    })
}

/// Digest of a decompressed stream, and its bytes.
type Summed = ([u8; 32], u64);

/// Reads, decompresses and hashes the blob, while `place` takes the archive from `shared` on a thread
/// of its own. Answers the digest and what `place` does, if nothing failed.
pub(super) fn pipeline<T: Send>(
    source: impl Read + Send,
    options: &Options<'_>,
    shared: &Shared,
    place: impl FnOnce() -> Option<T> + Send,
) -> Result<(Summed, T), Error> {
    let found = std::thread::scope(|scope| {
        let hash = scope.spawn(|| shared.guarded(|| Ok(stream::hash(shared))));
        scope.spawn(|| shared.guarded(|| stream::inflate(options, shared)));
        let placer = scope.spawn(place);
        shared.guarded(|| stream::fetch(source, &options.blob, shared));
        Some((join(hash)?, join(placer)?))
    });
    let failed = shared.failed.lock();
    let has_failed = failed.is_some();
    drop(failed);
    found.filter(|_| !has_failed).ok_or_else(|| shared.error())
}

/// Joins a thread; a panic was reported by the thread itself.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Option<T>>) -> Option<T> {
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Makes all names, with workers to fill the small files.
fn extract(target: &Target<'_>, options: &Options<'_>, shared: &Shared) -> Option<Extracted> {
    let guard = AbortOnDrop(shared);
    // The mode that is asked for is the mode that is given, in this thread.
    let masked = sys::without_umask().is_err();
    let placed = std::thread::scope(|scope| {
        scope.spawn(|| shared.guarded(|| write_back::run(options.durable, shared)));
        for _ in 0..options.workers.clamp(1, 16) {
            scope.spawn(|| shared.guarded(|| write::work(options, shared)));
        }
        // Within the scope: the workers end only when all is aborted, and an aborted thread
        // must find the cause stored, or its own error counts as the cause.
        shared.guarded(|| {
            let mut placer = Extractor::new(target, options, shared, masked)?;
            placer.run()?;
            placer.finish()
        })
    });
    std::mem::forget(guard);
    placed
}
