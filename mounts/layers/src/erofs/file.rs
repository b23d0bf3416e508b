//! Files of an image as callers describe them: types and attributes.

use super::error::Error;

/// Types of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// A file without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device, by major and minor number; 0:0 is overlayfs' whiteout.
    Character(u32, u32),
    /// A block device, by major and minor number.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// An extended attribute: full name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Attributes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification in seconds since 1970, and nanoseconds below 1,000,000,000.
    pub modified: (i64, u32),
    /// Extended attributes by full name, of `user.`, `trusted.`, `security.`,
    /// `system.posix_acl_access` and `system.posix_acl_default`. At most 65,535 bytes each and 256 KiB
    /// together. In an access list the entries for owner, mask and others follow `permissions`.
    pub xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Those of a directory that anyone may enter and root alone may change: 0755, root's, of the
    /// first moment of 1970.
    #[must_use]
    pub fn directory() -> Self {
        Self {
            permissions: 0o755,
            ..Self::default()
        }
    }
}

impl FileType {
    const ALL: [(Self, u32, u8, &'static str); 7] = [
        (Self::Regular, libc::S_IFREG, 1, "a regular file"),
        (Self::Directory, libc::S_IFDIR, 2, "a directory"),
        (Self::Character, libc::S_IFCHR, 3, "a character device"),
        (Self::Block, libc::S_IFBLK, 4, "a block device"),
        (Self::Fifo, libc::S_IFIFO, 5, "a FIFO"),
        (Self::Socket, libc::S_IFSOCK, 6, "a socket"),
        (Self::Symlink, libc::S_IFLNK, 7, "a symlink"),
    ];

    fn row(self) -> (Self, u32, u8, &'static str) {
        let [first, rest @ ..] = Self::ALL;
        let found = rest.into_iter().find(|(kind, ..)| *kind == self);
        found.unwrap_or(first)
    }

    pub(super) fn bits(self) -> u16 {
        u16::try_from(self.row().1).unwrap_or(0)
    }

    /// Number in an entry of a directory.
    pub(super) fn code(self) -> u8 {
        self.row().2
    }

    /// As in "... is a symlink".
    pub(super) fn noun(self) -> &'static str {
        self.row().3
    }

    /// Type by the bits of a mode; `None` if there is no such type.
    pub(super) fn of_mode(mode: u16) -> Option<Self> {
        let bits = u32::from(mode) & libc::S_IFMT;
        let found = Self::ALL.into_iter().find(|(_, known, ..)| *known == bits);
        found.map(|(kind, ..)| kind)
    }
}

impl Special {
    /// Type, and number of a device as the kernel encodes it in 32 bits.
    pub(super) fn encode(self) -> Result<(FileType, u32), Error> {
        let number = |major: u32, minor: u32| {
            within("major device number", major, 0xfff)?;
            within("minor device number", minor, 0xf_ffff)?;
            Ok((minor & 0xff) | major << 8 | (minor & !0xff) << 12)
        };
        Ok(match self {
            Self::Character(major, minor) => (FileType::Character, number(major, minor)?),
            Self::Block(major, minor) => (FileType::Block, number(major, minor)?),
            Self::Fifo => (FileType::Fifo, 0),
            Self::Socket => (FileType::Socket, 0),
        })
    }
}

/// Refuses a number that the format has no room for.
pub(super) fn within(field: &'static str, value: u32, limit: u32) -> Result<(), Error> {
    if value <= limit {
        return Ok(());
    }
    let (value, limit) = (value.into(), limit.into());
    Err(Error::TooLarge {
        field,
        value,
        limit,
    })
}
