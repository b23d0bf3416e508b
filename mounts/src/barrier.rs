//! One wait for the disk that makes everything before it durable.
//!
//! On ext4 and xfs all changes to names, sizes and extents go through one journal, in order. To
//! have a change of one file committed is to have all earlier changes committed, whoever made
//! them; so a nameless file of our own is changed and synced. (ext4: jbd2 commits whole
//! transactions; xfs: the log is forced up to the sequence of the inode's change.) Content is
//! not in the journal: it was written back before.
//!
//! On other file systems, an ext4 without a journal among them, each file and directory is synced by
//! itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, major, minor};
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
        let device = fstat(&folder).map_err(fail)?.st_dev;
        let kind = fstatfs(&folder).map_err(fail)?.filesystem_type();
        let shared =
            kind == XFS_SUPER_MAGIC || (kind == EXT4_SUPER_MAGIC && ext4_has_journal(device));
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = shared
            .then(|| open(root, flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .transpose();
        let file = match file {
            // A full disk must not keep the daemon from starting: each file is then synced.
            Err(Errno::ENOSPC | Errno::EDQUOT) => None,
            file => file.map_err(fail)?,
        };
        Ok(Self {
            root: root.to_owned(),
            device: file.is_some().then_some(device),
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

/// An ext4 may have been made without one (mke2fs(8), `-O ^has_journal`). The kernel tells which
/// process writes it (Documentation/ABI/testing/sysfs-fs-ext4); where that cannot be read, there is
/// none for all that is known.
fn ext4_has_journal(device: u64) -> bool {
    let (major, minor) = (major(device), minor(device));
    let disk = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let process = disk.ok().and_then(|disk| {
        let disk = Path::new("/sys/fs/ext4").join(disk.file_name()?);
        fs::read_to_string(disk.join("journal_task")).ok()
    });
    process.is_some_and(|process| process.trim().parse::<u32>().is_ok())
}

/// Which one first does not matter where a rename is one transaction.
fn sync_each(folders: &[&Folder]) -> Result<(), Error> {
    for folder in folders {
        fsync(&folder.fd).map_err(|cause| Error::io("sync", &folder.path, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::rig::{LoopDisk, enter_private_mounts};

    #[test]
    fn root_one_wait_covers_all_only_where_there_is_a_journal() {
        enter_private_mounts();
        for (disk, wanted) in [
            (LoopDisk::ext4(32), true),
            (LoopDisk::xfs(&[]), true),
            (LoopDisk::ext4_without_journal(32), false),
            (LoopDisk::btrfs(), false),
            (LoopDisk::tmpfs(), false),
        ] {
            let barrier = Barrier::open(disk.path()).expect("open");
            let device = fs::metadata(disk.path()).expect("stat").dev();
            let wanted = wanted.then_some(device);
            assert_eq!(barrier.journal(), wanted, "{}", disk.path().display());
        }
    }
}
