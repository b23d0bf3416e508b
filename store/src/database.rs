//! The database: a write-ahead log, and sled behind it.
//!
//! A commit is durable once it is in the log. A commit of sled wakes and awaits all of its threads,
//! so sled gets a checkpoint of a whole half of the log instead, while the other half fills; rows
//! made and removed in between it never sees.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::db::{Db, Opened, write_error};
use crate::error::Error;
use crate::stall::probe;
use crate::wal::{Body, Rows, Wal};
use crate::worker_thread::{Pending, WorkerThread};

/// Limit for an operation of sled, after which it counts as hung. Time in which the disk stalls does
/// not count (`stall.rs`).
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// An open database, for one writer.
#[derive(Debug)]
pub(crate) struct Database {
    folder: PathBuf,
    wal: Wal,
    sled: WorkerThread<Db>,
    /// Checkpoint under way: number of its last commit, and sled's answer.
    checkpointing: Option<(u64, Pending<Result<(), Error>>)>,
    /// Number of the last commit in sled.
    checkpointed: u64,
}

impl Database {
    /// Starts the thread of the database that was opened in `folder`.
    pub(crate) fn new(opened: Opened, folder: &Path) -> io::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            checkpointed: opened.db.sequence(),
            sled: WorkerThread::new("store-log", opened.db)?,
            wal: opened.wal,
            checkpointing: None,
        })
    }

    /// Device number, as in stat(2), of its file system.
    pub(crate) fn device(&self) -> u64 {
        self.wal.device()
    }

    /// Makes a commit durable and answers its number. Costs one fdatasync(2), or fsync(2) with
    /// `after_files`, and a wait for sled's checkpoint only when callers outrun it. After an error the
    /// content of the disk is unknown, and the database must be rebuilt.
    ///
    /// With `after_files` it is durable only if all earlier changes of the file system are, which
    /// must have one journal for all of them.
    pub(crate) fn commit(
        &mut self,
        rows: Rows,
        ids_below: u64,
        after_files: bool,
    ) -> Result<u64, Error> {
        let body = Body::new(rows, ids_below);
        if !self.wal.has_room(&body) {
            self.switch_half()?;
        }
        if self.wal.has_room(&body) {
            let appended = self.wal.append(&body, after_files);
            appended.map_err(write_error)?;
        } else {
            if after_files {
                self.wal.pass_barrier().map_err(write_error)?;
            }
            self.bypass(body)?;
        }
        Ok(self.wal.last())
    }

    /// True if the next commit may begin a checkpoint, for which sled needs space.
    pub(crate) fn is_near_checkpoint(&self) -> bool {
        self.wal.is_half_nearly_full()
    }

    /// Makes the number of the last commit durable, so that the next opening can detect a lost tail.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        self.wal.seal().map_err(write_error)
    }

    /// Checkpoints everything, so that the next opening has little to read, and seals the database.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.checkpoint(self.wal.last())?;
        self.seal()
    }

    /// Closes the database; false if that took longer than `limit`.
    pub(crate) fn close(self, limit: Duration) -> bool {
        self.sled.close(limit, probe(&self.folder))
    }

    /// Goes on in the other half of the log, and begins the checkpoint of this one.
    fn switch_half(&mut self) -> Result<(), Error> {
        self.checkpoint(self.wal.last_of_other_half())?;
        self.wal.switch_half();
        self.checkpointing = Some(self.start(self.wal.last()));
        Ok(())
    }

    /// Waits until sled has all commits up to number `through`.
    fn checkpoint(&mut self, through: u64) -> Result<(), Error> {
        while self.checkpointed < through {
            let next = self.checkpointing.take();
            let (number, pending) = next.unwrap_or_else(|| self.start(through));
            self.outcome(&pending)?;
            self.checkpointed = number;
        }
        Ok(())
    }

    fn start(&self, through: u64) -> (u64, Pending<Result<(), Error>>) {
        (through, self.sled.start(move |db| db.checkpoint(through)))
    }

    /// Commits to sled directly, for a body that is larger than a half of the log.
    fn bypass(&mut self, body: Body) -> Result<(), Error> {
        let sequence = self.wal.last() + 1;
        self.checkpoint(self.wal.last())?;
        let entry = body.into_entry(sequence);
        let entry = entry.ok_or_else(|| write_error(io::Error::other("a table is unknown")))?;
        self.outcome(&self.sled.start(move |db| db.commit(&entry)))?;
        self.checkpointed = sequence;
        self.wal.note(sequence).map_err(write_error)
    }

    fn outcome(&self, pending: &Pending<Result<(), Error>>) -> Result<(), Error> {
        let gone = || write_error(io::Error::other("the database hangs or panicked"));
        let disk = probe(&self.folder);
        pending.wait(LIMIT, disk).unwrap_or_else(|| Err(gone()))
    }
}

#[cfg(test)]
mod tests;
