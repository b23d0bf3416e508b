//! Writing an image.

use std::io::{Seek, Write};

use super::content::Content;
use super::error::Error;
use super::file::{Attributes, FileType, Special};
use super::format::{BLOCK, BLOCK_LEN};
use super::layout;
use super::output::Output;
use super::tree::{Body, Node, Tree};

/// Bytes of the longest target of a symlink: the kernel's, without the closing NUL.
const TARGET_MAX: usize = libc::PATH_MAX as usize - 1;

/// Bytes of a target that lie beside its inode: all that fit, wherever that ends in its block.
const TARGET_INLINE: usize = BLOCK_LEN - 32;

/// Options of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Identifier of the image. The kernel makes no use of it.
    pub uuid: [u8; 16],
    /// Bytes of a file's last partial block that may lie beside the inode, at most 2048. They are
    /// held in memory until the end and cannot be shared by reflink; each saves a block of 4 KiB.
    pub inline: u16,
    /// Bytes of memory that metadata may take until the end, by an estimate that is exact to some
    /// percent.
    pub most_memory: u64,
}

impl Default for Options {
    /// No identifier, 512 bytes beside the inode, 1 GiB of memory.
    fn default() -> Self {
        Self {
            uuid: [0; 16],
            inline: 512,
            most_memory: 1 << 30,
        }
    }
}

/// Facts about a finished image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image in bytes; where the image file has holes it takes less.
    pub bytes: u64,
    /// Inodes, the root directory included.
    pub inodes: u64,
}

/// An image that is being written, from the root directory, which is 0755 and root's, on.
///
/// Takes memory for each inode: about 110 bytes, 40 bytes and the name for each name,
/// [`Options::inline`] bytes of content at most, a symlink's target, 12 bytes for each hole of a file with
/// some; attributes of the same value are kept once. And 1 MiB. What would pass
/// [`Options::most_memory`] is refused with [`Error::TooLarge`].
///
/// Until [`Writer::finish`] there is no image: block 0 is written last.
#[derive(Debug)]
pub struct Writer<W> {
    out: Output<W>,
    tree: Tree,
    options: Options,
}

impl<W: Write + Seek> Writer<W> {
    /// The root directory.
    pub const ROOT: Node = Node(0);

    /// Begins an image at the start of `out`, which should be empty: it is written front to back,
    /// but for block 0, and parts that are zero are not written.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the options, [`Error::Io`].
    pub fn new(out: W, options: Options) -> Result<Self, Error> {
        if options.inline > 2048 {
            return Err(Error::TooLarge {
                field: "bytes beside the inode",
                value: options.inline.into(),
                limit: 2048,
            });
        }
        Ok(Self {
            out: Output::new(out)?,
            tree: Tree::new(options.most_memory)?,
            options,
        })
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::Exists`], [`Error::WrongType`] if `parent` is no directory,
    /// [`Error::Xattr`] or [`Error::TooLarge`] for attributes that cannot be stored. Nothing was
    /// added then.
    pub fn directory(
        &mut self,
        parent: Node,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<Node, Error> {
        self.tree.check(parent, name)?;
        let node = self.tree.directory(parent, attributes)?;
        self.tree.link(parent, name, node)?;
        Ok(node)
    }

    /// Begins a regular file of `size` bytes.
    ///
    /// # Errors
    /// As [`Writer::directory`]; attributes are checked at the end.
    pub fn file(
        &mut self,
        parent: Node,
        name: &[u8],
        attributes: &Attributes,
        size: u64,
    ) -> Result<FileWriter<'_, W>, Error> {
        self.tree.check(parent, name)?;
        // The last one may have been dropped half-written.
        self.out.pad()?;
        FileWriter::new(self, parent, name, attributes, size)
    }

    /// Adds a symlink.
    ///
    /// # Errors
    /// As [`Writer::directory`]; [`Error::TooLarge`] for a target of more than 4095 bytes,
    /// [`Error::BadName`] for one that is empty or has a NUL; [`Error::Io`].
    pub fn symlink(
        &mut self,
        parent: Node,
        name: &[u8],
        attributes: &Attributes,
        target: &[u8],
    ) -> Result<Node, Error> {
        self.tree.check(parent, name)?;
        if target.len() > TARGET_MAX {
            return Err(Error::TooLarge {
                field: "length of a symlink's target",
                value: target.len() as u64,
                limit: TARGET_MAX as u64,
            });
        }
        if target.is_empty() || target.contains(&0) {
            let name = target[..target.len().min(255)].to_vec();
            let problem = "the target of a symlink is not empty and has no NUL";
            return Err(Error::BadName { name, problem });
        }
        let body = self.target(target)?;
        let size = target.len() as u64;
        let node = self.tree.add(FileType::Symlink, attributes, size, body)?;
        self.tree.link(parent, name, node)?;
        Ok(node)
    }

    fn target(&mut self, target: &[u8]) -> Result<Body, Error> {
        if target.len() <= TARGET_INLINE {
            let (block, tail) = (0, target.into());
            return Ok(Body::Flat { block, tail });
        }
        self.out.pad()?;
        let (block, tail) = (self.out.block()?, Box::default());
        self.out.write(target)?;
        self.out.pad()?;
        Ok(Body::Flat { block, tail })
    }

    /// Adds a device, FIFO or socket.
    ///
    /// # Errors
    /// As [`Writer::directory`]; [`Error::TooLarge`] for a major number above 4095 or a minor one
    /// above 1,048,575.
    pub fn special(
        &mut self,
        parent: Node,
        name: &[u8],
        attributes: &Attributes,
        special: Special,
    ) -> Result<Node, Error> {
        self.tree.check(parent, name)?;
        let (kind, number) = special.encode()?;
        let node = self.tree.add(kind, attributes, 0, Body::Special(number))?;
        self.tree.link(parent, name, node)?;
        Ok(node)
    }

    /// Adds another name of a file that is no directory.
    ///
    /// # Errors
    /// As [`Writer::directory`]; [`Error::WrongType`] for a directory.
    pub fn link(&mut self, parent: Node, name: &[u8], node: Node) -> Result<(), Error> {
        self.tree.check(parent, name)?;
        if self.kind(node) == FileType::Directory {
            return Err(Error::WrongType {
                attempt: "create a hard link",
                found: FileType::Directory.noun(),
            });
        }
        self.tree.link(parent, name, node)
    }

    /// Removes a name, and with a directory all that is in it. Content that was written goes on taking
    /// space in the image.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::WrongType`] if `parent` is no directory.
    pub fn remove(&mut self, parent: Node, name: &[u8]) -> Result<(), Error> {
        self.tree.remove(parent, name)
    }

