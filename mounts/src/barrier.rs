//! The barrier: one wait for the disk that makes all earlier changes durable, by type of file system.
//!
//! | file system | the wait | a move between layerd's own folders |
//! |---|---|---|
//! | xfs, ext4 with a journal | commit of the journal | is one change of the journal |
//! | btrfs | syncfs(2) | is in one transaction |
//! | others, ext4 without a journal among them | syncfs(2) | fsync(2) of both folders at once |
//!
//! On xfs, and on ext4 that has a journal, all changes to names, sizes and extents go through one
//! journal, in order. The commit of a change of one file commits all earlier changes of any
//! process; so a nameless file of our own is changed and synced. (ext4: jbd2
//! commits whole transactions; xfs: the log is forced up to the sequence of the inode's change.)
//! Content is not in the journal: it was written back before.
//!
//! Elsewhere no fsync(2) says anything of other files, and symlinks, devices, FIFOs and sockets
//! cannot be opened to be synced at all. syncfs(2) brings all to the disk, other programs' files on
//! that file system included. A call that filled a tree makes it on its own thread: calls that share
//! a wait for records do not wait for it. New directories of layerd's own wait for it too, because
//! an ext4 without a journal uses inodes again whose old names are still on the disk: after a power
//! cut e2fsck leaves a directory that has two names one of them, and not always the new one. A
//! deletion waits for it before it lets go of inodes, for the same reason
//! ([`Barrier::reuse_is_in_order`]).
//!
//! On btrfs directories are not synced by fsync(2), which writes a log to be replayed by the next
//! mount: after directories were moved and synced so, and the power was cut, Linux 6.18 was seen to
//! refuse that log (`invalid nlink: has 2 expect no more than 1 for dir`) and with it the mount.

use std::fs::{self, File};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{fsync, ftruncate, syncfs};
use parking_lot::Mutex;

use crate::error::Error;
use crate::sys::FLAGS;

/// Guarantee of a file system for changes that are not synced by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// One journal has all of them in order; the file system's device.
    Journal(u64),
    /// Transactions have them in order, but the only commit is that of everything.
    Transactions,
    /// They reach the disk in any order.
    None,
}

/// The waits of one file system. Each lock also keeps a second caller from returning before the wait
/// that covers its change has ended.
#[derive(Debug)]
pub struct Barrier {
    root: PathBuf,
    order: Order,
    /// A nameless file and its length, if the file system has one journal.
    commit: Mutex<Option<(File, i64)>>,
    /// Something changed. Set after the change and cleared before the wait.
    changed: AtomicBool,
    /// Stays open, so that errors of write-back since then are reported.
    folder: Mutex<OwnedFd>,
    /// Something is left to syncfs(2). Set and cleared as `changed`.
    filled: AtomicBool,
}

impl Barrier {
    /// The waits of the file system that holds `root`, an existing directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |cause: Errno| Error::io("open a file to sync in", root, cause);
        let folder = open(root, FLAGS, Mode::empty()).map_err(fail)?;
        let device = fstat(&folder).map_err(fail)?.st_dev;
        let order = match fstatfs(&folder).map_err(fail)?.filesystem_type() {
            XFS_SUPER_MAGIC => Order::Journal(device),
            EXT4_SUPER_MAGIC if ext4_has_journal(device) => Order::Journal(device),
            BTRFS_SUPER_MAGIC => Order::Transactions,
            _ => Order::None,
        };
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = matches!(order, Order::Journal(_))
            .then(|| open(root, flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .transpose();
        let (order, file) = match file {
            // A full disk must not keep the daemon from starting, nor a read-only one of volumes: syncfs(2)
            // needs no file.
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => (Order::Transactions, None),
            file => (order, file.map_err(fail)?),
        };
        Ok(Self {
            root: root.to_owned(),
            order,
            commit: Mutex::new(file.map(|fd| (File::from(fd), 0))),
            changed: AtomicBool::new(false),
            folder: Mutex::new(folder),
            filled: AtomicBool::new(false),
        })
    }

    /// The file system, by its device number, if one wait covers all files of it.
    #[must_use]
    pub fn journal(&self) -> Option<u64> {
        match self.order {
            Order::Journal(device) => Some(device),
            Order::Transactions | Order::None => None,
        }
    }

    /// Notes that entries of layerd's folders changed, for the next [`pass`](Self::pass).
    pub fn note(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Notes that a tree was filled, whose content is on the disk, for the next
    /// [`pass`](Self::pass). Where there is no journal, all of it is durable on return, and other
    /// programs' files are waited for: one wait for all callers of the moment.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn filled(&self) -> Result<(), Error> {
        if self.journal().is_some() {
            self.note();
            return Ok(());
        }
        self.filled.store(true, Ordering::Release);
        let folder = self.folder.lock();
        if !self.filled.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = self.sync_filesystem(&folder);
        synced.inspect_err(|_| self.filled.store(true, Ordering::Release))
    }

    /// Brings a new directory with what layerd made in it to the disk before it is moved to its
    /// final path, where neither a journal nor a transaction keeps the two in order: another call's
    /// wait for the folder may bring the name alone. Cost there: as for [`filled`](Self::filled);
    /// none elsewhere.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn made(&self) -> Result<(), Error> {
        match self.order {
            Order::Journal(_) | Order::Transactions => Ok(()),
            Order::None => self.filled(),
        }
    }

