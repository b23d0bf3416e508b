//! Structures on the disk. All numbers are little-endian.

/// Bytes of a block, and their binary logarithm.
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// The same for buffers.
pub(super) const BLOCK_LEN: usize = 4096;

/// Position and bytes of the superblock.
pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const SUPER_LEN: usize = 128;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;

/// Compatible features: the superblock has a checksum; inodes have times of modification.
pub(super) const COMPAT_CHECKSUM: u32 = 1;
pub(super) const COMPAT_MTIME: u32 = 2;

/// Incompatible features: files stored by chunks; a table of further devices.
pub(super) const INCOMPAT_CHUNKED: u32 = 4;

/// Bytes of a slot; an inode is numbered by the slot it begins at.
pub(super) const SLOT: u64 = 32;
/// Bytes of the two sorts of inodes.
pub(super) const COMPACT_LEN: usize = 32;
pub(super) const EXTENDED_LEN: usize = 64;
/// Position of the first inode behind the first block of metadata: 0 is no inode number for readdir(3).
pub(super) const FIRST: u64 = 64;

/// Layouts of content.
pub(super) const PLAIN: u16 = 0;
pub(super) const INLINE: u16 = 2;
pub(super) const CHUNKED: u16 = 4;

/// Flag of a chunk format: addresses are entries of 8 bytes with a device, not of 4.
pub(super) const CHUNK_INDEXES: u16 = 0x20;
/// Bits of a chunk format with the binary logarithm of blocks in a chunk.
pub(super) const CHUNK_BITS: u16 = 0x1f;
/// Address of a hole.
pub(super) const HOLE: u32 = u32::MAX;

/// Bytes of an entry of a directory, without its name.
pub(super) const DIRENT: usize = 12;
/// Bytes of the longest name.
pub(super) const NAME_MAX: usize = 255;

/// Bytes before the attributes of an inode, and before each of them.
pub(super) const XATTR_HEADER: usize = 12;
pub(super) const XATTR_ENTRY: usize = 4;

/// Fields of a superblock that are not the same in every image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) metadata: u32,
    /// First block of attributes that inodes share.
    pub(super) shared_xattrs: u32,
    pub(super) uuid: [u8; 16],
    pub(super) compatible: u32,
    pub(super) incompatible: u32,
    /// Time of compact inodes, in seconds since 1970 and nanoseconds.
    pub(super) time: (i64, u32),
}

/// Fields of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawInode {
    pub(super) layout: u16,
    /// Bytes of attributes behind the inode.
    pub(super) xattr_len: u64,
    pub(super) mode: u16,
    pub(super) size: u64,
    /// Block address, device number or chunk format, by type and layout.
    pub(super) union: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: (i64, u32),
    pub(super) links: u32,
}

impl RawInode {
    pub(super) fn encode(&self) -> [u8; EXTENDED_LEN] {
        let mut out = [0; EXTENDED_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(1 | self.layout << 1).to_le_bytes());
        put(2, &xattr_count(self.xattr_len).to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.union.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.time.0.to_le_bytes());
        put(40, &self.time.1.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        out
    }

    /// Decodes an extended inode.
    pub(super) fn decode(raw: &[u8; EXTENDED_LEN]) -> Self {
        Self {
            layout: layout(raw),
            xattr_len: xattr_len(le16(raw, 2)),
            mode: le16(raw, 4),
            size: le64(raw, 8),
            union: le32(raw, 16),
            number: le32(raw, 20),
            uid: le32(raw, 24),
            gid: le32(raw, 28),
            time: (le64(raw, 32).cast_signed(), le32(raw, 40)),
            links: le32(raw, 44),
        }
    }

    /// Decodes a compact inode, as other programs write them; its time is the image's.
    pub(super) fn decode_compact(raw: &[u8; EXTENDED_LEN], time: (i64, u32)) -> Self {
        Self {
            layout: layout(raw),
            xattr_len: xattr_len(le16(raw, 2)),
            mode: le16(raw, 4),
            size: le32(raw, 8).into(),
            union: le32(raw, 16),
            number: le32(raw, 20),
            uid: le16(raw, 24).into(),
            gid: le16(raw, 26).into(),
            time,
            links: le16(raw, 6).into(),
        }
    }
}

fn layout(raw: &[u8]) -> u16 {
    le16(raw, 0) >> 1 & 7
}

/// True if the inode that begins so is an extended one.
pub(super) fn is_extended(raw: &[u8]) -> bool {
    le16(raw, 0) & 1 == 1
}

/// Count in an inode that stands for `len` bytes of attributes.
fn xattr_count(len: u64) -> u16 {
    match len.checked_sub(XATTR_HEADER as u64) {
        None => 0,
        Some(rest) => u16::try_from(rest / 4 + 1).unwrap_or(u16::MAX), // encode() refuses more
    }
}

fn xattr_len(count: u16) -> u64 {
    match count {
        0 => 0,
        count => XATTR_HEADER as u64 + 4 * (u64::from(count) - 1),
    }
}

impl Superblock {
    /// Encodes block 0, checksum included.
    pub(super) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut out = [0; BLOCK_LEN];
        let mut put = |at: usize, bytes: &[u8]| {
            out[SUPER_OFFSET + at..][..bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &self.compatible.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.time.0.to_le_bytes());
        put(32, &self.time.1.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.metadata.to_le_bytes());
        put(44, &self.shared_xattrs.to_le_bytes());
        put(48, &self.uuid);
        put(80, &self.incompatible.to_le_bytes());
        let sum = super::crc::crc32c(&out[SUPER_OFFSET..]);
        out[SUPER_OFFSET + 4..][..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Decodes the fields, of which none is checked here.
    pub(super) fn decode(block: &[u8; BLOCK_LEN]) -> Self {
        let raw = &block[SUPER_OFFSET..SUPER_OFFSET + SUPER_LEN];
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[48..64]);
        Self {
            root: le16(raw, 14),
            inodes: le64(raw, 16),
            blocks: le32(raw, 36),
            metadata: le32(raw, 40),
            shared_xattrs: le32(raw, 44),
            uuid,
            compatible: le32(raw, 8),
            incompatible: le32(raw, 80),
            time: (le64(raw, 24).cast_signed(), le32(raw, 32)),
        }
    }
}

/// Numbers at a position of a buffer, which must have them.
pub(super) fn le16(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

pub(super) fn le32(raw: &[u8], at: usize) -> u32 {
    u32::from(le16(raw, at)) | u32::from(le16(raw, at + 2)) << 16
}

pub(super) fn le64(raw: &[u8], at: usize) -> u64 {
    u64::from(le32(raw, at)) | u64::from(le32(raw, at + 4)) << 32
}

/// `value` raised to a multiple of `unit`, a power of two.
pub(super) fn up(value: u64, unit: u64) -> u64 {
    (value + (unit - 1)) & !(unit - 1)
}
