//! Arguments and results of a [`Mounter`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::MountError;
#[cfg(doc)]
use super::Mounter;
use super::holder::MountId;
pub use crate::sys::Identity;
use crate::sys::{self, Stat};
use crate::types::IdMaps;

/// A file or directory, held open so that its path is never looked up again. Holding one inside a
/// mount keeps that mount busy.
#[derive(Debug)]
pub struct Handle {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
}

impl Handle {
    /// Takes over a descriptor (O_PATH will do). `path` is only shown in messages.
    ///
    /// # Errors
    /// [`MountError::Io`] if it cannot be looked at.
    pub fn new(fd: OwnedFd, path: &Path) -> Result<Self, MountError> {
        let stat =
            sys::stat(fd.as_fd(), c"").map_err(|cause| MountError::io("look at", path, cause))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            stat,
        })
    }

    /// Where it was found; for messages only, it may have been moved since.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True for a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.stat.is_dir()
    }

    /// True for a symlink; only [`Handle::new`] makes such a handle.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.stat.is_symlink()
    }

    /// Device number, major and minor; differs between the subvolumes of one btrfs.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.stat.device
    }

    /// Owner and group, as they are now.
    ///
    /// # Errors
    /// [`MountError::Io`].
    pub fn owner(&self) -> Result<(u32, u32), MountError> {
        let stat = crate::sys::stat(self.fd.as_fd(), c"");
        let stat = stat.map_err(|cause| MountError::io("look at", &self.path, cause))?;
        Ok((stat.uid, stat.gid))
    }

    /// The mount that it was reached through.
    ///
    /// # Errors
    /// [`MountError::Io`].
    pub fn mount_id(&self) -> Result<MountId, MountError> {
        let id = sys::mount_id(self.fd.as_fd(), c"", false);
        id.map_err(|cause| MountError::io("find the mount of", &self.path, cause))
    }

    /// Number of the inode.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.stat.inode
    }

    /// The path that it has now, without symlinks, as seen from this process's root directory.
    ///
    /// # Errors
    /// [`MountError::Io`].
    pub fn real_path(&self) -> Result<PathBuf, MountError> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(&link)
            .map_err(|cause| MountError::io("find the real path of", &self.path, cause))
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Handling of symlinks in the path of a bind source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// As `cd` would; links of procfs into other processes are refused all the same.
    Follow,
    /// Any symlink in the path is an error.
    Refuse,
}

/// Required type of a subpath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Anything.
    Any,
    /// A directory.
    Directory,
    /// Anything but a directory.
    File,
}

/// File or directory that [`Mounter::create_source`] makes if it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSource {
    /// An empty file instead of a directory.
    pub file: bool,
    /// Permission bits of all that is made, whatever the umask. Files get no execute bits.
    pub mode: u32,
    /// Owner of all that is made.
    pub uid: u32,
    /// Group of all that is made.
    pub gid: u32,
    /// Handling of symlinks in existing parts of the path.
    pub symlinks: Symlinks,
}

impl NewSource {
    /// A directory of root's with mode 0755, as Docker makes.
    pub const DIRECTORY: Self = Self {
        file: false,
        mode: 0o755,
        uid: 0,
        gid: 0,
        symlinks: Symlinks::Follow,
    };
}

/// Result of [`Mounter::create_source`].
#[derive(Debug)]
pub struct Source {
    /// It, held open. What was there before may be of the other kind: ask [`Handle::is_dir`].
    pub handle: Handle,
    /// Paths that this call made, outermost first, the source last; empty if it existed.
    pub made: Vec<Made>,
}

/// A directory or file that [`Mounter::create_source`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Where.
    pub path: PathBuf,
    /// Device number, major and minor.
    pub device: (u32, u32),
    /// Number of the inode.
    pub inode: u64,
}

/// Requested read-only mode of a bind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// Writable, unless the source is mounted read-only itself.
    #[default]
    Writable,
    /// The top mount only; mounts below it may be written.
    Top,
    /// The top and all mounts below it; where that cannot be, the top only.
    RecursiveIfPossible,
    /// The top and all mounts below it, or an error.
    RecursiveRequired,
}

/// Actual read-only mode of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effective {
    /// It can be written.
    Writable,
    /// The top mount cannot be written; mounts below it may be, now or later.
    Top,
    /// Nothing that is seen through it can be written.
    Recursive,
}

/// Propagation of later mounts between a bind and its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// In neither direction.
    #[default]
    Private,
    /// From the source to the bind.
    Slave,
    /// In both directions.
    Shared,
}

/// Options of a bind. The default is a writable, private, non-recursive one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindOptions {
    /// Take the mounts below the source along. Attributes then go for all of them.
    pub recursive: bool,
    /// Read-only mode.
    pub read_only: ReadOnly,
    /// Propagation of all mounts of the bind.
    pub propagation: Propagation,
    /// Ignore set-user-id bits.
    pub nosuid: bool,
    /// Refuse device nodes.
    pub nodev: bool,
    /// Refuse to execute.
    pub noexec: bool,
    /// Show what belongs to the container ids as belonging to the host ids, and write it back.
    pub ids: Option<IdMaps>,
    /// Mounts that a recursive, private bind leaves out, with all that stands on them. Other binds
    /// take them along.
    pub without: Vec<MountId>,
}

