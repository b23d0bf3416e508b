//! Entries of a directory.

use super::{Image, Inode, ReadAt};
use crate::erofs::error::Error;
use crate::erofs::format::{BLOCK, BLOCK_LEN, DIRENT, NAME_MAX, le16, le64};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes without slash and NUL.
    pub name: Vec<u8>,
    /// Number of the inode.
    pub number: u64,
}

/// Iterator over a directory. Holds one block of 4 KiB.
#[derive(Debug)]
pub struct Entries<'i, 'a, R: ?Sized> {
    image: &'i Image<'a, R>,
    dir: Inode,
    block: Vec<u8>,
    /// Position of the block behind the current one.
    at: u64,
    /// The next entry of the block, and how many it has.
    next: usize,
    count: usize,
    last: Vec<u8>,
    failed: bool,
}

impl<'i, 'a, R: ReadAt + ?Sized> Entries<'i, 'a, R> {
    pub(super) fn new(image: &'i Image<'a, R>, dir: Inode) -> Self {
        Self {
            image,
            dir,
            block: Vec::new(),
            at: 0,
            next: 0,
            count: 0,
            last: Vec::new(),
            failed: false,
        }
    }

    fn corrupt<T>(&self, problem: &'static str) -> Result<T, Error> {
        Err(Error::corrupt(self.dir.head, problem))
    }

    fn advance(&mut self) -> Result<Option<DirEntry>, Error> {
        if self.next == self.count {
            if self.at >= self.dir.size {
                return Ok(None);
            }
            self.load()?;
        }
        let name = self.name(self.next)?;
        let number = le64(&self.block, self.next * DIRENT);
        self.next += 1;
        // Sorted is also: none comes twice.
        if self.last >= name {
            return self.corrupt("a directory that is not sorted");
        }
        self.last.clone_from(&name);
        Ok(Some(DirEntry { name, number }))
    }

    fn load(&mut self) -> Result<(), Error> {
        let length = usize::try_from((self.dir.size - self.at).min(BLOCK)).unwrap_or(BLOCK_LEN);
        self.block.resize(length, 0);
        self.image.content(&self.dir, &mut self.block, self.at)?;
        self.at += length as u64;
        if length < DIRENT {
            return self.corrupt("a directory that is cut off");
        }
        let names = usize::from(le16(&self.block, 8));
        if names < DIRENT || !names.is_multiple_of(DIRENT) || names > length {
            return self.corrupt("a directory whose names begin where none can");
        }
        (self.next, self.count) = (0, names / DIRENT);
        Ok(())
    }

    /// The name of an entry; that of the last one ends with the block or a NUL.
    fn name(&self, index: usize) -> Result<Vec<u8>, Error> {
        let offset = |index: usize| usize::from(le16(&self.block, index * DIRENT + 8));
        let is_last = index + 1 == self.count;
        let end = if is_last {
            self.block.len()
        } else {
            offset(index + 1)
        };
        let name = self.block.get(offset(index)..end);
        let mut name = name.filter(|_| offset(index) >= self.count * DIRENT);
        if is_last {
            name = name.and_then(|name| name.split(|byte| *byte == 0).next());
        }
        match name {
            Some(name)
                if (1..=NAME_MAX).contains(&name.len())
                    && !name.contains(&0)
                    && !name.contains(&b'/') =>
            {
                Ok(name.to_vec())
            }
            _ => self.corrupt("an entry without a proper name"),
        }
    }
}

impl<R: ReadAt + ?Sized> Iterator for Entries<'_, '_, R> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
