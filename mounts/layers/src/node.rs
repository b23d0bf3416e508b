//! One file: its type and attributes, and setting the same on another file.
//!
//! A file is first opened with `O_PATH` and checked through that descriptor: a device that
//! another process put in its place must not be opened, let alone as root. Calls that refuse such a
//! descriptor go through its entry in /proc/self/fd, which leads to that very file.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Result of statx(2) for one file.
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
    /// Number of a device node.
    pub(crate) number: (u32, u32),
    /// Blocks of 512 bytes.
    pub(crate) blocks: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    pub(crate) accessed: Timespec,
    pub(crate) modified: Timespec,
    /// The mount it was reached through; `None` before Linux 5.8.
    mount: Option<u64>,
}

/// Device and inode, which identify a file while it is open.
pub(crate) type Identity = ((u32, u32), u64);

/// The types of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Regular,
    Symlink,
    Character,
    Block,
    Fifo,
    Socket,
}

impl Kind {
    /// As in "... is a symlink".
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::Regular => "a file",
            Self::Symlink => "a symlink",
            Self::Character | Self::Block => "a device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
        }
    }
}

impl Stat {
    pub(crate) fn kind(&self) -> Kind {
        match self.mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::Character,
            libc::S_IFBLK => Kind::Block,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            _ => Kind::Regular,
        }
    }

    /// Permission bits with setuid, setgid and sticky.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    pub(crate) fn identity(&self) -> Identity {
        (self.device, self.inode)
    }

    /// True for a device 0:0, overlayfs' whiteout of a name in a lower layer.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind() == Kind::Character && self.number == (0, 0)
    }

    /// True if it has fewer blocks than its length takes.
    pub(crate) fn may_have_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// True if both were reached through the same mount. On kernels without mount ids in statx the
    /// device is compared, which does not tell a bind mount of the same file system.
    pub(crate) fn same_mount(&self, other: &Self) -> bool {
        match (self.mount, other.mount) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.device == other.device,
        }
    }
}

/// Opens `name` in `dir` as a place only, whatever it is.
pub(crate) fn find(dir: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = stat(found.as_fd())?;
    Ok((found, stat))
}

/// Looks at an open file.
pub(crate) fn stat(file: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let out = rustix::fs::statx(file, c"", flags, mask)?;
    let numbered = out.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok(Stat {
        mode: u32::from(out.stx_mode),
        uid: out.stx_uid,
        gid: out.stx_gid,
        links: out.stx_nlink,
        inode: out.stx_ino,
        device: (out.stx_dev_major, out.stx_dev_minor),
        number: (out.stx_rdev_major, out.stx_rdev_minor),
        blocks: out.stx_blocks,
        size: out.stx_size,
        accessed: timespec(out.stx_atime.tv_sec, out.stx_atime.tv_nsec),
        modified: timespec(out.stx_mtime.tv_sec, out.stx_mtime.tv_nsec),
        mount: numbered.then_some(out.stx_mnt_id),
    })
}

pub(crate) fn timespec(seconds: i64, nanoseconds: u32) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    }
}

/// Opens a regular file that was found, for reading. Its access time stays what it is, where the
/// caller may ask for that.
pub(crate) fn reopen(found: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = proc_path(found);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(&*path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::open(&*path, flags, Mode::empty()),
        other => other,
    }
}

/// Opens a directory that was found, for reading its entries.
pub(crate) fn read_dir(found: BorrowedFd<'_>) -> Result<rustix::fs::Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = match rustix::fs::openat(found, c".", flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(found, c".", flags, Mode::empty()),
        other => other,
    };
    rustix::fs::Dir::new(open?)
}