/// A tmpfs. nosuid and nodev are set unless told otherwise, as Docker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Bytes; `None` is the kernel's own limit, half of the memory.
    pub size: Option<u64>,
    /// Inodes; `None` is the kernel's own limit.
    pub inodes: Option<u64>,
    /// Permission bits of the top directory.
    pub mode: u32,
    /// Owner of the top directory.
    pub uid: u32,
    /// Group of the top directory.
    pub gid: u32,
    /// Read-only; of use only to hide what is below.
    pub read_only: bool,
    /// Ignore set-user-id bits.
    pub nosuid: bool,
    /// Refuse device nodes.
    pub nodev: bool,
    /// Refuse to execute.
    pub noexec: bool,
}

impl Default for TmpfsOptions {
    fn default() -> Self {
        Self {
            size: None,
            inodes: None,
            mode: 0o1777,
            uid: 0,
            gid: 0,
            read_only: false,
            nosuid: true,
            nodev: true,
            noexec: false,
        }
    }
}

/// One or more mounts that stand nowhere yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Tree {
    pub(crate) fd: OwnedFd,
    pub(crate) shown: PathBuf,
    pub(crate) propagation: Propagation,
    pub(crate) read_only: Effective,
    pub(crate) attached: Attached,
    /// Paths below its top whose mounts are not to come along.
    pub(crate) without: Vec<PathBuf>,
}

impl Tree {
    /// Identity of the mount once attached. The kernel assigns the id to a detached mount already, so this
    /// can be recorded before [`Mounter::attach`].
    #[must_use]
    pub fn attached(&self) -> Attached {
        self.attached
    }

    /// Read-only mode, read back from the kernel.
    #[must_use]
    pub fn read_only(&self) -> Effective {
        self.read_only
    }

    /// Opens its top directory, to look at what is in it. `shown` stands for it in messages.
    ///
    /// # Errors
    /// [`MountError::Io`].
    pub fn open(&self, shown: &Path) -> Result<Handle, MountError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|cause| MountError::io("open", shown, cause))?;
        Handle::new(top, shown)
    }

    /// True if its root is a directory.
    ///
    /// # Errors
    /// [`MountError::Io`].
    pub fn is_dir(&self) -> Result<bool, MountError> {
        let stat = sys::stat(self.fd.as_fd(), c"");
        stat.map(|stat| stat.is_dir())
            .map_err(|cause| MountError::io("look at", &self.shown, cause))
    }
}

/// Identity of an attached mount, to be recorded and passed to [`Mounter::detach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Number of the top mount.
    pub id: MountId,
    /// The mounts that came along below it have numbers above `id`, up to this one; `id` if there
    /// are none. What is mounted inside later has another, unless it was made at the same moment.
    /// Where numbers are used again, it is `id` and as many as came along.
    pub last_id: MountId,
    /// Device of its top directory or file, major and minor, as statx(2) says.
    pub device: (u32, u32),
    /// Inode of its top directory or file.
    pub inode: u64,
}

/// Mode of an unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachMode {
    /// Fail while it is in use.
    Normal,
    /// Detaches it at once (MNT_DETACH); it lives on until its last user is gone. Its source
    /// must not be deleted before that.
    Lazy,
}

/// Result of [`Mounter::detach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// It stood there and no longer does.
    Now,
    /// It stood there no longer.
    AlreadyGone,
}

/// One mount of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number.
    pub id: MountId,
    /// Number of the mount it stands on.
    pub parent: MountId,
    /// Where it stands, as seen from this process's root directory.
    pub target: PathBuf,
    /// Device of the file system, major and minor; on btrfs not what stat(2) says.
    pub device: (u32, u32),
    /// The directory of the file system that is seen here.
    pub root: PathBuf,
    /// Propagation of mounts below it; a mount that is both shared and slave counts as shared.
    pub propagation: Propagation,
    /// Set if recursive binds leave it out, with its submounts.
    pub unbindable: bool,
}

/// A place in a file system. Two mounts of one file system show the same place under two paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Device of the file system, major and minor, as in [`MountEntry::device`].
    pub device: (u32, u32),
    /// Path from the root of the file system.
    pub path: PathBuf,
    /// The directory or file of the file system that the mount shows as its top.
    pub shown: PathBuf,
    /// The mount that it was reached through.
    pub mount: MountId,
}

/// Result of [`Mounter::private_root`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateRoot {
    /// It was bound on itself and made private by this call.
    Made,
    /// It was so before.
    Already,
    /// It was left alone, because something is mounted below that would have been doubled.
    InUse,
}