    /// The file of a name in a directory.
    #[must_use]
    pub fn lookup(&self, parent: Node, name: &[u8]) -> Option<Node> {
        self.tree.lookup(parent, name)
    }

    /// The names in a directory with their files, sorted by byte; none for other files.
    pub fn entries(&self, dir: Node) -> impl Iterator<Item = (&[u8], Node)> {
        let names = self.tree.dir(dir).map(|dir| dir.names.iter());
        let names = names.into_iter().flatten();
        names.map(|(name, node)| (&**name, *node))
    }

    /// Type of a file.
    #[must_use]
    pub fn kind(&self, node: Node) -> FileType {
        self.tree.inode(node).kind()
    }

    /// Attributes of a file, as they will be stored.
    #[must_use]
    pub fn attributes(&self, node: Node) -> Attributes {
        self.tree.attributes(node)
    }

    /// Replaces all attributes of a file.
    ///
    /// # Errors
    /// [`Error::Xattr`], [`Error::TooLarge`]. Nothing has changed then.
    pub fn set(&mut self, node: Node, attributes: &Attributes) -> Result<(), Error> {
        self.tree.set(node, attributes)
    }

    /// Target of a symlink if it has at most 4064 bytes; `None` for other files.
    pub(crate) fn short_target(&self, node: Node) -> Option<&[u8]> {
        match &self.tree.inode(node).body {
            Body::Flat { tail, .. } if self.kind(node) == FileType::Symlink => Some(tail),
            _ => None,
        }
    }

    /// True for a character device 0:0, overlayfs' whiteout.
    #[must_use]
    pub fn is_whiteout(&self, node: Node) -> bool {
        let inode = self.tree.inode(node);
        inode.kind() == FileType::Character && matches!(inode.body, Body::Special(0))
    }

    /// Writes the metadata. The image is complete and can be mounted, and is as durable as `out` makes
    /// it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for an image beyond 16 TiB, [`Error::Io`].
    pub fn finish(mut self) -> Result<(W, Summary), Error> {
        self.out.pad()?;
        let superblock = layout::write(&self.tree, &mut self.out, self.options.uuid)?;
        let summary = Summary {
            bytes: u64::from(superblock.blocks) * BLOCK,
            inodes: superblock.inodes,
        };
        let out = self.out.finish(&superblock.encode())?;
        Ok((out, summary))
    }
}

/// One regular file that is being written. Its name appears with [`FileWriter::finish`]; if it is
/// dropped before, the bytes written take space in the image and belong to no file.
#[derive(Debug)]
pub struct FileWriter<'a, W> {
    writer: &'a mut Writer<W>,
    parent: Node,
    name: Box<[u8]>,
    attributes: Attributes,
    content: Content,
}

impl<'a, W: Write + Seek> FileWriter<'a, W> {
    fn new(
        writer: &'a mut Writer<W>,
        parent: Node,
        name: &[u8],
        attributes: &Attributes,
        size: u64,
    ) -> Result<Self, Error> {
        let content = Content::new(size, writer.options.inline, writer.out.position())?;
        Ok(Self {
            writer,
            parent,
            name: name.into(),
            attributes: attributes.clone(),
            content,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::Length`] if that is more than the announced size; [`Error::TooLarge`] beyond
    /// 16 TiB of image; [`Error::Io`].
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.content.write(&mut self.writer.out, data)
    }

    /// Appends a hole of that many bytes. It takes no space where it covers whole chunks.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        self.content.hole(&mut self.writer.out, length)
    }

    /// Ends the content and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Length`] if there is less of it than announced, [`Error::Xattr`] or
    /// [`Error::TooLarge`] for attributes that cannot be stored; [`Error::Io`].
    pub fn finish(self) -> Result<Node, Error> {
        let size = self.content.size;
        let body = self.content.finish(&mut self.writer.out)?;
        let tree = &mut self.writer.tree;
        let node = tree.add(FileType::Regular, &self.attributes, size, body)?;
        tree.link(self.parent, &self.name, node)?;
        Ok(node)
    }
}
