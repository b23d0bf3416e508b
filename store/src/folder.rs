//! Folders that only the store writes to.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;

/// Says what was attempted on which file.
pub(crate) fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io {
        attempt,
        path,
        cause: Arc::new(cause),
    }
}

/// sled's folder is flat but for `blobs`, which is empty (see `crate::codec::VALUE_MAX`).
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
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
