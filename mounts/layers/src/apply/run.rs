//! The threads.

use std::io::Read;

use crate::apply::extract::{Extracted, Extractor};
use crate::apply::shared::{AbortOnDrop, Shared};
use crate::apply::{Applied, Options, Target, stream, write, write_back};
use crate::error::Error;
use crate::sys;

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
        left_out: placed.left_out,
        first_left_out: placed.first_left_out,
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
    found
        .filter(|_| !shared.has_failed())
        .ok_or_else(|| shared.error())
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
