//! Projects of files, and quotas of projects (ioctl(2) FS_IOC_FSSETXATTR of linux/fs.h, quotactl(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// New files and directories in the directory get its project.
const INHERIT: u32 = 0x200;
/// Type of quotas (linux/quota.h): those of projects.
const PROJECTS: u32 = 2;
const GET: u32 = (0x80_0007 << 8) | PROJECTS;
const SET: u32 = (0x80_0008 << 8) | PROJECTS;
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// Bytes of a block in which quotactl(2) counts limits.
const BLOCK: u64 = 1024;

/// struct `fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

/// Use and limits of a project on one file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most bytes; 0 for no limit. Rounded up to 1024.
    pub bytes: u64,
    /// Most inodes; 0 for no limit.
    pub inodes: u64,
    /// Bytes that are used.
    pub used_bytes: u64,
    /// Inodes that are used.
    pub used_inodes: u64,
}

/// Gives an open directory, and what is made in it from now on, to a project.
///
/// # Errors
/// The kernel's answer to FS_IOC_FSSETXATTR: `EOPNOTSUPP` or `ENOTTY` where there are no projects.
pub fn give(dir: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let (file, mut attributes) = (dir.as_raw_fd(), Attributes::default());
    // SAFETY: the kernel writes one struct fsxattr, for which there is room.
    let answer = unsafe { libc::ioctl(file, GET_ATTRIBUTES, &raw mut attributes) };
    Errno::result(answer)?;
    attributes.flags |= INHERIT;
    attributes.project = project;
    // SAFETY: the kernel reads one struct fsxattr, which outlives the call.
    let answer = unsafe { libc::ioctl(file, SET_ATTRIBUTES, &raw const attributes) };
    Errno::result(answer).map(drop)
}

/// Reads use and limits of a project on the file system of `file`; all zero for one that was never used.
/// Needs CAP_SYS_ADMIN, and Linux 5.14.
///
/// # Errors
/// The kernel's answer to quotactl_fd(2): `ESRCH` where quotas of projects are off.
pub fn quota(file: BorrowedFd<'_>, project: u32) -> Result<Quota, Errno> {
    let mut found = empty();
    match call(file, GET, project, &mut found) {
        Ok(()) => Ok(Quota {
            bytes: found.dqb_bhardlimit.saturating_mul(BLOCK),
            inodes: found.dqb_ihardlimit,
            used_bytes: found.dqb_curspace,
            used_inodes: found.dqb_curinodes,
        }),
        // What xfs says of a project that it has never seen.
        Err(Errno::ENOENT) => Ok(Quota::default()),
        Err(cause) => Err(cause),
    }
}

/// Limits a project on the file system of `file` to so many bytes and inodes; 0 for no limit. Durable
/// with the next sync of the file system.
///
/// # Errors
/// As for [`quota`].
pub fn limit(file: BorrowedFd<'_>, project: u32, bytes: u64, inodes: u64) -> Result<(), Errno> {
    let mut wanted = libc::dqblk {
        dqb_bhardlimit: bytes.div_ceil(BLOCK),
        dqb_ihardlimit: inodes,
        dqb_valid: libc::QIF_LIMITS,
        ..empty()
    };
    call(file, SET, project, &mut wanted)
}

fn empty() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

fn call(
    file: BorrowedFd<'_>,
    command: u32,
    project: u32,
    block: &mut libc::dqblk,
) -> Result<(), Errno> {
    // SAFETY: the kernel reads or writes one struct if_dqblk, which is libc's dqblk and outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(block),
        )
    };
    Errno::result(answer).map(drop)
}
