//! sled, and nothing else names it.
//!
//! What sled 0.34 does not do by itself is done here:
//! - Log writes are durable only after an fdatasync, with which a commit here ends, on a descriptor of
//!   our own, because sled's background thread only logs its errors; those on which later writes
//!   build are made so in [`crate::sys`], and a process in which that is not so refuses to run.
//! - Values stay below [`VALUE_MAX`]: larger ones become blob files, which are never synced.
//! - A kill during the first creation can leave a folder that never opens, so the first one is
//!   built beside its place and renamed. A kill during any open leaves `snap.*.generating`, which
//!   is removed before opening.
//! - Opening rewrites the log, and a damaged one can come out shorter, or empty, without an error.
//!   So a copy is kept while opening, all that was read is compared with what the last commit
//!   said of itself ([`Meta`]) and with the number of that commit in a file beside the database
//!   ([`Witness`]), and on any difference the copy is put back.
//! - After a failed write the handle is of no use, and what is on disk is unknown: the kernel
//!   reports a failed write-back once and takes the pages for clean. Then a new database is built
//!   from what was acknowledged, beside the old one, and takes its place in one exchange.

mod place;

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sled::transaction::{
    ConflictableTransactionError, TransactionError, Transactional, TransactionalTree,
};
use tracing::warn;

use crate::codec::{Assembly, Meta, Table, VALUE_MAX, row_hash, rows};
use crate::database::write_error;
use crate::error::Error;
use crate::folder::{copy_folder, io_error, remove_folder};
use crate::journal::{self, Entry, Journal, Reader, Rows};
use crate::records::Records;
use crate::state::Item;
use crate::sys;
use crate::witness::Witness;
use place::Place;

/// sled keeps its pages here; records are read from memory, so little is enough.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// sled gives log space back only in its background thread.
const BACKGROUND_FLUSH_MS: u64 = 5_000;
/// How long sled's threads may hold on to a database that was closed.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
const META: &str = "meta";
/// Rows in one commit while a database is built anew, or takes in the journal; what one commit
/// of the journal holds stays together.
const ROWS: usize = 500;

/// sled's part of the database, and what it last said of itself.
#[derive(Debug)]
pub(crate) struct Db {
    sled: sled::Db,
    tables: Vec<sled::Tree>,
    meta_table: sled::Tree,
    log: File,
    journal: Reader,
    meta: Meta,
}

/// What opening a database gives.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) journal: Journal,
    /// As of the last commit, in the journal or not.
    pub(crate) records: Vec<Item>,
    pub(crate) ids_below: u64,
}

/// Why a database cannot be opened.
#[derive(Debug)]
enum Trouble {
    /// The machine does not let us: nothing is wrong with the database, and it is the same again
    /// when the cause is gone.
    Hindered(io::Error),
    /// What is there is not what was written.
    Damaged(String),
}

impl From<io::Error> for Trouble {
    fn from(cause: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let open_files = [libc::EMFILE, libc::ENFILE].map(Some);
        match cause.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::ReadOnlyFilesystem => {
                Self::Hindered(cause)
            }
            Kind::PermissionDenied | Kind::OutOfMemory => Self::Hindered(cause),
            _ if open_files.contains(&cause.raw_os_error()) => Self::Hindered(cause),
            _ => Self::Damaged(cause.to_string()),
        }
    }
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

impl Trouble {
    fn of(self, path: PathBuf) -> Error {
        match self {
            Self::Hindered(cause) => io_error("open the database", &path)(cause),
            Self::Damaged(what) => Error::Damaged { path, what },
        }
    }
}

impl Db {
    /// Whether there is a database in `folder`, whatever its state.
    pub(crate) fn exists(folder: &Path) -> bool {
        !Place::new(folder).sources().is_empty()
    }

