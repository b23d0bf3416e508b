//! Reading an image without the kernel.
//!
//! Nothing in an image is trusted: each position is checked against the length of the image before
//! it is read, nothing is allocated by a size that the image says, and no function calls itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::Error;
use super::file::{FileType, Xattr};
use super::format::{
    BLOCK, BLOCK_BITS, BLOCK_LEN, CHUNK_BITS, CHUNK_INDEXES, CHUNKED, COMPACT_LEN, COMPAT_CHECKSUM,
    EXTENDED_LEN, HOLE, INCOMPAT_CHUNKED, INLINE, MAGIC, PLAIN, RawInode, SLOT, SUPER_OFFSET,
    Superblock, XATTR_ENTRY, XATTR_HEADER, is_extended, le16, le32, up,
};
use super::{crc, xattr};

pub use entries::{DirEntry, Entries};

mod entries;

/// Bytes of the longest symlink target that is read.
const TARGET_MAX: u64 = 4096;

/// Something with bytes at positions.
pub trait ReadAt {
    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The device's; `UnexpectedEof` behind the end.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The device's.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.get(start..).and_then(|rest| rest.get(..buffer.len()));
        let found = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// An image that is read. Images of other programs are read as well if they are not compressed and
/// have blocks of 4 KiB and one device.
#[derive(Debug)]
pub struct Image<'a, R: ?Sized> {
    source: &'a R,
    length: u64,
    superblock: Superblock,
}

/// A file of an image that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number, which is its position in units of 32 bytes.
    pub number: u64,
    /// Type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification in seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Names; of a directory 2 more than directories in it.
    pub links: u32,
    /// Length of content, target or directory in bytes.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    raw: RawInode,
    /// Position behind the inode and its attributes.
    end: u64,
    head: u64,
}

impl<'a, R: ReadAt + ?Sized> Image<'a, R> {
    /// Reads and checks the superblock.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is no image, its checksum does not match, or the image is shorter than
    /// it was made; [`Error::Unsupported`]; [`Error::Io`].
    pub fn open(source: &'a R) -> Result<Self, Error> {
        let length = source.length().map_err(|cause| failed(0, cause))?;
        let mut block = [0; BLOCK_LEN];
        if length < BLOCK {
            return Err(Error::corrupt(length, "shorter than a superblock"));
        }
        let read = source.read_exact_at(&mut block, 0);
        read.map_err(|cause| failed(0, cause))?;
        let at = SUPER_OFFSET as u64;
        if le32(&block, SUPER_OFFSET) != MAGIC {
            return Err(Error::corrupt(at, "no superblock of EROFS"));
        }
        let superblock = Superblock::decode(&block);
        if block[SUPER_OFFSET + 12] != BLOCK_BITS {
            let feature = "blocks of another size than 4 KiB";
            return Err(Error::Unsupported { feature });
        }
        if superblock.compatible & COMPAT_CHECKSUM != 0 {
            let wanted = le32(&block, SUPER_OFFSET + 4);
            block[SUPER_OFFSET + 4..][..4].fill(0);
            if crc::crc32c(&block[SUPER_OFFSET..]) != wanted {
                return Err(Error::corrupt(at, "the checksum of the superblock"));
            }
        }
        if superblock.incompatible & !INCOMPAT_CHUNKED != 0 {
            let feature = "compression, further devices, or another feature beside chunks";
            return Err(Error::Unsupported { feature });
        }
        if u64::from(superblock.blocks) * BLOCK > length {
            return Err(Error::corrupt(length, "the image is cut off"));
        }
        Ok(Self {
            source,
            length,
            superblock,
        })
    }

