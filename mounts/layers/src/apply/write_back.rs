//! Waits for the disk, for each file some time after its writing began. A thread.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use crate::apply::shared::{Shared, Written};
use crate::durable::Durable;
use crate::error::Error;
use crate::node;
use crate::sys::{self, WriteBack};

/// Files that are waited for later, so that the disk has something to do meanwhile; each holds a
/// descriptor. More of them were not faster, on xfs and ext4; see docs/unpacking.md.
const WAITING: usize = 64;

/// Passes files on to the thread. It takes none only after a failure, which is stored already.
pub(super) fn hand_over(files: Vec<Written>, shared: &Shared) {
    let _ = shared.written.push(files);
}

/// Takes files until no more come, and counts what they take on the disk.
pub(super) fn run(durable: Durable, shared: &Shared) -> Result<(), Error> {
    let mut waiting = VecDeque::new();
    let mut files = 0;
    while let Some(written) = shared.written.pop() {
        if durable != Durable::No {
            written.iter().try_for_each(start)?;
        }
        files += written.len();
        waiting.push_back(written);
        while files > WAITING
            && let Some(oldest) = waiting.pop_front()
        {
            files -= oldest.len();
            finish_all(durable, oldest, shared)?;
        }
    }
    waiting
        .into_iter()
        .try_for_each(|written| finish_all(durable, written, shared))
}

fn finish_all(durable: Durable, written: Vec<Written>, shared: &Shared) -> Result<(), Error> {
    for file in &written {
        finish(durable, file, shared)?;
    }
    drop(written);
    shared.written.done();
    Ok(())
}

fn start(written: &Written) -> Result<(), Error> {
    sys::write_back(written.file.as_fd(), WriteBack::Start)
        .map_err(|cause| Error::io("write to the disk", &written.path, cause))
}

fn finish(durable: Durable, written: &Written, shared: &Shared) -> Result<(), Error> {
    let failed = |cause| Error::io("write to the disk", &written.path, cause);
    if durable == Durable::Content {
        sys::write_back(written.file.as_fd(), WriteBack::Finish).map_err(failed)?;
    }
    let stat = node::stat(written.file.as_fd())
        .map_err(|cause| Error::io("look at", &written.path, cause))?;
    shared.count(stat.blocks);
    Ok(())
}