    /// Opens the database in `folder`, or creates it if this is a `fresh` store, and reads all
    /// records.
    pub(crate) fn open(folder: &Path, fresh: bool) -> Result<Opened, Error> {
        let place = Place::new(folder);
        place.finish_interrupted()?;
        if fresh {
            place.create()?;
        }
        if !place.db.exists() {
            return Err(place.missing());
        }
        let mut opened = Self::open_kept(&place);
        if matches!(opened, Err(Error::Damaged { .. })) && place.touched.exists() {
            place.put_touched_back()?;
            opened = Self::open_kept(&place);
        }
        let opened = opened?;
        // Not before: see `Place::sources`.
        remove_folder(&place.touched)?;
        Ok(opened)
    }

    /// Opens the database; if that fails, it is as it was before.
    fn open_kept(place: &Place) -> Result<Opened, Error> {
        let has_copy = place.keep_copy()?;
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_and_read(&place.db)));
        let opened = opened.unwrap_or_else(|_| Err("opening it panics".to_owned().into()));
        match opened {
            Ok(opened) => {
                remove_folder(&place.copy)?;
                Ok(opened)
            }
            Err(trouble) => {
                if has_copy && let Err(cause) = place.put_copy_back() {
                    // As a kill while it was opened leaves it, which the next opening copes with.
                    warn!(
                        error = &cause as &dyn std::error::Error,
                        "put back the copy of the database"
                    );
                }
                Err(trouble.of(place.db.clone()))
            }
        }
    }

    /// Reads a copy of the database in `folder`, made in `spare`.
    pub(crate) fn inspect(folder: &Path, spare: &Path) -> Result<Opened, Error> {
        let place = Place::new(folder);
        let witness = folder.join("sequence");
        if witness.exists() {
            fs::copy(&witness, spare.join("sequence")).map_err(io_error("copy", &witness))?;
        }
        let mut trouble = None;
        for source in place.sources() {
            remove_folder(&spare.join("db"))?;
            let copied = copy_folder(source, &spare.join("db"));
            copied.map_err(io_error("copy the database", source))?;
            match Self::open(spare, false) {
                Err(Error::Damaged { what, .. }) => {
                    let path = source.to_owned();
                    trouble.get_or_insert(Error::Damaged { path, what });
                }
                other => return other,
            }
        }
        Err(trouble.unwrap_or_else(|| place.missing()))
    }

    /// Builds a database that holds exactly what `records` does, with an empty journal, in the place of
    /// the one there, if any, which is set aside; its path comes with the answer. Needs space for
    /// both. Its first commit has the number after `sequence`.
    pub(crate) fn rebuild(
        folder: &Path,
        records: &Records,
        sequence: u64,
        ids_below: u64,
    ) -> Result<(Opened, PathBuf), Error> {
        sys::forget_failure();
        let place = Place::new(folder);
        remove_folder(&place.fresh)?;
        let mut db = Self::create(&place.fresh)?;
        db.meta.sequence = sequence;
        let mut portion = Rows::new();
        for item in records.items() {
            let rows = rows(&item).into_iter();
            portion.extend(rows.map(|(key, value)| (key, Some(value))));
            if portion.len() >= ROWS {
                db.commit_next(&std::mem::take(&mut portion), ids_below)?;
            }
        }
        db.commit_next(&portion, ids_below)?;
        let last = db.meta.sequence;
        drop(db);
        let old = place.replace(last)?;
        let mut opened = Self::open(folder, false)?;
        let last = opened.journal.last();
        opened.journal.note(last).map_err(write_error)?;
        Ok((opened, old))
    }

    /// Deletes a database that [`rebuild`](Self::rebuild) set aside.
    pub(crate) fn discard(old: &Path) -> Result<(), Error> {
        remove_folder(old)
    }

    /// Number of the last commit that was noted in `folder`; 0 if none is known.
    pub(crate) fn last_sequence(folder: &Path) -> Result<u64, Error> {
        let path = folder.join("sequence");
        let witness = Witness::open(&path).map_err(io_error("open", &path))?;
        Ok(witness.last.unwrap_or(0))
    }

    fn open_and_read(path: &Path) -> Result<Opened, Trouble> {
        remove_half_made_snapshots(path)?;
        if !path.join(journal::NAME).exists() {
            // A store of before there were journals. If it was lost, the number of the last
            // commit tells.
            Journal::create(path)?;
            File::open(path.join(journal::NAME))?.sync_all()?;
            File::open(path)?.sync_all()?;
        } else if let Err(cause) = Journal::ensure_in_place(path) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "on a full disk the journal of records cannot be written"
            );
        }
        let mut db = Self::open_sled(path)?;
        // sled removed the snapshots that a new one replaced. On a file system without order, a name
        // that is left on the disk would lead to whatever uses the inode next.
        if let Err(cause) = File::open(path).and_then(|folder| folder.sync_all()) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "sync the folder of the database"
            );
        }
        let row = db.meta_table.get(META).map_err(io::Error::from)?;
        let Some(row) = row else {
            return Err("it is empty".to_owned().into());
        };
        db.meta = Meta::from_row(&row).map_err(str::to_owned)?;
        let (journal, entries) = Journal::open(path, db.meta.sequence)?;
        let found = journal.last();
        if let Some(noted) = journal.noted()
            && found < noted
        {
            let what = format!("it ends with commit {found}, but commit {noted} was acknowledged");
            return Err(what.into());
        }
        let ids_below = entries.last().map_or(db.meta.ids_below, |e| e.ids_below);
        Ok(Opened {
            records: db.read_all(entries)?,
            db,
            journal,
            ids_below,
        })
    }

    /// Makes an empty one in a new folder; durable only after that was synced.
    fn create(path: &Path) -> Result<Self, Error> {
        let made = fs::create_dir(path).and_then(|()| Journal::create(path));
        made.and_then(|()| Self::open_sled(path))
            .map_err(write_error)
    }

    fn open_sled(path: &Path) -> io::Result<Self> {
        let log = path.join("db");
        wait_until_released(&log)?;
        if log.exists() {
            // What sled reads now, it builds on.
            File::open(&log)?.sync_data()?;
        }
        let sled = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(sys::SEGMENT)
            .flush_every_ms(Some(BACKGROUND_FLUSH_MS))
            .use_compression(false)
            .open()?;
        let tables = Table::ALL.iter().map(|table| sled.open_tree(table.name()));
        Ok(Self {
            tables: tables.collect::<Result<_, _>>()?,
            meta_table: sled.open_tree(META)?,
            log: File::open(&log)?,
            journal: Reader::open(path)?,
            meta: Meta::default(),
            sled,
        })
    }

    /// The records of all rows that sled has, as `newer` commits changed them.
    fn read_all(&self, newer: Vec<Entry>) -> Result<Vec<Item>, String> {
        let newer: Rows = newer.into_iter().flat_map(|entry| entry.rows).collect();
        let mut assembly = Assembly::default();
        let mut add = |table, key: &[u8], value: &[u8]| {
            let added = assembly.add(table, key, value);
            added.map_err(|error| error.to_string())
        };
        let (mut rows, mut digest) = (0u64, 0u128);
        for table in Table::ALL {
            for row in self.table(table).iter() {
                let (key, value) = row.map_err(|error| error.to_string())?;
                rows += 1;
                digest = digest.wrapping_add(row_hash(table, &key, &value));
                if newer.is_empty() || !newer.contains_key(&(table, key.to_vec())) {
                    add(table, &key, &value)?;
                }
            }
        }
        if (rows, digest) != (self.meta.rows, self.meta.digest()) {
            let wanted = self.meta.rows;
            return Err(format!(
                "it holds {rows} rows where {wanted} were committed, or other ones"
            ));
        }
        for ((table, key), value) in &newer {
            if let Some(value) = value {
                add(*table, key, value)?;
            }
        }
        assembly.finish().map_err(|error| error.to_string())
    }

    /// Number of the last commit that sled has.
    pub(crate) fn sequence(&self) -> u64 {
        self.meta.sequence
    }

    /// Takes all commits up to a number in from the journal, and waits until they are durable. After
    /// an error nothing may be assumed about what is on disk, and the handle must not be used
    /// again.
    pub(crate) fn take_in(&mut self, through: u64) -> Result<(), Error> {
        let mut entries = self
            .journal
            .after(self.meta.sequence)
            .map_err(write_error)?;
        entries.retain(|entry| entry.sequence <= through);
        let mut merged = Rows::new();
        for Entry {
            sequence,
            ids_below,
            rows,
        } in entries
        {
            merged.extend(rows);
            if merged.len() >= ROWS || sequence == through {
                self.commit_rows(&std::mem::take(&mut merged), ids_below, sequence)?;
            }
        }
        if self.meta.sequence < through {
            let what = format!("the journal does not hold commit {through}");
            return Err(write_error(io::Error::other(what)));
        }
        Ok(())
    }

    /// Commits what is not in the journal, and waits until it is durable. After an error as
    /// [`take_in`](Self::take_in).
    pub(crate) fn commit(&mut self, entry: &Entry) -> Result<(), Error> {
        self.commit_rows(&entry.rows, entry.ids_below, entry.sequence)
    }

    fn commit_next(&mut self, rows: &Rows, ids_below: u64) -> Result<(), Error> {
        self.commit_rows(rows, ids_below, self.meta.sequence + 1)
    }

    fn commit_rows(&mut self, rows: &Rows, ids_below: u64, sequence: u64) -> Result<(), Error> {
        let meta = Meta {
            sequence,
            ids_below,
            ..self.meta_after(rows)?
        };
        self.apply(rows, &meta)?;
        self.flush()?;
        self.meta = meta;
        Ok(())
    }

    /// Counts and sums the rows as they will be.
    fn meta_after(&self, rows: &Rows) -> Result<Meta, Error> {
        let mut meta = self.meta.clone();
        let mut digest = meta.digest();
        for ((table, key), value) in rows {
            if let Some(old) = self.table(*table).get(key).map_err(write_error)? {
                digest = digest.wrapping_sub(row_hash(*table, key, &old));
                meta.rows -= 1;
            }
            if let Some(new) = value {
                digest = digest.wrapping_add(row_hash(*table, key, new));
                meta.rows += 1;
            }
        }
        meta.set_digest(digest);
        Ok(meta)
    }

    fn apply(&self, rows: &Rows, meta: &Meta) -> Result<(), Error> {
        let too_large =
            |value: &Option<Vec<u8>>| value.as_ref().is_some_and(|value| value.len() > VALUE_MAX);
        if rows.values().any(too_large) {
            let cause = io::Error::other(format!("a row exceeds {VALUE_MAX} bytes"));
            return Err(write_error(cause));
        }
        let mut trees = self.tables.clone();
        trees.push(self.meta_table.clone());
        let meta = meta.to_row();
        let done = trees
            .as_slice()
            .transaction(|trees: &Vec<TransactionalTree>| {
                for ((table, key), value) in rows {
                    let tree = &trees[*table as usize];
                    match value {
                        Some(value) => drop(tree.insert(key.as_slice(), value.as_slice())?),
                        None => drop(tree.remove(key.as_slice())?),
                    }
                }
                trees[Table::ALL.len()].insert(META, meta.as_slice())?;
                Ok::<(), ConflictableTransactionError<()>>(())
            });
        done.map_err(|error| match error {
            TransactionError::Storage(cause) => write_error(cause),
            TransactionError::Abort(()) => {
                write_error(io::Error::other("the transaction was aborted"))
            }
        })
    }

    fn flush(&self) -> Result<(), Error> {
        self.sled.flush().map_err(write_error)?;
        self.log.sync_data().map_err(write_error)?;
        if sys::sync_failed() {
            return Err(write_error(io::Error::other(
                "a log write could not be made durable",
            )));
        }
        if sys::calls() == 0 {
            return Err(Error::NotDurable);
        }
        Ok(())
    }

    fn table(&self, table: Table) -> &sled::Tree {
        &self.tables[table as usize]
    }
}

fn remove_half_made_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled's threads let go of a database a moment after it was closed, and until then it cannot be
/// opened again. The store's own lock keeps other processes out, so nobody else can hold it.
fn wait_until_released(log: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let file = match File::open(log) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => return Ok(()),
            Err((_, Errno::EWOULDBLOCK)) if start.elapsed() < RELEASE_LIMIT => {
                thread::sleep(Duration::from_millis(5));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests;
