//! Who fills the files that the walk made: the walking thread itself, or a few others.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::copy::content::{Content, Moved};
use crate::copy::{Durable, Options};
use crate::error::Error;
use crate::node::Attributes;
use crate::sys::{self, WriteBack};

/// Files that wait for a worker; each holds two descriptors.
const WAITING: usize = 32;

/// Files of one worker whose content is on its way to the disk.
const ON_THE_WAY: usize = 64;

/// A file that was made and is empty.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    pub(super) size: u64,
    pub(super) sparse: bool,
    pub(super) attributes: Attributes,
    pub(super) layer: usize,
    pub(super) path: PathBuf,
}

/// What all workers share.
pub(super) struct Work<'a> {
    options: &'a Options<'a>,
    content: Content<'a>,
    bytes: AtomicU64,
    cloned: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl<'a> Work<'a> {
    pub(super) fn new(layers: usize, options: &'a Options<'a>) -> Self {
        Self {
            options,
            content: Content::new(layers, options.progress),
            bytes: AtomicU64::new(0),
            cloned: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// Bytes copied, and how many of them were cloned.
    pub(super) fn moved(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.bytes), read(&self.cloned))
    }

    /// Walks with `workers` behind it; returns when all they were given is done.
    pub(super) fn run<T>(
        &self,
        workers: usize,
        walk: impl FnOnce(&mut dyn FnMut(Job) -> Result<(), Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if workers < 2 {
            let mut worker = Worker::new(self);
            let walked = walk(&mut |job| worker.fill(job))?;
            return worker.settle(0).map(|()| walked);
        }
        let (give, take) = sync_channel(WAITING);
        // Held by the workers alone: were all of them to panic, giving fails instead of waiting.
        let take = Arc::new(Mutex::new(take));
        let walked = std::thread::scope(move |scope| {
            for _ in 0..workers {
                let take = Arc::clone(&take);
                scope.spawn(move || self.serve(&take));
            }
            drop(take);
            walk(&mut |job| self.hand_over(&give, job)).inspect_err(|_| self.give_up())
            // `give` ends here, which sends the workers home.
        });
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // The walk's own error is only an echo if a worker failed first.
        error.take().map_or(walked, Err)
    }

    fn hand_over(&self, give: &SyncSender<Job>, job: Job) -> Result<(), Error> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        give.send(job).map_err(|_| Error::Stopped)
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    fn serve(&self, take: &Mutex<Receiver<Job>>) {
        let mut worker = Worker::new(self);
        loop {
            let next = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = next else { break };
            if self.failed.load(Ordering::Relaxed) {
                continue; // the walk is about to learn it
            }
            self.note(worker.fill(job));
        }
        self.note(worker.settle(0));
    }

    fn note(&self, done: Result<(), Error>) {
        if let Err(error) = done {
            let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
            self.give_up();
        }
    }
}

struct Worker<'w, 'a> {
    work: &'w Work<'a>,
    buffer: Vec<u8>,
    on_the_way: VecDeque<(OwnedFd, PathBuf)>,
}

impl<'w, 'a> Worker<'w, 'a> {
    fn new(work: &'w Work<'a>) -> Self {
        Self {
            work,
            buffer: Vec::new(),
            on_the_way: VecDeque::new(),
        }
    }

    fn fill(&mut self, job: Job) -> Result<(), Error> {
        let moved = self.work.content.copy(&job, &mut self.buffer)?;
        job.attributes
            .give(job.to.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &job.path, cause))?;
        self.work.bytes.fetch_add(job.size, Ordering::Relaxed);
        if moved == Moved::Cloned {
            self.work.cloned.fetch_add(job.size, Ordering::Relaxed);
        }
        self.work.options.progress.advanced(1, 0);
        self.write_back(job, moved)
    }

    fn write_back(&mut self, job: Job, moved: Moved) -> Result<(), Error> {
        let wanted = match self.work.options.durable {
            Durable::No => false,
            Durable::Content => moved == Moved::Copied && job.size > 0,
            Durable::Each => true,
        };
        if !wanted {
            return Ok(());
        }
        sys::write_back(job.to.as_fd(), WriteBack::Start)
            .map_err(|cause| Error::io("write to the disk", &job.path, cause))?;
        self.on_the_way.push_back((job.to, job.path));
        self.settle(ON_THE_WAY)
    }

    /// Waits for the oldest files until at most `left` are on their way.
    fn settle(&mut self, left: usize) -> Result<(), Error> {
        while self.on_the_way.len() > left {
            let Some((file, path)) = self.on_the_way.pop_front() else {
                break;
            };
            let done = match self.work.options.durable {
                Durable::Each => rustix::fs::fsync(&file),
                Durable::No | Durable::Content => sys::write_back(file.as_fd(), WriteBack::Finish),
            };
            done.map_err(|cause| Error::io("write to the disk", &path, cause))?;
        }
        Ok(())
    }
}
