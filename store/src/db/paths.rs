//! Paths of the database's folders, and their exchange.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tracing::warn;

use super::Db;
use super::guards::wait_until_released;
use crate::error::Error;
use crate::folder::{copy_folder, io_error, remove_folder, sync_folder};
use crate::sequence_file::SequenceFile;
use crate::wal::Rows;

const FIRST_ID: u64 = 1;
/// Number of the commit that creates a database.
pub(super) const FIRST_COMMIT: u64 = 1;

/// Paths of the database and its copies.
pub(super) struct Paths {
    folder: PathBuf,
    pub(super) db: PathBuf,
    /// Folder in which a new database is built.
    pub(super) fresh: PathBuf,
    /// Copy kept while opening.
    pub(super) copy: PathBuf,
    /// Folder to which older releases moved a database that failed to open.
    pub(super) touched: PathBuf,
}

impl Paths {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            db: folder.join("db"),
            fresh: folder.join("db.new"),
            copy: folder.join("db.copy"),
            touched: folder.join("db.touched"),
        }
    }

    /// Completes an interrupted creation or opening. Never deletes a folder that could be the only whole
    /// database.
    pub(super) fn finish_interrupted(&self) -> Result<(), Error> {
        remove_folder(&self.fresh)?;
        match self.sources().first() {
            Some(first) if *first != self.db => self.rename(first, &self.db),
            _ => Ok(()),
        }
    }

    /// Existing folders that may be the database, the likeliest first. Older releases moved it to
    /// `touched` when it failed to open, and a copy that was not durable in its stead: after a power cut
    /// the copy may be cut short, while `touched` is whole.
    pub(super) fn sources(&self) -> Vec<&Path> {
        let first = if self.db.exists() {
            &self.db
        } else {
            &self.copy
        };
        let all = [first, &self.touched].into_iter();
        all.filter(|path| path.exists())
            .map(PathBuf::as_path)
            .collect()
    }

    /// Error for a folder without any of the [`sources`](Self::sources).
    pub(super) fn missing(&self) -> Error {
        Error::Damaged {
            path: self.db.clone(),
            what: "it is missing".to_owned(),
        }
    }

    /// A crash leaves no database, or one with a number in the sequence file.
    pub(super) fn create(&self) -> Result<(), Error> {
        self.begin_sequence_file(FIRST_COMMIT)?;
        let mut db = Db::create(&self.fresh)?;
        db.commit_next(&Rows::new(), FIRST_ID)?;
        drop(db);
        let log = self.fresh.join("db");
        wait_until_released(&log).map_err(io_error("close", &log))?;
        self.sync(&self.fresh)?;
        self.rename(&self.fresh, &self.db)
    }

    /// Gives the sequence file a number, durably, if it has none.
    pub(super) fn begin_sequence_file(&self, sequence: u64) -> Result<(), Error> {
        let path = self.folder.join("sequence");
        let opened = SequenceFile::open(&path);
        let begun = opened.and_then(|mut file| file.ensure(sequence));
        begun.map_err(io_error("write", &path))
    }

    /// Exchanges the new database for the present one, in one step, and answers the new path of that:
    /// `db.old.<sequence>`, with a number behind it if that exists. Durable on return.
    pub(super) fn replace(&self, sequence: u64) -> Result<PathBuf, Error> {
        self.sync(&self.fresh)?;
        let first = self.folder.join(format!("db.old.{sequence}"));
        let numbered = (1..).map(|n| self.folder.join(format!("db.old.{sequence}.{n}")));
        let mut names = std::iter::once(first).chain(numbered);
        let old = names.find(|name| !name.exists()).unwrap_or_default();
        if self.db.exists() {
            // A crash between the two leaves one more copy, and never none.
            self.rename(&self.fresh, &old)?;
            self.exchange(&old)?;
        } else {
            self.rename(&self.fresh, &self.db)?;
        }
        Ok(old)
    }

    /// Exchanges the database for the one that an older release moved away.
    pub(super) fn put_touched_back(&self) -> Result<(), Error> {
        self.exchange(&self.touched)
    }

    /// Copies the database; false on a full disk, which must not keep the store from opening, or no
    /// snapshot could be removed any more.
    pub(super) fn keep_copy(&self) -> Result<bool, Error> {
        remove_folder(&self.copy)?;
        match copy_folder(&self.db, &self.copy) {
            Ok(()) => Ok(true),
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                warn!("the disk is too full for a copy of the database while it is opened");
                remove_folder(&self.copy)?;
                Ok(false)
            }
            Err(cause) => Err(io_error("copy the database to", &self.copy)(cause)),
        }
    }

    /// Exchanges the database that failed to open for its copy, which is made durable before.
    pub(super) fn put_copy_back(&self) -> Result<(), Error> {
        self.sync(&self.copy)?;
        self.exchange(&self.copy)?;
        remove_folder(&self.copy)
    }

    fn sync(&self, folder: &Path) -> Result<(), Error> {
        sync_folder(folder).map_err(io_error("sync", folder))
    }

    /// Exchanges the database with another one, which is durable, in one step. Durable on return.
    fn exchange(&self, other: &Path) -> Result<(), Error> {
        let flags = RenameFlags::RENAME_EXCHANGE;
        let exchanged = renameat2(AT_FDCWD, other, AT_FDCWD, &self.db, flags);
        let exchanged = exchanged.map_err(io::Error::from);
        let synced = exchanged.and_then(|()| File::open(&self.folder)?.sync_all());
        synced.map_err(io_error("exchange the database", &self.db))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let renamed = fs::rename(from, to).and_then(|()| File::open(&self.folder)?.sync_all());
        renamed.map_err(io_error("rename the database to", to))
    }
}
