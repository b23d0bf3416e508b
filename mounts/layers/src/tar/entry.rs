//! Entry of an archive: one file.

use rustix::fs::Timespec;

/// The types of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file; its content follows.
    File,
    /// Another name of a file that came before.
    HardLink,
    /// A symlink.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}

impl EntryKind {
    /// True for what only root of the machine makes.
    pub(crate) fn is_device(self) -> bool {
        matches!(self, Self::Character | Self::Block)
    }
}

/// One file of an archive, as the archive has it: nothing in it has been checked against what a
/// file system takes.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, with slashes.
    pub path: Vec<u8>,
    /// Type of the file.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// When it was modified.
    pub modified: Timespec,
    /// When it was read, if the archive says it.
    pub accessed: Option<Timespec>,
    /// Length of a file in bytes, holes included.
    pub size: u64,
    /// Bytes of it that the archive holds.
    pub stored: u64,
    /// Where they belong, as offset and length, if it has holes.
    pub pieces: Option<Vec<(u64, u64)>>,
    /// Target of a symlink or hard link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub number: (u32, u32),
    /// Set for the entry of the root directory in a layer that layerd made.
    pub top: bool,
    /// Extended attributes, by name; access lists among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