    /// Length of the image in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Number of inodes as the superblock has it.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.superblock.inodes
    }

    /// Identifier of the image.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Fills `buffer` from a position that was computed, if the image has that much.
    fn bytes(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(Error::corrupt(
                offset,
                "something behind the end of the image",
            ));
        }
        let read = self.source.read_exact_at(buffer, offset);
        read.map_err(|cause| failed(offset, cause))
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Image::inode`]; [`Error::Corrupt`] if it is no directory.
    pub fn root(&self) -> Result<Inode, Error> {
        let root = self.inode(self.superblock.root.into())?;
        if root.kind == FileType::Directory {
            return Ok(root);
        }
        Err(Error::corrupt(root.head, "the root is no directory"))
    }

    /// The inode of a number.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], [`Error::Io`].
    pub fn inode(&self, number: u64) -> Result<Inode, Error> {
        let base = u64::from(self.superblock.metadata) * BLOCK;
        let head = number.checked_mul(SLOT).and_then(|at| at.checked_add(base));
        let head = head.ok_or_else(|| Error::corrupt(base, "a number of no inode"))?;
        let mut raw = [0; EXTENDED_LEN];
        self.bytes(&mut raw[..COMPACT_LEN], head)?;
        let (raw, length) = if is_extended(&raw) {
            self.bytes(&mut raw, head)?;
            (RawInode::decode(&raw), EXTENDED_LEN)
        } else {
            let time = self.superblock.time;
            (RawInode::decode_compact(&raw, time), COMPACT_LEN)
        };
        check(&raw, head)?;
        let kind = FileType::of_mode(raw.mode);
        let kind = kind.ok_or_else(|| Error::corrupt(head, "an inode of an unknown type"))?;
        let device = match kind {
            FileType::Character | FileType::Block => (
                raw.union >> 8 & 0xfff,
                raw.union & 0xff | raw.union >> 12 & 0xf_ff00,
            ),
            _ => (0, 0),
        };
        Ok(Inode {
            number,
            kind,
            permissions: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            modified: raw.time,
            links: raw.links,
            size: raw.size,
            device,
            end: head + length as u64 + raw.xattr_len,
            raw,
            head,
        })
    }

    /// The entries of a directory, `.` and `..` included, sorted by byte.
    ///
    /// # Errors
    /// [`Error::WrongType`]; those of the iterator are [`Error::Corrupt`] and [`Error::Io`], after
    /// which it ends.
    pub fn entries(&self, dir: &Inode) -> Result<Entries<'_, 'a, R>, Error> {
        let attempt = "list a directory";
        need(dir, FileType::Directory, attempt)?;
        Ok(Entries::new(self, dir.clone()))
    }

    /// The file of a name in a directory; `None` if there is none. Reads the directory up to it.
    ///
    /// # Errors
    /// As [`Image::entries`] and [`Image::inode`].
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<Inode>, Error> {
        for entry in self.entries(dir)? {
            let entry = entry?;
            if entry.name == name {
                return self.inode(entry.number).map(Some);
            }
        }
        Ok(None)
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::Corrupt`], [`Error::Io`].
    pub fn target(&self, symlink: &Inode) -> Result<Vec<u8>, Error> {
        need(symlink, FileType::Symlink, "read a symlink")?;
        if symlink.size > TARGET_MAX {
            return Err(Error::corrupt(symlink.head, "a symlink of more than 4 KiB"));
        }
        let mut target = vec![0; usize::try_from(symlink.size).unwrap_or(0)];
        self.content(symlink, &mut target, 0)?;
        Ok(target)
    }

    /// Reads content of a regular file from `offset` on. Answers bytes read: fewer than `buffer`
    /// has only at the end of the file.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::Corrupt`], [`Error::Io`].
    pub fn read(&self, file: &Inode, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        need(file, FileType::Regular, "read a file")?;
        let left = file.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        self.content(file, &mut buffer[..length], offset)?;
        Ok(length)
    }

    /// The next part of a regular file that is no hole, at or behind `offset`: start and end.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn next_data(&self, file: &Inode, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        need(file, FileType::Regular, "look for data")?;
        let (mut at, mut start) = (offset, None);
        while at < file.size {
            let (place, length) = self.place(file, at)?;
            match (place, start) {
                (Some(_), None) => start = Some(at),
                (None, Some(start)) => return Ok(Some((start, at))),
                _ => {}
            }
            at = at.saturating_add(length).min(file.size);
        }
        Ok(start.map(|start| (start, file.size)))
    }

    /// Fills `buffer` with content, all of which lies within the size.
    fn content(&self, inode: &Inode, mut buffer: &mut [u8], mut at: u64) -> Result<(), Error> {
        while !buffer.is_empty() {
            let (place, length) = self.place(inode, at)?;
            let step = usize::try_from(length).unwrap_or(usize::MAX);
            let (piece, rest) = buffer.split_at_mut(step.min(buffer.len()));
            match place {
                Some(place) => self.bytes(piece, place)?,
                None => piece.fill(0),
            }
            at += piece.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Position in the image of what lies at a position of a file, and bytes that follow it there, at
    /// least one; no position for a hole.
    fn place(&self, inode: &Inode, at: u64) -> Result<(Option<u64>, u64), Error> {
        let left = inode.size.saturating_sub(at).max(1);
        let start = u64::from(inode.raw.union) * BLOCK;
        match inode.raw.layout {
            PLAIN => Ok((Some(start.saturating_add(at)), left)),
            INLINE => {
                let tail = inode.size - inode.size % BLOCK;
                if at >= tail {
                    return Ok((Some(inode.end + (at - tail)), left));
                }
                Ok((Some(start.saturating_add(at)), tail - at))
            }
            _ => self.chunk(inode, at, left),
        }
    }

    fn chunk(&self, inode: &Inode, at: u64, left: u64) -> Result<(Option<u64>, u64), Error> {
        let format = u16::try_from(inode.raw.union & 0xffff).unwrap_or(0);
        let bits = format & CHUNK_BITS;
        let unit = if format & CHUNK_INDEXES == 0 { 4 } else { 8 };
        let chunk = BLOCK << bits;
        let within = at % chunk;
        let index = (at / chunk).checked_mul(unit);
        let index = index.and_then(|index| up(inode.end, unit).checked_add(index));
        let index = index.ok_or_else(|| Error::corrupt(inode.head, "a file of too many chunks"))?;
        let mut raw = [0; 8];
        let raw = &mut raw[..if unit == 4 { 4 } else { 8 }];
        self.bytes(raw, index)?;
        if unit == 8 && le16(raw, 2) != 0 {
            let feature = "further devices";
            return Err(Error::Unsupported { feature });
        }
        let block = le32(raw, raw.len() - 4);
        let place = (block != HOLE).then(|| u64::from(block) * BLOCK + within);
        Ok((place, (chunk - within).min(left)))
    }

    /// Extended attributes of a file, by full name, in the order of the image.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let length = usize::try_from(inode.raw.xattr_len).unwrap_or(0); // at most 256 KiB
        let mut raw = vec![0; length];
        let start = inode.end - inode.raw.xattr_len;
        self.bytes(&mut raw, start)?;
        let corrupt = |problem| Error::corrupt(start, problem);
        let mut found = xattr::decode(&raw).map_err(corrupt)?;
        let shared = raw.get(4).map_or(0, |count| usize::from(*count));
        for number in raw[XATTR_HEADER.min(length)..].chunks_exact(4).take(shared) {
            found.push(self.shared_xattr(le32(number, 0))?);
        }
        Ok(found)
    }

    /// An attribute that several inodes may have; other programs write them.
    fn shared_xattr(&self, number: u32) -> Result<Xattr, Error> {
        let at = u64::from(self.superblock.shared_xattrs) * BLOCK + u64::from(number) * 4;
        let mut head = [0; XATTR_ENTRY];
        self.bytes(&mut head, at)?;
        let mut entry = vec![0; xattr::length(&head)]; // at most 66 KiB
        self.bytes(&mut entry, at)?;
        xattr::decode_one(&entry).map_err(|problem| Error::corrupt(at, problem))
    }
}

fn check(raw: &RawInode, head: u64) -> Result<(), Error> {
    let is_dir = FileType::of_mode(raw.mode) == Some(FileType::Directory);
    match raw.layout {
        PLAIN | INLINE => {}
        CHUNKED if !is_dir => {}
        1 | 3 => {
            let feature = "compression";
            return Err(Error::Unsupported { feature });
        }
        _ => return Err(Error::corrupt(head, "an inode of an unknown layout")),
    }
    if i64::try_from(raw.size).is_err() {
        return Err(Error::corrupt(head, "a file of more than 8 EiB"));
    }
    Ok(())
}

fn need(inode: &Inode, kind: FileType, attempt: &'static str) -> Result<(), Error> {
    if inode.kind == kind {
        return Ok(());
    }
    let found = inode.kind.noun();
    Err(Error::WrongType { attempt, found })
}

fn failed(offset: u64, cause: io::Error) -> Error {
    Error::Io {
        attempt: "read",
        offset,
        cause,
    }
}
