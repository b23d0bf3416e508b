//! Folders and files of the store.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::file::{self, create_in_place};

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

/// Requires that a name which is there is a folder itself: below a symlink lie the files of others.
///
/// # Errors
/// One that says what it is.
pub(crate) fn check_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause),
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => {
            let kind = file::stranger(path).unwrap_or("a file");
            let rule = "and no folder; another disk's is to be bound to it by mount(8)";
            Err(io::Error::other(format!("it is {kind}, {rule}")))
        }
    }
}

/// Requires that sled's folder is one, and holds files alone, and `blobs`: sled would follow a symlink, and
/// wait for a FIFO.
///
/// # Errors
/// One that names what is neither; those of reading the folder.
pub(crate) fn check_files(folder: &Path) -> io::Result<()> {
    check_folder(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_folder = file::stranger(&path) == Some("a directory");
        if !(is_folder && path.ends_with("blobs")) {
            refuse_stranger(&path)?;
        }
    }
    Ok(())
}

fn refuse_stranger(path: &Path) -> io::Result<()> {
    match file::stranger(path) {
        None => Ok(()),
        Some(kind) => {
            let path = path.display();
            Err(io::Error::other(format!("{path} is {kind}, and no file")))
        }
    }
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
            continue;
        }
        refuse_stranger(&entry.path())?;
        if entry.file_name() == WAL {
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
    let removed = match fs::remove_dir_all(path) {
        // What has the name of a folder that is to be made may be anything.
        Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => file::remove(path).map(drop),
        removed => removed,
    };
    match removed {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(cause))
        }
        _ => Ok(()),
    }
}
