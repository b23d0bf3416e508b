//! Files and directories of the host that were made for a mount: made under a name of layerd's own, put
//! in place in one step, and removed.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::path::{check_open, create_missing, existing, open_source};
use super::{Handle, Made, MountError, NewSource, Source, Symlinks};
use crate::sys;

/// See [`super::Mounter::create_source`].
pub(crate) fn create_source(path: &Path, new: &NewSource) -> Result<Source, MountError> {
    let (at, missing) = existing(path, new.symlinks)?;
    if !missing.is_empty() {
        check_open(&at, new)?;
    }
    let mut made = Vec::new();
    match create_missing(at, &missing, new, &mut made) {
        Ok(handle) => Ok(Source { handle, made }),
        Err(cause) => {
            let _ = remove_made(&made); // the first error counts
            Err(cause)
        }
    }
}

/// See [`super::Mounter::place_source`].
pub(crate) fn place_source(staged: &Path, path: &Path) -> Result<bool, MountError> {
    let (Some(folder), Some(from), Some(to)) =
        (path.parent(), staged.file_name(), path.file_name())
    else {
        return Err(MountError::BadPath {
            path: path.to_owned(),
            problem: "has no name",
        });
    };
    let folder = open_source(folder, Symlinks::Follow)?;
    let renamed = renameat2(&folder, from, &folder, to, RenameFlags::RENAME_NOREPLACE);
    let placed = match renamed {
        // As on NFS.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => place_by_claim(&folder, from, to),
        other => other,
    };
    match placed {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(cause) => Err(MountError::io("move to", path, cause)),
    }
}

/// Takes the name first, where the file system cannot rename without replacing: a file by a link, a
/// directory by an empty one, which is replaced.
fn place_by_claim(folder: &Handle, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    let c_name = CString::new(from.as_bytes()).unwrap_or_default();
    if sys::stat(folder.as_fd(), &c_name)?.is_dir() {
        mkdirat(folder, to, Mode::S_IRWXU)?;
        return renameat(folder, from, folder, to);
    }
    linkat(folder, from, folder, to, AtFlags::empty())?;
    unlinkat(folder, from, UnlinkatFlags::NoRemoveDir)
}

/// See [`super::Mounter::remove_made`].
pub(crate) fn remove_made(made: &[Made]) -> Result<(), MountError> {
    for one in made.iter().rev() {
        let (Some(parent), Some(name)) = (one.path.parent(), one.path.file_name()) else {
            return Ok(());
        };
        let parent = match open_source(parent, Symlinks::Follow) {
            Err(MountError::Missing { .. }) => continue,
            other => other?,
        };
        if !remove_one(&parent, name, one)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Answers whether it is gone.
fn remove_one(parent: &Handle, name: &OsStr, made: &Made) -> Result<bool, MountError> {
    let fail = |cause| MountError::io("remove", &made.path, cause);
    let c_name = CString::new(name.as_bytes()).unwrap_or_default();
    let found = match sys::stat(parent.as_fd(), &c_name) {
        Err(Errno::ENOENT) => return Ok(true),
        other => other.map_err(fail)?,
    };
    if made.inode != 0 && (found.device, found.inode) != (made.device, made.inode) {
        return Ok(false);
    }
    let flags = match found.is_dir() {
        true => UnlinkatFlags::RemoveDir,
        false if found.size > 0 || found.links > 1 => return Ok(false),
        false => UnlinkatFlags::NoRemoveDir,
    };
    match unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) => Ok(false),
        Err(cause) => Err(fail(cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_claimed_where_a_rename_would_replace() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = open_source(dir.path(), Symlinks::Follow).expect("open");
        let claim = |from: &str, to: &str| place_by_claim(&at, OsStr::new(from), OsStr::new(to));
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("staged/in")).expect("a directory");
        claim("staged", "dir").expect("it is free");
        assert!(path("dir/in").is_dir() && !path("staged").exists());
        fs::write(path("staged"), "").expect("a file");
        claim("staged", "file").expect("it is free");
        assert!(path("file").is_file() && !path("staged").exists());
        for taken in ["dir", "file"] {
            fs::create_dir(path("again")).expect("a directory");
            assert_eq!(claim("again", taken), Err(Errno::EEXIST));
            fs::remove_dir(path("again")).expect("it is still there");
        }
    }
}
