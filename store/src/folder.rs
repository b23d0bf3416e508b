//! Folders and files of the store.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::error::Error;

/// Name of the write-ahead log.
pub(crate) const WAL: &str = "journal";

/// Adds operation and path to an I/O error.
pub(crate) fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        attempt,
        path,
        cause: Arc::new(cause),
    }
}

/// Creates a file whose allocated blocks are overwritten in place, so that it can be written on a
/// full disk. On btrfs the flag must be set while the file is empty (`chattr +C`); other file systems
/// overwrite in place anyway, or cannot. Not durable.
///
/// # Errors
/// `AlreadyExists`, and others of open(2).
pub(crate) fn create_in_place(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    if let Ok(flags) = ioctl_getflags(&file) {
        // Fails on every file system without the flag.
        let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
    Ok(file)
}

/// True for a file on btrfs that was not made by [`create_in_place`].
pub(crate) fn is_copied_on_write(file: impl AsFd) -> io::Result<bool> {
    let is_btrfs = rustix::fs::fstatfs(&file)?.f_type == nix::sys::statfs::BTRFS_SUPER_MAGIC.0;
    Ok(is_btrfs && !ioctl_getflags(&file)?.contains(IFlags::NOCOW))
}

/// Copies sled's folder, which is flat but for `blobs`, which is empty (see
/// `crate::codec::VALUE_MAX`). The write-ahead log is copied by bytes, not by a reflink, whose shared
/// blocks would be copied on the next write, which a full disk refuses. Not durable.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_name() == WAL {
            let bytes = fs::read(entry.path())?;
            io::Write::write_all(&mut create_in_place(&target)?, &bytes)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Makes a folder and everything below it durable, but not its own name in the folder above.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folder(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()
}

#[allow(
    clippy::disallowed_methods,
    reason = "a folder that only this file writes to and where nothing is ever mounted"
)]
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(cause))
        }
        _ => Ok(()),
    }
}
