//! Inode flags that keep root itself from deleting: immutable and append-only (`chattr +i`, `+a`).
//!
//! A file with one of them cannot be unlinked or renamed, and nothing in a directory with one can
//! be. A container with CAP_LINUX_IMMUTABLE sets them, and so does anyone with access to a volume.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::sys;

/// Clears the flags of `name` and of `dir`, which holds it. False if neither has any, or the file
/// system knows none. Needs CAP_LINUX_IMMUTABLE.
///
/// # Errors
/// Those of open(2) and of the ioctl FS_IOC_SETFLAGS.
fn clear(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let of_dir = clear_on(dir)?;
    let stat = sys::stat(dir, name)?;
    // To open anything else can have effects; and only these have the flags as a rule.
    if !stat.is_dir() && !stat.is_file() {
        return Ok(of_dir);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    Ok(clear_on(file.as_fd())? || of_dir)
}

fn clear_on(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let forbidding = IFlags::IMMUTABLE | IFlags::APPEND;
    let Ok(flags) = ioctl_getflags(file) else {
        return Ok(false);
    };
    if !flags.intersects(forbidding) {
        return Ok(false);
    }
    let cleared = ioctl_setflags(file, flags - forbidding);
    cleared.map_err(|cause| Errno::from_raw(cause.raw_os_error()))?;
    Ok(true)
}

/// Runs `act` on `name` in `dir`, once more without their flags if it is not permitted.
///
/// # Errors
/// Those of `act`, and of clearing the flags: that needs CAP_LINUX_IMMUTABLE.
pub fn without<T>(
    dir: BorrowedFd<'_>,
    name: &CStr,
    mut act: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match act() {
        Err(Errno::EPERM) if clear(dir, name)? => act(),
        other => other,
    }
}
