//! sled 0.34. No other module names it.
//!
//! Guards around it:
//! - Log writes are durable only after an fdatasync. A commit here ends with one, on a descriptor of
//!   our own, because sled's background thread only logs its errors; [`crate::sys`] syncs the writes
//!   on which later ones build, and a process whose sled does not call it refuses to run.
//! - Values stay below [`VALUE_MAX`]: larger ones become blob files, which are never synced.
//! - A kill during the first creation can leave a folder that never opens, so the first one is
//!   built beside its place and renamed. A kill during any open leaves `snap.*.generating`, which
//!   is removed before opening.
//! - Opening rewrites the log, and a damaged one can come out shorter, or empty, without an error.
//!   So a copy is kept while opening, all that was read is compared with what the last commit
//!   counted ([`Meta`]) and with the number of that commit in a file beside the database
//!   ([`SequenceFile`]), and on any difference the copy is put back.
//! - Commits may be in the write-ahead log alone. What no crash leaves is damage: no log or another
//!   one, one with pages of zeros or without a commit that sled has from it, and no number in the
//!   sequence file ([`lost_commits`]).
//! - After a failed write the handle is of no use and the content of the disk is unknown: the kernel
//!   reports a failed write-back once and marks the pages clean. Then a new database is built
//!   from the acknowledged records, beside the old one, and exchanged with it in one rename.

mod guards;
mod paths;

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sled::transaction::{
    ConflictableTransactionError, TransactionError, Transactional, TransactionalTree,
};
use tracing::warn;

use crate::codec::{Assembly, Meta, Table, VALUE_MAX, row_hash, rows};
use crate::error::Error;
use crate::folder::{check_files, copy_folder, io_error, remove_folder};
use crate::item::Item;
use crate::records::Records;
use crate::sequence_file::SequenceFile;
use crate::sys;
use crate::wal::{self, Entry, Reader, Rows, Wal};
use guards::{Lacking, OpenError, lost_commits, remove_half_made_snapshots, wait_until_released};
use paths::Paths;

/// Size of sled's page cache. Records are read from memory, so little is enough.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Period of sled's background thread, the only one that gives log space back.
const BACKGROUND_FLUSH_MS: u64 = 5_000;
const META: &str = "meta";
/// Rows in one commit of a rebuild or checkpoint; the rows of one entry of the log stay together.
const ROWS: usize = 500;

/// sled's part of the database, with the [`Meta`] of its last commit.
#[derive(Debug)]
pub(crate) struct Db {
    sled: sled::Db,
    tables: Vec<sled::Tree>,
    meta_table: sled::Tree,
    log: File,
    wal: Reader,
    meta: Meta,
}

/// An open database and everything read from it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) db: Db,
    pub(crate) wal: Wal,
    /// As of the last commit, those in the log included.
    pub(crate) records: Vec<Item>,
    pub(crate) ids_below: u64,
}

impl Opened {
    /// Number of the last commit, and the ids below which all are handed out, as an export has them.
    pub(crate) fn meta(&self) -> Meta {
        Meta {
            sequence: self.wal.last(),
            ids_below: self.ids_below,
            ..Meta::default()
        }
    }
}

impl Db {
    /// Number of the commit that creates a database.
    pub(crate) const FIRST_COMMIT: u64 = paths::FIRST_COMMIT;

    /// True if there is a database in `folder`, in whatever state.
    pub(crate) fn exists(folder: &Path) -> bool {
        !Paths::new(folder).sources().is_empty()
    }

    /// Opens the database in `folder`, or creates it if this is a `fresh` store, and reads all
    /// records.
    pub(crate) fn open(folder: &Path, fresh: bool) -> Result<Opened, Error> {
        let paths = Paths::new(folder);
        paths.finish_interrupted()?;
        if fresh {
            paths.create()?;
        }
        if !paths.db.exists() {
            return Err(paths.missing());
        }
        let mut opened = Self::open_kept(&paths);
        if matches!(opened, Err(Error::Damaged { .. })) && paths.touched.exists() {
            paths.put_touched_back()?;
            opened = Self::open_kept(&paths);
        }
        let opened = opened?;
        // Not before: see `Paths::sources`.
        remove_folder(&paths.touched)?;
        Ok(opened)
    }

