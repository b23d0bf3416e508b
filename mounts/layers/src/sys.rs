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
    answer(rc)
}

/// One extent of a file, as FS_IOC_FIEMAP tells it: struct fiemap_extent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Where it is in the file, and on the file system's device.
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// Of linux/fiemap.h: last of the file.
const LAST: u32 = 1;

impl Extent {
    /// True if its bytes are as they are at `physical` on the device, from a block on.
    pub(crate) fn is_plain(&self) -> bool {
        self.flags & !LAST == 0
    }
}

/// Extents of one answer.
const EXTENTS: u32 = 32;

/// `_IOWR('f', 11, struct fiemap)`
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B;

/// `_IOW(0x94, 13, struct file_clone_range)`
const FICLONERANGE: libc::Ioctl = 0x4020_940D;

/// struct file_clone_range
#[repr(C)]
struct Range {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// struct fiemap with room for the answer.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; EXTENTS as usize],
}

/// The first extents of a part of a file, in order; none if all of it is a hole.
pub(crate) fn extents(file: BorrowedFd<'_>, start: u64, length: u64) -> Result<Vec<Extent>, Errno> {
    let mut map = Fiemap {
        start,
        length,
        flags: 0,
        mapped: 0,
        room: EXTENTS,
        reserved: 0,
        extents: [Extent::default(); EXTENTS as usize],
    };
    // SAFETY: the kernel fills at most `room` extents, which are there.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    answer(rc.into())?;
    let mapped = usize::try_from(map.mapped.min(EXTENTS)).unwrap_or(0);
    Ok(map.extents[..mapped].to_vec())
}

/// Makes a part of `to` share the blocks of a part of `from`: FICLONERANGE.
pub(crate) fn clone_range(
    from: (BorrowedFd<'_>, u64),
    length: u64,
    to: (BorrowedFd<'_>, u64),
) -> Result<(), Errno> {
    let range = Range {
        from: from.0.as_raw_fd().into(),
        from_offset: from.1,
        length,
        to_offset: to.1,
    };
    // SAFETY: the kernel reads the structure, which outlives the call.
    let rc = unsafe { libc::ioctl(to.0.as_raw_fd(), FICLONERANGE, &raw const range) };
    answer(rc.into())
}

fn answer(rc: i64) -> Result<(), Errno> {
    if rc >= 0 {
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
    answer(rc.into())?;
    // SAFETY: takes no pointers, and cannot fail.
    unsafe { libc::umask(0) };
    Ok(())
}
