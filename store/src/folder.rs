//! Folders that only the store writes to.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::error::Error;
use crate::journal;

/// Says what was attempted on which file.
pub(crate) fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        attempt,
        path,
        cause: Arc::new(cause),
    }
}

/// Creates a file whose blocks are written over in place once they are allocated, so that a full
/// disk does not keep it from being written. On btrfs that has to be asked for while the file is
/// empty (`chattr +C`); other file systems do so anyway, or cannot.
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
        // Refused by every file system that does not know the flag.
        let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
    Ok(file)
}

/// Whether [`create_in_place`] would create the file in another way than it was.
pub(crate) fn is_copied_on_write(file: impl AsFd) -> io::Result<bool> {
    let is_btrfs = rustix::fs::fstatfs(&file)?.f_type == nix::sys::statfs::BTRFS_SUPER_MAGIC.0;
    Ok(is_btrfs && !ioctl_getflags(&file)?.contains(IFlags::NOCOW))
}

/// Copies sled's folder, which is flat but for `blobs`, which is empty (see
/// `crate::codec::VALUE_MAX`). The copy of the journal shares no blocks with it, as a reflink
/// does: both would be copied on the next write, which a full disk refuses. Not durable.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_name() == journal::NAME {
            let bytes = fs::read(entry.path())?;
            io::Write::write_all(&mut create_in_place(&target)?, &bytes)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Makes a folder, all below it, and their content durable. Not its entry in the folder above.
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
