//! One wait for the disk that makes everything before it durable.
//!
//! On ext4 and xfs all changes to names, sizes and extents go through one journal, in order. To
//! have a change of one file committed is to have all earlier changes committed, whoever made
//! them; so a nameless file of our own is changed and synced. (ext4: jbd2 commits whole
//! transactions; xfs: the log is forced up to the sequence of the inode's change.) Content is
//! not in the journal: it was written back before.
//!
//! On other file systems each directory is synced by itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{fsync, ftruncate};

use crate::error::Error;
use crate::folder::{FLAGS, Folder};

#[derive(Debug)]
pub(crate) struct Barrier {
    root: PathBuf,
    /// The nameless file and its length, where the file system has one journal. The lock also
    /// keeps a second caller from returning before the wait that covers its change has ended.
    journal: Mutex<Option<(File, i64)>>,
    /// The device of that file.
    device: Option<u64>,
}

impl Barrier {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let fail = |cause: Errno| Error::io("open a file to sync in", root, cause);
        let folder = open(root, FLAGS, Mode::empty()).map_err(fail)?;
        let kind = fstatfs(&folder).map_err(fail)?.filesystem_type();
        let shared = kind == EXT4_SUPER_MAGIC || kind == XFS_SUPER_MAGIC;
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = shared
            .then(|| open(root, flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .transpose();
        let file = match file {
            // A full disk must not keep the daemon from starting: each file is then synced.
            Err(Errno::ENOSPC | Errno::EDQUOT) => None,
            file => file.map_err(fail)?,
        };
        let device = file.as_ref().map(fstat).transpose().map_err(fail)?;
        Ok(Self {
            root: root.to_owned(),
            device: device.map(|stat| stat.st_dev),
            journal: Mutex::new(file.map(|fd| (File::from(fd), 0))),
        })
    }

    /// The file system, by its device number, if one wait covers all files of it.
    pub(crate) fn journal(&self) -> Option<u64> {
        self.device
    }

    /// Makes all earlier changes of names and sizes durable, if there are any.
    pub(crate) fn pass(&self, changed: &AtomicBool, folders: &[&Folder]) -> Result<(), Error> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if !changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let passed = match journal.as_mut() {
            Some((file, length)) => self.commit_journal(file, length),
            None => sync_each(folders),
        };
        passed.inspect_err(|_| changed.store(true, Ordering::Release))
    }

    /// A new length is a change to the journal each time; a new time stamp may not be.
    fn commit_journal(&self, file: &File, length: &mut i64) -> Result<(), Error> {
        *length += 1;
        let committed = ftruncate(file, *length).and_then(|()| fsync(file));
        committed.map_err(|cause| Error::io("commit the journal under", &self.root, cause))
    }
}

/// Which one first does not matter: a rename is one transaction.
fn sync_each(folders: &[&Folder]) -> Result<(), Error> {
    for folder in folders {
        fsync(&folder.fd).map_err(|cause| Error::io("sync", &folder.path, cause))?;
    }
    Ok(())
}
