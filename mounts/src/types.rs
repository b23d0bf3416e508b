//! Plain types that drivers, mounts and volumes share.

/// One range of an id mapping, as in user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// Number of ids; never zero.
    pub length: u32,
}

/// Checked id mappings of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uid: Vec<IdMap>,
    /// Group ids.
    pub gid: Vec<IdMap>,
}

/// One mount, as mount(8) would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// File system type, such as `bind` or `overlay`.
    pub kind: String,
    /// Source to mount.
    pub source: String,
    /// Options, one to an element.
    pub options: Vec<String>,
}

/// Disk space of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk blocks, each inode counted once.
    pub bytes: u64,
    /// Inodes, the top directory included.
    pub inodes: u64,
}
