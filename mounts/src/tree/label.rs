//! Sets the SELinux label of a tree.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::each::each_below;
use super::fd_path;
use crate::error::Error;
use crate::sys::{self, Stat};

const VERB: &str = "set the SELinux label of";
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
    give(top, label).map_err(|cause| failed(VERB, cause))?;
    if !stat.is_dir() {
        return Ok(());
    }
    let change = |file: BorrowedFd<'_>, _: &Stat| give(file, label);
    each_below(top, shown, VERB, &change, keep_going)
}

/// Writes nothing where the label is right already, so that the time of change stays.
fn give(file: BorrowedFd<'_>, label: &CStr) -> Result<(), Errno> {
    let path = fd_path(file);
    let wanted = label.to_bytes_with_nul();
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
