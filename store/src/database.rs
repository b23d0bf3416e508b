//! The database: the journal, and sled behind it.
//!
//! A commit is durable once it is in the journal. sled, which wakes all of its threads and waits
//! for them with each of its commits, takes in a half of the journal at once, while the other half
//! fills; what was made and removed in between it never sees.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::apart::{Apart, Pending};
use crate::db::{Db, Opened};
use crate::error::Error;
use crate::journal::{Body, Journal, Rows};

/// How long sled may take over something before it is given up. A disk that is only slow is done
/// within this; if it is not, building the database anew is no harm.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// An open database, for one writer.
#[derive(Debug)]
pub(crate) struct Database {
    journal: Journal,
    sled: Apart<Db>,
    /// The number up to which sled has been told to take commits in, and its answer.
    taking: Option<(u64, Pending<Result<(), Error>>)>,
    /// The number up to which it has.
    taken: u64,
}

impl Database {
    pub(crate) fn new(opened: Opened) -> io::Result<Self> {
        Ok(Self {
            taken: opened.db.sequence(),
            sled: Apart::new("store-log", opened.db)?,
            journal: opened.journal,
            taking: None,
        })
    }

    /// Device number of the file system that it is on.
    pub(crate) fn device(&self) -> u64 {
        self.journal.device()
    }

    /// Makes a commit durable and answers its number. Waits for the disk once, for longer only
    /// when sled is slower than the callers. After an error nobody knows what is on disk, and the
    /// database must be built anew.
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
        if !self.journal.has_room(&body) {
            self.turn()?;
        }
        if self.journal.has_room(&body) {
            let appended = self.journal.append(&body, after_files);
            appended.map_err(write_error)?;
        } else {
            if after_files {
                self.journal.pass_barrier().map_err(write_error)?;
            }
            self.bypass(body)?;
        }
        Ok(self.journal.last())
    }

    /// Whether sled may have to take a half of the journal in with the next commit.
    pub(crate) fn is_about_to_turn(&self) -> bool {
        self.journal.is_half_nearly_full()
    }

    /// Makes sure that the next opening can tell exactly whether it is all there.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        self.journal.seal().map_err(write_error)
    }

    /// Has sled take in everything, so that the next opening has little to read, and seals it.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.take_in(self.journal.last())?;
        self.seal()
    }

    /// Closes it; answers whether that ended within the limit.
    pub(crate) fn close(self, limit: Duration) -> bool {
        self.sled.close(limit)
    }

    /// Goes on in the other half of the journal, and has sled take in this one.
    fn turn(&mut self) -> Result<(), Error> {
        self.take_in(self.journal.last_of_other())?;
        self.journal.turn();
        self.taking = Some(self.start(self.journal.last()));
        Ok(())
    }

    /// Waits until sled has all commits up to a number.
    fn take_in(&mut self, through: u64) -> Result<(), Error> {
        while self.taken < through {
            let next = self.taking.take();
            let (number, pending) = next.unwrap_or_else(|| self.start(through));
            outcome(&pending)?;
            self.taken = number;
        }
        Ok(())
    }

    fn start(&self, through: u64) -> (u64, Pending<Result<(), Error>>) {
        (through, self.sled.start(move |db| db.take_in(through)))
    }

    /// Commits what is too large for the journal.
    fn bypass(&mut self, body: Body) -> Result<(), Error> {
        let sequence = self.journal.last() + 1;
        self.take_in(self.journal.last())?;
        let entry = body.into_entry(sequence);
        let entry = entry.ok_or_else(|| write_error(io::Error::other("a table is unknown")))?;
        outcome(&self.sled.start(move |db| db.commit(&entry)))?;
        self.taken = sequence;
        self.journal.note(sequence).map_err(write_error)
    }
}

fn outcome(pending: &Pending<Result<(), Error>>) -> Result<(), Error> {
    let gone = || write_error(io::Error::other("the database hangs or panicked"));
    pending.wait(LIMIT).unwrap_or_else(|| Err(gone()))
}

pub(crate) fn write_error(cause: impl Into<io::Error>) -> Error {
    Error::Write {
        cause: Arc::new(cause.into()),
    }
}

#[cfg(test)]
mod tests;