    /// Makes all changes that were noted durable, if there are any.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pass(&self) -> Result<(), Error> {
        let mut commit = self.commit.lock();
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let passed = match commit.as_mut() {
            Some((file, length)) => self.commit_journal(file, length),
            None => self.filled(),
        };
        passed.inspect_err(|_| self.note())
    }

    /// Makes attributes that were changed of one of layerd's own directories durable now.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn changed_inode(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        match self.order {
            Order::Journal(_) => sync(dir, path),
            Order::Transactions | Order::None => self.filled(),
        }
    }

    /// True if an inode and a block that are free in memory are so on the disk before they are used
    /// again.
    ///
    /// Where they are not, the block of a deleted directory is used again with its old entries still
    /// in it, since the kernel drops what was not written of it. A new directory whose inode reaches
    /// the disk before its first block then shows them after a power cut, and e2fsck(8), which believes
    /// a block with a wrong checksum if its entries look sound, gives it the directories that have
    /// those inode numbers by now: it takes them out of trees that were synced long before. So a
    /// deletion keeps inodes in use until the blocks that named them are on the disk without them.
    #[must_use]
    pub fn reuse_is_in_order(&self) -> bool {
        match self.order {
            Order::Journal(_) | Order::Transactions => true,
            Order::None => false,
        }
    }

    /// Brings the removal of a name to the disk before its inode is used again, where that is not
    /// in order by itself.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn removed(&self, from: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        match self.order {
            Order::Journal(_) | Order::Transactions => Ok(()),
            Order::None => sync(from, path),
        }
    }

    /// Brings a move from one folder to another to the disk where nothing else keeps both of its
    /// halves together: the new name first, so that at no moment there is none. Cost there: two
    /// waits; none elsewhere.
    ///
    /// The kernel may still write the old folder by itself within the moment between rename(2) and
    /// the first wait; if the power is cut then, fsck(8) puts the moved directory into `lost+found`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn moved(
        &self,
        (to, to_path): (BorrowedFd<'_>, &Path),
        (from, from_path): (BorrowedFd<'_>, &Path),
    ) -> Result<(), Error> {
        match self.order {
            Order::Journal(_) | Order::Transactions => Ok(()),
            Order::None => sync(to, to_path).and_then(|()| sync(from, from_path)),
        }
    }

    /// A new length is a change to the journal each time; a new time stamp may not be.
    fn commit_journal(&self, file: &File, length: &mut i64) -> Result<(), Error> {
        *length += 1;
        let committed = ftruncate(file, *length).and_then(|()| fsync(file));
        committed.map_err(|cause| Error::io("commit the journal under", &self.root, cause))
    }

    /// syncfs(2) on an ext4 without a journal has the disk empty its cache before it writes inodes
    /// and directories, not after (Linux 6.18, `ext4_sync_fs` and `sync_filesystem`); fsync(2) ends
    /// with the flush that is missing, also where nothing is dirty.
    fn sync_filesystem(&self, folder: &OwnedFd) -> Result<(), Error> {
        let synced = syncfs(folder).and_then(|()| fsync(folder));
        synced.map_err(|cause| Error::io("sync the file system of", &self.root, cause))
    }
}

fn sync(dir: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    fsync(dir).map_err(|cause| Error::io("sync", path, cause))
}

/// True if the ext4 on a device has a journal. It may have been made without one (mke2fs(8),
/// `-O ^has_journal`). The kernel tells which process writes it
/// (Documentation/ABI/testing/sysfs-fs-ext4); where that cannot be read, there is none for all that is
/// known.
#[must_use]
pub fn ext4_has_journal(device: u64) -> bool {
    let (major, minor) = (major(device), minor(device));
    let disk = fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let process = disk.ok().and_then(|disk| {
        let disk = Path::new("/sys/fs/ext4").join(disk.file_name()?);
        fs::read_to_string(disk.join("journal_task")).ok()
    });
    process.is_some_and(|process| process.trim().parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::test_support::{LoopDisk, enter_private_mounts};

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
