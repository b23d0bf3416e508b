//! What a layer lacks that was unpacked before it was known what lies below it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::implied;
use crate::durable::Durable;
use crate::error::Error;
use crate::node;
use crate::trail;

/// Gives directories of a layer the attributes that unpacking it over `lowers`, nearest first,
/// would have given them: those that the archive only `implied`, as [`apply()`](super::apply())
/// listed them, and the top directory. Directories that `lowers` do not have, or that are none
/// any more, are passed over. May be repeated.
///
/// Answers by how many bytes of disk the layer grew. With [`Durable::Each`] the directories are on
/// the disk on return; else their attributes wait in the journal. Costs a few system calls for
/// each directory and each layer it is looked for in.
///
/// # Errors
/// [`Error::Io`]; a part may be done then.
pub fn adopt(
    layer: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    implied: &[Vec<u8>],
    durable: Durable,
) -> Result<i64, Error> {
    let mut grown = 0;
    let top = b".".to_vec();
    for path in implied.iter().chain([&top]) {
        let path = as_path(path);
        let Some(model) = implied::model(lowers, path)? else {
            continue;
        };
        let Some(dir) = open(layer, path)? else {
            continue;
        };
        let blocks = || {
            let stat = node::stat(dir.as_fd()).map_err(|cause| Error::io("look at", path, cause));
            stat.map(|stat| i64::try_from(stat.blocks).unwrap_or(0))
        };
        let before = blocks()?;
        let given = model.to(dir.as_fd());
        given.map_err(|(attempt, cause)| Error::io(attempt, path, cause))?;
        grown += (blocks()? - before) * 512;
        to_disk(&dir, path, durable)?;
    }
    Ok(grown)
}

/// Deletes the `whiteouts` that [`apply()`](super::apply()) listed, in a layer that turned out to
/// have nothing below: looked at without overlayfs they would be devices. The times of their
/// directories stay. What is no whiteout, or not there, is passed over. Answers how many it
/// deleted. See [`adopt`] for what is durable.
///
/// # Errors
/// [`Error::Io`]; some may be deleted then.
pub fn delete_whiteouts(
    layer: BorrowedFd<'_>,
    whiteouts: &[Vec<u8>],
    durable: Durable,
) -> Result<usize, Error> {
    let mut deleted = 0;
    for path in whiteouts {
        let path = as_path(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let Some(dir) = open(layer, parent)? else {
            continue;
        };
        let failed = |cause| Error::io("delete", path, cause);
        let name = super::dirs::c_name(name.as_encoded_bytes())?;
        match node::find(dir.as_fd(), &name) {
            Ok((_, stat)) if stat.is_whiteout() => {}
            Ok(_) | Err(Errno::NOENT) => continue,
            Err(cause) => return Err(failed(cause)),
        }
        let before = node::stat(dir.as_fd()).map_err(failed)?;
        rustix::fs::unlinkat(&dir, &*name, AtFlags::empty()).map_err(failed)?;
        let times = Timestamps {
            last_access: before.accessed,
            last_modification: before.modified,
        };
        rustix::fs::futimens(&dir, &times).map_err(failed)?;
        to_disk(&dir, parent, durable)?;
        deleted += 1;
    }
    Ok(deleted)
}

/// A directory of a layer, if it is one.
fn open(layer: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match trail::open_below(layer, path, flags) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(cause) => Err(Error::io("open directory", path, cause)),
    }
}

fn to_disk(dir: &OwnedFd, path: &Path, durable: Durable) -> Result<(), Error> {
    if durable != Durable::Each {
        return Ok(());
    }
    rustix::fs::fsync(dir).map_err(|cause| Error::io("write to the disk", path, cause))
}

fn as_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests;
