//! Raw system calls: the only unsafe code of the crate. What rustix wraps is not wrapped again.

#![allow(unsafe_code, reason = "this file is the crate's one place for it")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Which part of sync_file_range(2) is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// Have all dirty pages written, without waiting.
    Start,
    /// Have them written and wait until they are.
    Finish,
}

/// Writes back the dirty pages of a whole file: sync_file_range(2), as a system call, because a
/// program may bring a C function of this name that is another one.
pub(crate) fn write_back(file: BorrowedFd<'_>, what: WriteBack) -> Result<(), Errno> {
    let flags = match what {
        WriteBack::Start => libc::SYNC_FILE_RANGE_WRITE,
        WriteBack::Finish => {
            libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER
        }
    };
    // SAFETY: takes no pointers; a length of 0 stands for the end of the file.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_sync_file_range,
            file.as_raw_fd(),
            0_i64,
            0_i64,
            flags,
        )
    };
    if rc == 0 {
        return Ok(());
    }
    let last = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&last).unwrap_or(Errno::IO))
}

/// Has this thread, and no other, make files with the very mode it asks for. Meant for a thread
/// that was started for it: its working directory is its own from then on.
pub(crate) fn without_umask() -> Result<(), Errno> {
    // SAFETY: takes no pointers; the thread goes on with a copy of what it shared.
    let rc = unsafe { libc::unshare(libc::CLONE_FS) };
    if rc != 0 {
        let last = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&last).unwrap_or(Errno::IO));
    }
    // SAFETY: takes no pointers, and cannot fail.
    unsafe { libc::umask(0) };
    Ok(())
}
