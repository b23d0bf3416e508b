//! Makes one change to each entry of a tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::FLAGS;
use super::walk::{Next, Visitor, walk};
use crate::error::Error;
use crate::sys::{self, Stat};

/// A change of one entry, opened with `O_PATH`; a symlink is the entry itself.
pub(super) type Change<'c> = &'c dyn Fn(BorrowedFd<'_>, &Stat) -> Result<(), Errno>;

/// Makes `change` to all below `top`, each directory before what is in it. Mounts inside are left out, as is
/// what vanishes meanwhile. `shown` is the path of `top`, and `verb` says what the change does, for errors.
///
/// # Errors
/// [`Error::Stopped`] when `keep_going`, asked before each entry, answers false. [`Error::Io`] for the
/// first failure, after everything else was tried.
pub(super) fn each_below(
    top: BorrowedFd<'_>,
    shown: &Path,
    verb: &'static str,
    change: Change<'_>,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let failed = |cause| Error::io("read directory", shown, cause);
    let mut each = Each {
        verb,
        change,
        failed: None,
    };
    let mut dir = Dir::openat(top, ".", FLAGS, Mode::empty()).map_err(failed)?;
    for entry in dir.iter() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            walk(top, name, shown, &mut each, keep_going)?;
        }
    }
    each.failed.map_or(Ok(()), Err)
}

struct Each<'c> {
    verb: &'static str,
    change: Change<'c>,
    failed: Option<Error>,
}

impl Visitor for Each<'_> {
    fn verb(&self) -> &'static str {
        self.verb
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        _: Option<Type>,
        root: &Stat,
    ) -> Result<Next, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(dir, name, flags, Mode::empty())?;
        let stat = sys::stat(found.as_fd(), c"")?;
        if !stat.same_mount(root) {
            return Ok(Next::Pass);
        }
        (self.change)(found.as_fd(), &stat)?;
        Ok(if stat.is_dir() {
            Next::Enter
        } else {
            Next::Pass
        })
    }

    fn force(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<OwnedFd, Errno> {
        Err(Errno::EACCES)
    }

    fn entered(&mut self, _: BorrowedFd<'_>, _: &Stat) {}

    fn left(&mut self, _: BorrowedFd<'_>, _: &CStr, _: bool) -> Result<bool, Errno> {
        Ok(false)
    }

    fn mounted(&mut self, _: PathBuf) {}

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}
