//! Sets the SELinux label of a tree.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::walk::{Next, Visitor, walk};
use super::{FLAGS, fd_path};
use crate::error::Error;
use crate::sys::{self, Stat};

const SELINUX: &CStr = c"security.selinux";

/// Gives `top` and all below it the SELinux label `label`. Symlinks are labelled, not followed;
/// mounts inside are left out, as is what vanishes meanwhile, and file systems without such labels
/// are passed over. `shown` is the path of `top`, for errors. Cost: two or three calls a file.
///
/// # Errors
/// [`Error::Stopped`] when `keep_going`, asked before each entry, answers false. [`Error::Io`] for
/// the first failure, after everything else is labelled.
pub fn label(
    top: BorrowedFd<'_>,
    shown: &Path,
    label: &CStr,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let failed = |attempt, cause: Errno| Error::io(attempt, shown, cause);
    let stat = sys::stat(top, c"").map_err(|cause| failed("look at", cause))?;
    let mut visitor = Label {
        label,
        failed: None,
    };
    visitor
        .give(top)
        .map_err(|cause| failed(visitor.verb(), cause))?;
    if stat.is_dir() {
        let mut dir = Dir::openat(top, ".", FLAGS, Mode::empty())
            .map_err(|cause| failed("read directory", cause))?;
        for entry in dir.iter() {
            let entry = entry.map_err(|cause| failed("read directory", cause))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                walk(top, name, shown, &mut visitor, keep_going)?;
            }
        }
    }
    visitor.failed.map_or(Ok(()), Err)
}

struct Label<'l> {
    label: &'l CStr,
    failed: Option<Error>,
}

impl Label<'_> {
    /// Writes nothing where the label is right already, so that the time of change stays.
    fn give(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let path = fd_path(file);
        let wanted = self.label.to_bytes_with_nul();
        let mut have = [0_u8; 512];
        if let Ok(length) = getxattr(&path, SELINUX, &mut have[..])
            && have[..length] == *wanted
        {
            return Ok(());
        }
        match setxattr(&path, SELINUX, wanted, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(cause) => Err(Errno::from_raw(cause.raw_os_error())),
        }
    }
}

impl Visitor for Label<'_> {
    fn verb(&self) -> &'static str {
        "set the SELinux label of"
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
        self.give(found.as_fd())?;
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
