//! Flags that keep root itself from deleting: of inodes, immutable and append-only (`chattr +i`,
//! `+a`); of subvolumes of btrfs, read-only.
//!
//! A file with one of them cannot be unlinked or renamed, and nothing in a directory with one can
//! be. A container with CAP_LINUX_IMMUTABLE sets them, and so does anyone with access to a volume.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::sys::FLAGS;
use crate::sys::{self, btrfs};

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

/// Makes a subvolume of btrfs writable if its top directory `dir`, with the number `inode`, says that
/// it is read-only. False if it is not, or no subvolume.
///
/// # Errors
/// Those of the ioctl BTRFS_IOC_SUBVOL_SETFLAGS.
pub(super) fn make_writable(dir: BorrowedFd<'_>, inode: u64) -> Result<bool, Errno> {
    if inode != btrfs::TOP || !btrfs::is_read_only(dir).unwrap_or(false) {
        return Ok(false);
    }
    btrfs::set_read_only(dir, false).map(|()| true)
}

/// The same for `name` in `dir`.
fn make_name_writable(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let stat = sys::stat(dir, name)?;
    if !stat.is_dir() {
        return Ok(false);
    }
    let opened = openat(dir, name, FLAGS, Mode::empty())?;
    make_writable(opened.as_fd(), stat.inode)
}

/// Runs `act` on `name` in `dir`, once more without their flags if it is not permitted. A read-only
/// subvolume of this name becomes writable, because it could not be moved.
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
        Err(Errno::EROFS) if make_name_writable(dir, name)? => act(),
        other => other,
    }
}