/// A path that leads to the very file that is open, also when it is a symlink.
pub(crate) fn proc_path(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// The extended attributes of a file, by name.
pub(crate) type Xattrs = Vec<(CString, Vec<u8>)>;

/// Takes the access lists of a directory away, so that what is made in it inherits none.
pub(crate) fn forget_acls(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let path = proc_path(dir);
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match rustix::fs::removexattr(&*path, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// True for attributes that are copied with a file; others depend on the policy of the destination.
pub(crate) fn is_carried(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        // On xfs these are the access lists a second time, as they lie on the disk.
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.SGI_ACL_"))
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// All carried attributes of an open file, `O_PATH` or not. None where there can be none.
pub(crate) fn xattrs(file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let path = proc_path(file);
    let mut found = Vec::new();
    for name in names(&path)?.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if is_carried(name.to_bytes())
            && let Some(value) = xattr(&path, name)?
        {
            found.push((name.to_owned(), value));
        }
    }
    Ok(found)
}

fn names(path: &CStr) -> Result<Vec<u8>, Errno> {
    let mut room = 256;
    loop {
        let mut names = Vec::with_capacity(room);
        let spare = rustix::buffer::spare_capacity(&mut names);
        match rustix::fs::listxattr(path, spare) {
            Ok(_) => return Ok(names),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if room < LARGEST_XATTR => room = LARGEST_XATTR,
            Err(other) => return Err(other),
        }
    }
}

/// One attribute; `None` if it is not there.
pub(crate) fn xattr(path: &CStr, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut room = 256;
    loop {
        let mut value = Vec::with_capacity(room);
        let spare = rustix::buffer::spare_capacity(&mut value);
        match rustix::fs::getxattr(path, name, spare) {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if room < LARGEST_XATTR => room = LARGEST_XATTR,
            Err(other) => return Err(other),
        }
    }
}

/// Bytes that the kernel takes for one attribute, or for the names of all.
const LARGEST_XATTR: usize = 64 << 10;

/// Attributes set after the content is written. Order matters: writing and changing the owner clear
/// setuid bits and capabilities, and every change sets the times.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) kind: Kind,
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) accessed: Timespec,
    pub(crate) modified: Timespec,
    pub(crate) xattrs: Xattrs,
}

/// The step that failed.
pub(crate) type Failed = (Cow<'static, str>, Errno);

impl Attributes {
    pub(crate) fn of(stat: &Stat, xattrs: Xattrs) -> Self {
        Self {
            kind: stat.kind(),
            permissions: stat.permissions(),
            uid: stat.uid,
            gid: stat.gid,
            accessed: stat.accessed,
            modified: stat.modified,
            xattrs,
        }
    }

    /// Gives them to a file that was just made: with mode 0600, or 0700 for a directory.
    pub(crate) fn give(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        let path = proc_path(file);
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        rustix::fs::chownat(file, c"", owner.0, owner.1, AtFlags::EMPTY_PATH)
            .map_err(|cause| (owner_attempt(self.uid, self.gid, cause), cause))?;
        if self.kind != Kind::Symlink {
            rustix::fs::chmod(&*path, Mode::from_raw_mode(self.permissions))
                .map_err(|cause| ("change the mode of".into(), cause))?;
        }
        for (name, value) in &self.xattrs {
            rustix::fs::setxattr(&*path, name.as_c_str(), value, XattrFlags::empty())
                .map_err(|cause| (xattr_attempt(name), cause))?;
        }
        let times = Timestamps {
            last_access: self.accessed,
            last_modification: self.modified,
        };
        rustix::fs::utimensat(CWD, &*path, &times, AtFlags::empty())
            .map_err(|cause| ("set the times of".into(), cause))
    }
}

/// Text of `Error::Io::attempt` for setting an extended attribute.
pub(crate) fn xattr_attempt(name: &CStr) -> Cow<'static, str> {
    let name = name.to_bytes();
    let shown = &name[..name.len().min(255)];
    format!("set the attribute {} of", shown.escape_ascii()).into()
}

/// Text of `Error::Io::attempt` for a change of owner. The kernel answers EINVAL for an id that
/// the user namespace of the process does not have.
pub(crate) fn owner_attempt(uid: u32, gid: u32, cause: Errno) -> Cow<'static, str> {
    match cause {
        Errno::INVAL => format!(
            "give user {uid} and group {gid} (which layerd's user namespace must have: see \
             /etc/subuid and /etc/subgid)"
        )
        .into(),
        _ => "change the owner of".into(),
    }
}

/// Writes all of `data`, from `at` on.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut data: &[u8], mut at: u64) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, at) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Errno::IO),
            other => {
                let written = other?;
                data = &data[written..];
                at += written as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Errno, owner_attempt};

    #[test]
    fn an_id_that_the_namespace_lacks_comes_with_where_to_add_it() {
        let refused = owner_attempt(100_000, 8, Errno::INVAL);
        for part in ["user 100000", "group 8", "/etc/subuid", "/etc/subgid"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(!owner_attempt(0, 0, Errno::IO).contains("subuid"));
    }
}
