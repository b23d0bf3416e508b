//! A directory of our own, held open.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, fsync};

use crate::barrier::Barrier;
use crate::error::Error;
use crate::sys;
pub use crate::sys::FLAGS;
use crate::tree::flags;

/// One of the driver's own directories.
#[derive(Debug)]
pub struct Folder {
    /// The open directory.
    pub fd: OwnedFd,
    /// Its path when it was opened.
    pub path: PathBuf,
}

impl Folder {
    /// Opens `name` below `root`; makes it if it is missing. Only root gets at what is inside,
    /// whatever was done to its owner and mode. Durable on return, but for its entry in `root`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: &Path, name: &CStr) -> Result<Self, Error> {
        let folder = Self::make(root, name)?;
        folder.protect()?;
        Ok(folder)
    }

    /// Opens `name` below `root` as it is; makes it if it is missing. Not durable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn make(root: &Path, name: &CStr) -> Result<Self, Error> {
        let path = root.join(OsStr::from_bytes(name.to_bytes()));
        let fail = |cause: Errno| Error::io("create directory", &path, cause);
        match nix::unistd::mkdir(&path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(cause) => return Err(fail(cause)),
        }
        let fd = nix::fcntl::open(&path, FLAGS, Mode::empty())
            .map_err(|cause| Error::io("open directory", &path, cause))?;
        Ok(Self { fd, path })
    }

    /// Lets only root get at what is inside, whatever was done to its owner and mode. Durable on return.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn protect(&self) -> Result<(), Error> {
        let Self { fd, path } = self;
        let stat = sys::stat(fd.as_fd(), c"").map_err(|cause| Error::io("look at", path, cause))?;
        if (stat.uid, stat.gid) != (Uid::effective().as_raw(), Gid::effective().as_raw()) {
            fchown(fd, Some(Uid::effective()), Some(Gid::effective()))
                .map_err(|cause| Error::io("change the owner of", path, cause))?;
        }
        if stat.mode & 0o7777 != 0o700 {
            fchmod(fd, Mode::S_IRWXU)
                .map_err(|cause| Error::io("change the mode of", path, cause))?;
        }
        fsync(fd).map_err(|cause| Error::io("sync", path, cause))
    }

    /// True if a name exists, whatever its type.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has(&self, name: &str) -> Result<bool, Error> {
        match sys::stat(self.fd.as_fd(), &c_name(name)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(cause) => Err(Error::io("look at", &self.path.join(name), cause)),
        }
    }
}

/// `name` as system calls take it.
///
/// # Panics
/// If it has a NUL: it is meant for the spelling of a slot.
#[must_use]
pub fn c_name(name: &str) -> CString {
    CString::new(name).expect("the spelling of a slot has no NUL")
}

/// Moves a directory that is there. A power cut leaves it in one of the two folders, and what is done
/// to it afterwards reaches the disk later; see [`Barrier::moved`].
///
/// # Errors
/// [`Error::Io`].
pub fn move_over(
    barrier: &Barrier,
    from: &Folder,
    old: &str,
    to: &Folder,
    new: &str,
) -> Result<(), Error> {
    match rename_over(from, old, to, new)? {
        true => barrier.moved((to.fd.as_fd(), &to.path), (from.fd.as_fd(), &from.path)),
        false => Ok(()),
    }
}

/// Renames a directory, also an immutable or append-only one, which is no longer that, and answers
/// whether it was there. Never over another one: two directories of
/// one name mean that something is badly wrong, and neither may be lost to it.
///
/// # Errors
/// [`Error::Io`].
pub fn rename_over(from: &Folder, old: &str, to: &Folder, new: &str) -> Result<bool, Error> {
    let rename = || renameat2(&from.fd, old, &to.fd, new, RenameFlags::RENAME_NOREPLACE);
    match flags::without(from.fd.as_fd(), &c_name(old), rename) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(Errno::EEXIST) => Err(Error::io("move to", &to.path.join(new), Errno::EEXIST)),
        Err(cause) => Err(Error::io("move", &from.path.join(old), cause)),
    }
}

/// Opens a file of layerd's own that is there, to be read, and with `write` to be written. What has its name
/// and is no regular file, such as a symlink or a FIFO, is neither opened, followed nor waited for.
///
/// # Errors
/// Those of open(2); [`io::ErrorKind::InvalidData`] for what is no file.
pub fn open_file(path: &Path, write: bool) -> io::Result<File> {
    let refused = || io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(refused());
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(flags.bits());
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused()),
    }
}

/// Makes entries of a directory durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_path(path: &Path) -> Result<(), Error> {
    let fail = |cause: Errno| Error::io("sync", path, cause);
    let fd = nix::fcntl::open(path, FLAGS, Mode::empty()).map_err(fail)?;
    fsync(&fd).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "content").expect("write");
        fs::create_dir(path("folder")).expect("make");
        symlink(path("file"), path("link")).expect("link");
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).expect("make");
        for write in [false, true] {
            open_file(&path("file"), write).expect("a file");
            for name in ["folder", "link", "fifo"] {
                let refused = open_file(&path(name), write).expect_err(name);
                assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{name}");
            }
            let missing = open_file(&path("none"), write).expect_err("none");
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
    }
}
