//! Workers that fill the files that the walk made: the walking thread itself, or up to four threads.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::copy::Options;
use crate::copy::content::{Content, Moved};
use crate::copy::job::Job;
use crate::copy::share::BLOCK;
use crate::durable::OnTheWay;
use crate::error::Error;
use parking_lot::Mutex;

/// Files that wait for a worker; each holds two descriptors.
const WAITING: usize = 32;

/// State shared by all workers.
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
            content: Content::new(layers, options.images, options.progress),
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
            return worker.on_the_way.finish().map(|()| walked);
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
        let mut error = self.error.lock();
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
            let next = take.lock().recv();
            let Ok(job) = next else { break };
            if self.failed.load(Ordering::Relaxed) {
                continue; // the walk is about to learn it
            }
            self.note(worker.fill(job));
        }
        self.note(worker.on_the_way.finish());
    }

    fn note(&self, done: Result<(), Error>) {
        if let Err(error) = done {
            let mut first = self.error.lock();
            first.get_or_insert(error);
            self.give_up();
        }
    }
}

struct Worker<'w, 'a> {
    work: &'w Work<'a>,
    buffer: Vec<u8>,
    on_the_way: OnTheWay,
}

impl<'w, 'a> Worker<'w, 'a> {
    fn new(work: &'w Work<'a>) -> Self {
        Self {
            work,
            buffer: Vec::new(),
            on_the_way: OnTheWay::new(work.options.durable),
        }
    }

    fn fill(&mut self, job: Job) -> Result<(), Error> {
        let moved = self.work.content.copy(&job, &mut self.buffer)?;
        job.attributes
            .give(job.to.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &job.path, cause))?;
        self.work.bytes.fetch_add(job.size, Ordering::Relaxed);
        let cloned = match moved {
            Moved::Cloned => job.size,
            Moved::AllButLast => job.size - job.size % BLOCK,
            Moved::Copied => 0,
        };
        self.work.cloned.fetch_add(cloned, Ordering::Relaxed);
        self.work.options.progress.advanced(1, 0);
        self.write_back(job, moved)
    }

    fn write_back(&mut self, job: Job, moved: Moved) -> Result<(), Error> {
        let dirty = moved != Moved::Cloned && job.size > 0;
        self.on_the_way.add(job.to, job.path, dirty)
    }
}
