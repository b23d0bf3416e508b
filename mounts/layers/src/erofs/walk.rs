//! All files of an image, in order.

use super::error::Error;
use super::file::FileType;
use super::reader::{Entries, Image, Inode, ReadAt};

/// Directories within each other: more do not fit in a path that the kernel takes.
const MOST_DEPTH: usize = libc::PATH_MAX as usize / 2;

/// Bytes that an entry of a directory takes at least.
const SMALLEST_ENTRY: u64 = 13;

/// Iterator over all files of an image: path from the root, without a slash before it, and inode. A directory comes
/// before what is in it; a file with several names comes several times. The root has an empty path.
///
/// Holds about 4 KiB for each directory on the way. A damaged image ends it with an error: there are at most as
/// many entries as fit into the image, and `..` of each directory must lead to where it was found.
#[derive(Debug)]
pub struct Walk<'i, 'a, R: ?Sized> {
    image: &'i Image<'a, R>,
    stack: Vec<Level<'i, 'a, R>>,
    path: Vec<u8>,
    left: u64,
    begun: bool,
}

#[derive(Debug)]
struct Level<'i, 'a, R: ?Sized> {
    entries: Entries<'i, 'a, R>,
    /// Numbers of the directory and of its parent.
    own: u64,
    parent: u64,
    /// Set when `.` and `..` were seen.
    dots: (bool, bool),
    /// Length of its path.
    length: usize,
}

impl<'a, R: ReadAt + ?Sized> Image<'a, R> {
    /// Walks the whole tree.
    #[must_use]
    pub fn walk(&self) -> Walk<'_, 'a, R> {
        Walk {
            image: self,
            stack: Vec::new(),
            path: Vec::new(),
            left: self.length() / SMALLEST_ENTRY,
            begun: false,
        }
    }
}

impl<R: ReadAt + ?Sized> Walk<'_, '_, R> {
    fn enter(&mut self, dir: &Inode) -> Result<(), Error> {
        if self.stack.len() >= MOST_DEPTH {
            return corrupt(dir.number, "directories that lie too deep");
        }
        let parent = self.stack.last().map_or(dir.number, |level| level.own);
        self.stack.push(Level {
            entries: self.image.entries(dir)?,
            own: dir.number,
            parent,
            dots: (false, false),
            length: self.path.len(),
        });
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(Vec<u8>, Inode)>, Error> {
        if !self.begun {
            self.begun = true;
            let root = self.image.root()?;
            self.enter(&root)?;
            return Ok(Some((Vec::new(), root)));
        }
        while let Some(level) = self.stack.last_mut() {
            self.path.truncate(level.length);
            let Some(entry) = level.entries.next().transpose()? else {
                if level.dots != (true, true) {
                    return corrupt(level.own, "a directory without `.` or `..`");
                }
                self.stack.pop();
                continue;
            };
            let (dot, wanted) = match &*entry.name {
                b"." => (&mut level.dots.0, level.own),
                b".." => (&mut level.dots.1, level.parent),
                _ => return self.file(&entry.name, entry.number).map(Some),
            };
            if entry.number != wanted {
                return corrupt(level.own, "`.` or `..` that leads elsewhere");
            }
            *dot = true;
        }
        Ok(None)
    }

    fn file(&mut self, name: &[u8], number: u64) -> Result<(Vec<u8>, Inode), Error> {
        let left = self.left.checked_sub(1);
        let Some(left) = left else {
            return corrupt(number, "more entries than there is space for");
        };
        self.left = left;
        let inode = self.image.inode(number)?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        if inode.kind == FileType::Directory {
            self.enter(&inode)?;
        }
        Ok((self.path.clone(), inode))
    }
}

impl<R: ReadAt + ?Sized> Iterator for Walk<'_, '_, R> {
    type Item = Result<(Vec<u8>, Inode), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.stack.clear(); // it has ended
        }
        next
    }
}

/// A fault of an inode, which is named by its number in units of 32 bytes.
fn corrupt<T>(number: u64, problem: &'static str) -> Result<T, Error> {
    let offset = number.saturating_mul(super::format::SLOT);
    Err(Error::corrupt(offset, problem))
}
