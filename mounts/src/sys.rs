//! Raw system calls: the only unsafe code of the crate. Signatures are safe and take borrowed
//! descriptors; what nix wraps is not wrapped again.

#![allow(unsafe_code, reason = "this file is the crate's one place for it")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What statx(2) says of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    /// Type and permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    pub(crate) inode: u64,
    /// Device of the file system; differs between the subvolumes of one btrfs.
    pub(crate) device: (u32, u32),
    /// Blocks of 512 bytes.
    pub(crate) blocks: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// The mount it was reached through; `None` before Linux 5.8.
    pub(crate) mount: Option<u64>,
}

impl Stat {
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    pub(crate) fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// What two names of one file have in common.
    pub(crate) fn identity(&self) -> ((u32, u32), u64) {
        (self.device, self.inode)
    }

    /// Whether both were reached through the same mount. Kernels that do not number mounts are
    /// asked for the device, which cannot tell a bind mount of the same file system.
    pub(crate) fn same_mount(&self, other: &Self) -> bool {
        match (self.mount, other.mount) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.device == other.device,
        }
    }
}

/// Looks at `name` in `dir`, or at `dir` itself if the name is empty. Follows no symlink and
/// triggers no automount.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` is NUL-terminated and `out` has room for one statx; both outlive the call.
    let rc = unsafe {
        libc::statx(
            dir.as_raw_fd(),
            name.as_ptr(),
            flags,
            mask,
            out.as_mut_ptr(),
        )
    };
    Errno::result(rc)?;
    // SAFETY: all bits zero is a valid statx, and the kernel only wrote into it.
    let out = unsafe { out.assume_init() };
    Ok(Stat {
        mode: u32::from(out.stx_mode),
        uid: out.stx_uid,
        gid: out.stx_gid,
        links: out.stx_nlink,
        inode: out.stx_ino,
        device: (out.stx_dev_major, out.stx_dev_minor),
        blocks: out.stx_blocks,
        size: out.stx_size,
        mount: (out.stx_mask & libc::STATX_MNT_ID != 0).then_some(out.stx_mnt_id),
    })
}

/// Which part of sync_file_range(2) is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// Have all dirty pages written, without waiting.
    Start,
    /// Have them written and wait until they are.
    Finish,
}

/// Writes back the dirty pages of a whole file: sync_file_range(2), as a system call, because the
/// C function of this name is another one in layerd (see the store).
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
    Errno::result(rc).map(drop)
}
