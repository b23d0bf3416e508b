//! The folders around the database, and their exchange.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tracing::warn;

use super::{Db, wait_until_released};
use crate::error::Error;
use crate::folder::{copy_folder, io_error, remove_folder, sync_folder};
use crate::journal::Rows;

const FIRST_ID: u64 = 1;

/// The folders around the database.
pub(super) struct Place {
    folder: PathBuf,
    pub(super) db: PathBuf,
    /// Where the first one is built.
    pub(super) fresh: PathBuf,
    /// The copy kept while opening.
    pub(super) copy: PathBuf,
    /// Where older releases moved a database that failed to open.
    pub(super) touched: PathBuf,
}

impl Place {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            db: folder.join("db"),
            fresh: folder.join("db.new"),
            copy: folder.join("db.copy"),
            touched: folder.join("db.touched"),
        }
    }

    /// Ends what a crash interrupted. Deletes nothing that could be the only whole database.
    pub(super) fn finish_interrupted(&self) -> Result<(), Error> {
        remove_folder(&self.fresh)?;
        match self.sources().first() {
            Some(first) if *first != self.db => self.rename(first, &self.db),
            _ => Ok(()),
        }
    }

    /// Where the database may be, the likeliest first. Older releases moved it to `touched` when it
    /// failed to open, and then the copy to its place, not yet durable: after a power cut that copy
    /// may be cut off, and what was moved away is whole.
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

    /// What is said when none of the [`sources`](Self::sources) is there.
    pub(super) fn missing(&self) -> Error {
        Error::Damaged {
            path: self.db.clone(),
            what: "it is missing".to_owned(),
        }
    }

    pub(super) fn create(&self) -> Result<(), Error> {
        let mut db = Db::create(&self.fresh)?;
        db.commit_next(&Rows::new(), FIRST_ID)?;
        drop(db);
        let log = self.fresh.join("db");
        wait_until_released(&log).map_err(io_error("close", &log))?;
        self.sync(&self.fresh)?;
        self.rename(&self.fresh, &self.db)
    }

    /// Puts what was built in the place of the database, in one step, and answers where that one is
    /// then: `db.old.<sequence>`, with a number behind it if there is one already.
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

    /// Puts the database that an older release moved away in its place.
    pub(super) fn put_touched_back(&self) -> Result<(), Error> {
        self.exchange(&self.touched)
    }

    /// A full disk must not keep the store from opening, or nothing could be removed any more.
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

    /// Puts the copy in the place of what the failed opening left. The copy is durable before.
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
