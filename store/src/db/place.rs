//! The folders around the database, and their exchange.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tracing::warn;

use super::{Db, wait_until_released};
use crate::error::Error;
use crate::folder::{copy_folder, io_error, remove_folder};
use crate::journal::{self, Rows};

const FIRST_ID: u64 = 1;

/// The folders around the database.
pub(super) struct Place {
    folder: PathBuf,
    pub(super) db: PathBuf,
    /// Where the first one is built.
    pub(super) fresh: PathBuf,
    /// The copy kept while opening.
    pub(super) copy: PathBuf,
    /// A database that failed to open, on its way out.
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

    /// Ends what a crash interrupted.
    pub(super) fn finish_interrupted(&self) -> Result<(), Error> {
        if self.touched.exists() {
            self.put_copy_back()?;
        }
        remove_folder(&self.fresh)
    }

    pub(super) fn create(&self) -> Result<(), Error> {
        let mut db = Db::create(&self.fresh)?;
        db.commit_next(&Rows::new(), FIRST_ID)?;
        drop(db);
        let log = self.fresh.join("db");
        wait_until_released(&log).map_err(io_error("close", &log))?;
        self.sync_fresh()?;
        self.rename(&self.fresh, &self.db)
    }

    pub(super) fn sync_fresh(&self) -> Result<(), Error> {
        for path in [
            &self.fresh.join("conf"),
            &self.fresh.join("db"),
            &self.fresh.join(journal::NAME),
            &self.fresh,
        ] {
            let synced = File::open(path).and_then(|file| file.sync_all());
            synced.map_err(io_error("sync", path))?;
        }
        Ok(())
    }

    /// Puts what was built in the place of the database, in one step, and that one to `old`.
    pub(super) fn exchange(&self, old: &Path) -> Result<(), Error> {
        if !self.db.exists() {
            return self.rename(&self.fresh, &self.db);
        }
        let flags = RenameFlags::RENAME_EXCHANGE;
        let exchanged = renameat2(AT_FDCWD, &self.fresh, AT_FDCWD, &self.db, flags);
        exchanged.map_err(|errno| io_error("exchange the database", &self.db)(errno.into()))?;
        self.rename(&self.fresh, old)
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

    /// The copy is whole: it was finished before anything was moved to `touched`.
    pub(super) fn put_copy_back(&self) -> Result<(), Error> {
        if self.db.exists() && !self.touched.exists() {
            self.rename(&self.db, &self.touched)?;
        }
        if self.copy.exists() {
            self.rename(&self.copy, &self.db)?;
        }
        remove_folder(&self.touched)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let renamed = fs::rename(from, to).and_then(|()| File::open(&self.folder)?.sync_all());
        renamed.map_err(io_error("rename the database to", to))
    }
}
