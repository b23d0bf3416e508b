//! The way from the root of a tree down to one of its directories.
//!
//! However deep that is, only the last few directories stay open. One that is needed again is
//! opened from the root in one call that follows no symlink and crosses no mount, and must be the
//! very directory that was left.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::node::{self, Identity};

/// Bytes of a path that the kernel takes, without the closing NUL.
pub(crate) const LONGEST_PATH: usize = libc::PATH_MAX as usize - 1;

/// Directories from a root, which is not one of its steps, to the current one.
#[derive(Debug)]
pub(crate) struct DirStack {
    root: OwnedFd,
    steps: Vec<Step>,
    keep: usize,
    /// Bytes of the path of the current directory, with a slash behind each name.
    length: usize,
}

#[derive(Debug)]
struct Step {
    name: CString,
    identity: Identity,
    open: Option<OwnedFd>,
}

impl DirStack {
    /// Starts at `root`; keeps at most `keep` directories open besides it.
    pub(crate) fn new(root: OwnedFd, keep: usize) -> Self {
        Self {
            root,
            steps: Vec::new(),
            keep: keep.max(1),
            length: 0,
        }
    }

    /// Steps below the root.
    pub(crate) fn depth(&self) -> usize {
        self.steps.len()
    }

    /// Goes down into `dir`, which is `name` in the current one.
    pub(crate) fn enter(&mut self, name: &CStr, dir: OwnedFd, identity: Identity) {
        self.length += name.to_bytes_with_nul().len();
        let name = name.to_owned();
        let open = Some(dir);
        self.steps.push(Step {
            name,
            identity,
            open,
        });
        if let Some(far) = self.steps.len().checked_sub(self.keep + 1) {
            self.steps[far].open = None;
        }
    }

    /// Goes up one step; at the root it stays.
    pub(crate) fn leave(&mut self) {
        if let Some(step) = self.steps.pop() {
            self.length -= step.name.to_bytes_with_nul().len();
        }
    }

    /// The current directory.
    pub(crate) fn here(&mut self) -> Result<BorrowedFd<'_>, Error> {
        let closed = self.steps.last().filter(|step| step.open.is_none());
        if let Some(step) = closed {
            let path = self.path();
            let dir = self.again(&path, step.identity)?;
            if let Some(step) = self.steps.last_mut() {
                step.open = Some(dir);
            }
        }
        let open = self.steps.last().and_then(|step| step.open.as_ref());
        Ok(open.unwrap_or(&self.root).as_fd())
    }

    fn again(&self, path: &Path, identity: Identity) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open_below(self.root.as_fd(), path, flags)
            .map_err(|cause| Error::io("open directory again", path, cause))?;
        let stat = node::stat(dir.as_fd())
            .map_err(|cause| Error::io("open directory again", path, cause))?;
        if stat.identity() == identity {
            Ok(dir)
        } else {
            let path = path.to_owned();
            Err(Error::Changed { path })
        }
    }

    /// The path of the current directory, from the root.
    pub(crate) fn path(&self) -> PathBuf {
        let names = self.steps.iter();
        names
            .map(|step| OsStr::from_bytes(step.name.to_bytes()))
            .collect()
    }

    /// The path of `name` in the current directory, from the root.
    pub(crate) fn join(&self, name: &CStr) -> PathBuf {
        self.path().join(OsStr::from_bytes(name.to_bytes()))
    }

    /// Refuses a name whose path could not be opened from the root in one call.
    pub(crate) fn check_length(&self, name: &CStr) -> Result<(), Error> {
        let length = self.length + name.to_bytes().len();
        if length <= LONGEST_PATH {
            return Ok(());
        }
        Err(too_long(self.join(name).as_os_str().as_bytes(), length))
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Refuses a path that could not be opened from the root in one call.
pub(crate) fn check_path_length(path: &[u8]) -> Result<(), Error> {
    match path.len() <= LONGEST_PATH {
        true => Ok(()),
        false => Err(too_long(path, path.len())),
    }
}

/// The error for a path of `length`, which shows its beginning.
fn too_long(path: &[u8], length: usize) -> Error {
    Error::TooLong {
        path: PathBuf::from(OsStr::from_bytes(&path[..200])),
        length,
        limit: LONGEST_PATH,
    }
}

/// Opens what lies at a path below `root`: every component must be a real directory of the same
/// mount.
pub(crate) fn open_below(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
