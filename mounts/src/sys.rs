//! Raw system calls: the only unsafe code of the crate. Signatures are safe and take borrowed
//! descriptors; what nix wraps is not wrapped again.

#![allow(unsafe_code, reason = "this file is the crate's one place for it")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;

pub mod btrfs;
pub mod device_mapper;
pub mod loop_device;
#[cfg(target_env = "gnu")]
pub mod names;
pub mod project;

/// Flags with which layerd's own directories are opened.
pub const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Identity of a file: device, major and minor, and inode.
pub type Identity = ((u32, u32), u64);

/// Result of statx(2) for one file.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// Number of the inode on its device.
    pub inode: u64,
    /// Device of the file system; differs between the subvolumes of one btrfs.
    pub device: (u32, u32),
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Length in bytes.
    pub size: u64,
    /// When it or its attributes were changed last: seconds and nanoseconds since 1970.
    pub changed: (i64, u32),
    /// The mount it was reached through; `None` before Linux 5.8.
    pub mount: Option<u64>,
}

impl Stat {
    /// True for a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// True for a symlink.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }

    /// True for a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Identity of the file.
    #[must_use]
    pub fn identity(&self) -> Identity {
        (self.device, self.inode)
    }

    /// True if both were reached through the same mount. On kernels without mount ids in statx the
    /// device is compared, which does not tell a bind mount of the same file system.
    #[must_use]
    pub fn same_mount(&self, other: &Self) -> bool {
        match (self.mount, other.mount) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.device == other.device,
        }
    }
}

/// Looks at `name` in `dir`, or at `dir` itself if the name is empty. Follows no symlink and
/// triggers no automount.
///
/// # Errors
/// The kernel's answer to statx(2).
pub fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
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
        changed: (out.stx_ctime.tv_sec, out.stx_ctime.tv_nsec),
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

/// Has the dirty pages of a file written, without waiting for that. Makes nothing durable.
///
/// # Errors
/// As for sync_file_range(2).
pub fn start_write_back(file: BorrowedFd<'_>) -> Result<(), Errno> {
    write_back(file, WriteBack::Start)
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

/// The unique number of the mount that `name` in `dir`, or `dir` itself if the name is empty, is
/// reached through; where there are none (see [`has_unique_ids`]), the number in the mount table,
/// below 2^31. Follows a symlink only if told to, triggers no automount and asks no server.
pub(crate) fn mount_id(dir: BorrowedFd<'_>, name: &CStr, follow: bool) -> Result<u64, Errno> {
    mount_and_file(dir, name, follow).map(|(id, _)| id)
}

/// As [`mount_id`], with the device and inode of what is seen there, both of the same moment.
pub(crate) fn mount_and_file(
    dir: BorrowedFd<'_>,
    name: &CStr,
    follow: bool,
) -> Result<(u64, Identity), Errno> {
    let numbers = if has_unique_ids() {
        libc::STATX_MNT_ID_UNIQUE
    } else {
        libc::STATX_MNT_ID
    };
    numbered(dir, name, follow, numbers)
}

/// True if the kernel has mount ids that are not reused within a boot, and answers by them
/// (Linux 6.8). Where a seccomp filter lets only a part of these calls pass, the ids of the mount
/// table are used throughout. Tried once in a process.
pub(crate) fn has_unique_ids() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        // SAFETY: AT_FDCWD is valid wherever a descriptor of a directory is; the path is absolute.
        let nowhere = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
        let Ok((id, _)) = numbered(nowhere, c"/", true, libc::STATX_MNT_ID_UNIQUE) else {
            return false;
        };
        let known = |refused: Errno| !matches!(refused, Errno::ENOSYS | Errno::EPERM);
        stat_mount(id).map_or_else(known, |_| true)
            && list_mounts(ALL_MOUNTS, 0, &mut [0; 1]).map_or_else(known, |_| true)
    })
}

/// As [`mount_and_file`], with numbers of one kind; ENOSYS if the kernel does not tell them.
fn numbered(
    dir: BorrowedFd<'_>,
    name: &CStr,
    follow: bool,
    numbers: libc::c_uint,
) -> Result<(u64, Identity), Errno> {
    let mut flags = libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW;
    }
    let mask = numbers | libc::STATX_INO;
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
    if out.stx_mask & numbers == 0 {
        return Err(Errno::ENOSYS); // before Linux 5.8, or 6.8
    }
    let device = (out.stx_dev_major, out.stx_dev_minor);
    Ok((out.stx_mnt_id, (device, out.stx_ino)))
}

/// Attributes for [`mount_setattr`], as in linux/mount.h.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttributes<'a> {
    /// Flags MOUNT_ATTR_* to set.
    pub(crate) set: u64,
    /// One of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0 leaves the propagation.
    pub(crate) propagation: u64,
    /// The user namespace whose mappings the mount gets.
    pub(crate) user_namespace: Option<BorrowedFd<'a>>,
}

/// Changes the mount `fd` itself, and with `recursive` all below it: all or none.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttributes<'_>,
) -> Result<(), Errno> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let (idmap, user_namespace) = match attributes.user_namespace {
        Some(fd) => (libc::MOUNT_ATTR_IDMAP, fd.as_raw_fd()),
        None => (0, 0),
    };
    let raw = libc::mount_attr {
        attr_set: attributes.set | idmap,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: u64::try_from(user_namespace).unwrap_or(0), // descriptors are never negative
    };
    // SAFETY: the empty path is NUL-terminated, `raw` is initialised and its true size is passed;
    // both outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(rc).map(drop)
}

