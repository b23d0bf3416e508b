//! Directories of the host that clients name, to be read.

use std::fs::File;
use std::path::{Component, Path};

use layerd_store::BadInput;
use rustix::fs::{Mode, OFlags};

use crate::Error;

/// Bytes of a path with the NUL at its end (path_resolution(7)).
const PATH_MAX: usize = 4096;

/// Opens the directory `source` to which a client's field of that name leads. Symlinks on the way are
/// followed.
///
/// # Errors
/// `Invalid` if it is no absolute path of a directory outside the data directory `root`.
pub(crate) fn open(source: &Path, root: &Path) -> Result<File, Error> {
    let bad = |rule: String| Error::Bad(BadInput::new("source", rule));
    let shown = source.display();
    let is_plain = source
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if source.as_os_str().len() >= PATH_MAX {
        return Err(bad(format!("must be shorter than {PATH_MAX} bytes")));
    }
    if !source.is_absolute() || !is_plain {
        let rule = format!("must be an absolute path without \"..\", not {shown:?}");
        return Err(bad(rule));
    }
    let unreadable = |cause: std::io::Error| bad(format!("cannot open {shown:?}: {cause}"));
    let real = source.canonicalize().map_err(unreadable)?;
    let root = root.canonicalize();
    if root.is_ok_and(|root| real.starts_with(root)) {
        return Err(bad(format!("{shown:?} lies in layerd's data directory")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&real, flags, Mode::empty());
    Ok(opened.map_err(|cause| unreadable(cause.into()))?.into())
}