    /// Opens the database; restores it from a copy if that fails.
    fn open_kept(paths: &Paths) -> Result<Opened, Error> {
        check_files(&paths.db).map_err(|cause| OpenError::from(cause).of(paths.db.clone()))?;
        let has_copy = paths.keep_copy()?;
        let opened = Self::open_caught(&paths.db, Lacking::Refused);
        match opened {
            Ok(opened) => {
                remove_folder(&paths.copy)?;
                Ok(opened)
            }
            Err(error) => {
                if has_copy && let Err(cause) = paths.put_copy_back() {
                    // The next opening mends this state, which a kill while opening leaves too.
                    warn!(
                        error = &cause as &dyn std::error::Error,
                        "put back the copy of the database"
                    );
                }
                Err(error.of(paths.db.clone()))
            }
        }
    }

    fn open_caught(path: &Path, lacking: Lacking) -> Result<Opened, OpenError> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_and_read(path, lacking)));
        opened.unwrap_or_else(|_| Err("opening it panics".to_owned().into()))
    }

    /// Reads from a copy, made in `spare`, what a damaged database in `folder` still holds: all records
    /// as of one commit, which may not be the last. `None` if they do not add up.
    pub(crate) fn salvage(folder: &Path, spare: &Path) -> Option<Opened> {
        let (paths, copy) = (Paths::new(folder), spare.join("db"));
        copy_folder(&paths.db, &copy).ok()?;
        Self::open_caught(&copy, Lacking::Allowed).ok()
    }

    /// Reads a copy of the database in `folder`, made in `spare`.
    pub(crate) fn inspect(folder: &Path, spare: &Path) -> Result<Opened, Error> {
        let paths = Paths::new(folder);
        let sequence_file = folder.join("sequence");
        if sequence_file.is_file() && !sequence_file.is_symlink() {
            fs::copy(&sequence_file, spare.join("sequence"))
                .map_err(io_error("copy", &sequence_file))?;
        }
        let mut error = None;
        for source in paths.sources() {
            remove_folder(&spare.join("db"))?;
            let copied = copy_folder(source, &spare.join("db"));
            copied.map_err(io_error("copy the database", source))?;
            match Self::open(spare, false) {
                Err(Error::Damaged { what, .. }) => {
                    let path = source.to_owned();
                    error.get_or_insert(Error::Damaged { path, what });
                }
                other => return other,
            }
        }
        Err(error.unwrap_or_else(|| paths.missing()))
    }

    /// Builds a database of exactly `records`, with an empty log, and exchanges it for the present one,
    /// whose new path is answered. Needs space for both. Its first commit has the number after
    /// `sequence`. Durable on return.
    pub(crate) fn rebuild(
        folder: &Path,
        records: &Records,
        sequence: u64,
        ids_below: u64,
    ) -> Result<(Opened, PathBuf), Error> {
        sys::forget_failure();
        let paths = Paths::new(folder);
        remove_folder(&paths.fresh)?;
        let mut db = Self::create(&paths.fresh)?;
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
        let old = paths.replace(last)?;
        // Not before: until then it must not vouch for a database that lost it.
        paths.begin_sequence_file(last)?;
        let mut opened = Self::open(folder, false)?;
        let last = opened.wal.last();
        opened.wal.note(last).map_err(write_error)?;
        Ok((opened, old))
    }

    /// Deletes a database that [`rebuild`](Self::rebuild) set aside.
    pub(crate) fn discard(old: &Path) -> Result<(), Error> {
        remove_folder(old)
    }

    /// Number of the last commit by the sequence file in `folder`; 0 if that has none.
    pub(crate) fn last_sequence(folder: &Path) -> u64 {
        let opened = SequenceFile::open(&folder.join("sequence"));
        opened.ok().and_then(|file| file.last).unwrap_or(0)
    }

    fn open_and_read(path: &Path, lacking: Lacking) -> Result<Opened, OpenError> {
        remove_half_made_snapshots(path)?;
        let had_log = path.join(wal::NAME).exists();
        if had_log && let Err(cause) = Wal::ensure_in_place(path) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "on a full disk the write-ahead log cannot be written"
            );
        }
        let db = Self::open_sled(path, lacking)?;
        // sled removed the snapshots that a new one replaced. On a file system without order, a name
        // that is left on the disk would lead to whatever uses the inode next.
        if let Err(cause) = File::open(path).and_then(|folder| folder.sync_all()) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "sync the folder of the database"
            );
        }
        if db.meta.sequence == 0 {
            return Err("it is empty".to_owned().into());
        }
        let (mut wal, entries) = Wal::open(path, db.meta.sequence)?;
        if ![0, wal.id()].contains(&db.meta.log_salt) && had_log {
            return Err("its write-ahead log is that of another database"
                .to_owned()
                .into());
        }
        if let Some(lost) = lost_commits(&db.meta, &wal)
            && lacking == Lacking::Refused
        {
            return Err(lost.into());
        }
        wal.begin()?;
        let ids_below = entries.last().map_or(db.meta.ids_below, |e| e.ids_below);
        Ok(Opened {
            records: db.read_all(entries)?,
            db,
            wal,
            ids_below,
        })
    }

    /// Creates an empty database in a new folder; not durable before that is synced.
    fn create(path: &Path) -> Result<Self, Error> {
        let made = fs::create_dir(path).and_then(|()| Wal::create(path));
        made.and_then(|()| Self::open_sled(path, Lacking::Refused))
            .map_err(write_error)
    }

    fn open_sled(path: &Path, lacking: Lacking) -> io::Result<Self> {
        let log = path.join("db");
        wait_until_released(&log)?;
        if log.exists() {
            // sled builds on the pages it reads now.
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
        let meta_table = sled.open_tree(META)?;
        let meta = match meta_table.get(META)? {
            Some(row) => Meta::from_row(&row).map_err(io::Error::other)?,
            None => Meta::default(),
        };
        if !path.join(wal::NAME).exists() {
            let is_older_release = !meta.has_log && meta.sequence > 0;
            if !is_older_release && lacking == Lacking::Refused {
                return Err(io::Error::other("its write-ahead log is missing"));
            }
            Wal::add(path)?;
        }
        Ok(Self {
            tables: tables.collect::<Result<_, _>>()?,
            meta_table,
            log: File::open(&log)?,
            wal: Reader::open(path)?,
            meta,
            sled,
        })
    }

    /// The records of all rows in sled, with the `newer` commits of the log applied.
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

    /// Copies all commits up to number `through` from the log to sled, and waits until they are
    /// durable. After an error the content of the disk is unknown, and the handle must not be used
    /// again.
    pub(crate) fn checkpoint(&mut self, through: u64) -> Result<(), Error> {
        let mut entries = self.wal.after(self.meta.sequence).map_err(write_error)?;
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
                let rows = std::mem::take(&mut merged);
                self.commit_rows(&rows, ids_below, (sequence, sequence))?;
            }
        }
        if self.meta.sequence < through {
            let what = format!("the write-ahead log does not hold commit {through}");
            return Err(write_error(io::Error::other(what)));
        }
        Ok(())
    }

    /// Commits an entry that is not in the log, and waits until it is durable. After an error as
    /// [`checkpoint`](Self::checkpoint).
    pub(crate) fn commit(&mut self, entry: &Entry) -> Result<(), Error> {
        let numbers = (entry.sequence, self.meta.log_last);
        self.commit_rows(&entry.rows, entry.ids_below, numbers)
    }

    fn commit_next(&mut self, rows: &Rows, ids_below: u64) -> Result<(), Error> {
        let numbers = (self.meta.sequence + 1, self.meta.log_last);
        self.commit_rows(rows, ids_below, numbers)
    }

    /// Takes in `numbers` that of the commit, and that of the last commit in the log.
    fn commit_rows(
        &mut self,
        rows: &Rows,
        ids_below: u64,
        (sequence, log_last): (u64, u64),
    ) -> Result<(), Error> {
        let meta = Meta {
            has_log: true,
            log_salt: self.wal.id(),
            log_last,
            has_sequence_file: true,
            sequence,
            ids_below,
            ..self.meta_after(rows)?
        };
        self.apply(rows, &meta)?;
        self.flush()?;
        self.meta = meta;
        Ok(())
    }

    /// Row count and digest after `rows` are applied.
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

pub(crate) fn write_error(cause: impl Into<io::Error>) -> Error {
    Error::Write {
        cause: Arc::new(cause.into()),
    }
}

#[cfg(test)]
mod tests;