/// Not in libc for every platform yet; the same everywhere but on MIPS and Alpha.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;

/// Stands for the root of the mount namespace in [`list_mounts`].
pub(crate) const ALL_MOUNTS: u64 = u64::MAX;

/// struct mnt_id_req of linux/mount.h, in its first size.
#[repr(C)]
struct MountRequest {
    size: u32,
    spare: u32,
    id: u64,
    parameter: u64,
}

impl MountRequest {
    fn new(id: u64, parameter: u64) -> Self {
        Self {
            size: 24,
            spare: 0,
            id,
            parameter,
        }
    }
}

/// Fills `ids` with the numbers, rising, of mounts below mount `top` that are higher than
/// `after`. Answers how many; 0 at the end.
pub(crate) fn list_mounts(top: u64, after: u64, ids: &mut [u64]) -> Result<usize, Errno> {
    let request = MountRequest::new(top, after);
    // SAFETY: `request` is initialised and its first field holds its size; `ids` has room for as
    // many numbers as is passed; both outlive the call.
    let rc = unsafe {
        libc::syscall(
            SYS_LISTMOUNT,
            &raw const request,
            ids.as_mut_ptr(),
            ids.len(),
            0,
        )
    };
    Errno::result(rc).map(|count| usize::try_from(count).unwrap_or(0))
}

/// struct statmount of linux/mount.h up to its strings: 512 bytes, whatever the kernel's release.
#[repr(C)]
struct RawMountStat {
    size: u32,
    options: u32,
    mask: u64,
    device: [u32; 2],
    magic: u64,
    super_flags: u32,
    kind: u32,
    id: u64,
    parent: u64,
    old_id: u32,
    old_parent: u32,
    attributes: u64,
    propagation: u64,
    peer_group: u64,
    master: u64,
    propagate_from: u64,
    root: u32,
    point: u32,
    spare: [u64; 50],
    text: [u8; MOUNT_TEXT],
}

/// Room for two paths.
const MOUNT_TEXT: usize = 16 << 10;

/// Result of statmount(2) for one mount.
#[derive(Debug, Clone)]
pub(crate) struct MountStat {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    /// Device of the file system as in the mount table.
    pub(crate) device: (u32, u32),
    /// MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE.
    pub(crate) propagation: u64,
    pub(crate) root: Vec<u8>,
    pub(crate) point: Vec<u8>,
}

/// Looks at a mount of this mount namespace by its unique number; ENOENT if there is none.
pub(crate) fn stat_mount(id: u64) -> Result<MountStat, Errno> {
    const SB_BASIC: u64 = 1;
    const MNT_BASIC: u64 = 2;
    const MNT_ROOT: u64 = 8;
    const MNT_POINT: u64 = 16;
    let request = MountRequest::new(id, SB_BASIC | MNT_BASIC | MNT_ROOT | MNT_POINT);
    let mut out = Box::new(MaybeUninit::<RawMountStat>::zeroed());
    // SAFETY: `request` is initialised and its first field holds its size; `out` has room for the
    // bytes that are passed; both outlive the call.
    let rc = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            out.as_mut_ptr(),
            size_of::<RawMountStat>(),
            0,
        )
    };
    Errno::result(rc)?;
    // SAFETY: all bits zero is a valid RawMountStat, and the kernel only wrote into it.
    let out = unsafe { out.assume_init() };
    Ok(MountStat {
        id: out.id,
        parent: out.parent,
        device: (out.device[0], out.device[1]),
        propagation: out.propagation,
        root: text_at(&out.text, out.root),
        point: text_at(&out.text, out.point),
    })
}

/// The NUL-terminated string that begins at `start`.
fn text_at(text: &[u8], start: u32) -> Vec<u8> {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let rest = text.get(start..).unwrap_or_default();
    rest.split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Starts a process that only waits to be killed, in a user namespace of its own without mappings.
/// It dies with the calling thread. It has a copy of the memory, but shares the descriptors, so that
/// none is open longer, and no mount busy longer, for its sake. It must be reaped with [`reap`];
/// other callers of wait(2) do not see it.
pub(crate) fn start_in_user_namespace() -> Result<libc::pid_t, Errno> {
    let parent = std::process::id();
    let flags = libc::CLONE_NEWUSER | libc::CLONE_FILES;
    // SAFETY: with a null stack and without CLONE_VM this is fork(2). The child makes nothing but
    // the system calls in `wait_for_the_end`, so locks that other threads held do not matter.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        wait_for_the_end(parent);
    }
    Errno::result(pid).map(|pid| libc::pid_t::try_from(pid).unwrap_or(0))
}

/// The life of that process.
fn wait_for_the_end(parent: u32) -> ! {
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: takes nothing.
    let now = unsafe { libc::getppid() };
    while u32::try_from(now) == Ok(parent) {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
    // SAFETY: ends this process, which has nothing to clean up.
    unsafe { libc::_exit(0) }
}

/// Kills and reaps a process of [`start_in_user_namespace`].
pub(crate) fn reap(pid: libc::pid_t) -> Result<(), Errno> {
    // SAFETY: takes no pointers. No other code reaps this child, so the pid is still its own.
    Errno::result(unsafe { libc::kill(pid, libc::SIGKILL) })?;
    // SAFETY: a null status is allowed.
    let wait = || unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    loop {
        match Errno::result(wait()) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}
