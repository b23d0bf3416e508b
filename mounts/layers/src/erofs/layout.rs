//! Placing and writing of metadata: directories, then inodes.
//!
//! Inodes are numbered before the first directory is written: a directory before the files in it, which
//! lie together, sorted by name.

use std::io::{Seek, Write};

use super::error::Error;
use super::file::FileType;
use super::format::{
    BLOCK, BLOCK_LEN, CHUNKED, COMPAT_CHECKSUM, COMPAT_MTIME, DIRENT, EXTENDED_LEN, FIRST, HOLE,
    INCOMPAT_CHUNKED, INLINE, PLAIN, RawInode, SLOT, Superblock, up,
};
use super::output::Output;
use super::tree::{Body, Dir, Inode, Node, Run, Tree};

/// Bytes of a directory's last block that may lie beside its inode.
const DIRECTORY_INLINE: usize = 2048;

/// Bytes of an address of a chunk.
const ADDRESS: u64 = 4;

/// Length of a directory, and bytes of it that lie beside the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    size: u64,
    tail: u64,
}

/// Order and numbers of all inodes.
struct Plan {
    order: Vec<Node>,
    /// Number of an inode by node; 0 for removed ones.
    numbers: Vec<u64>,
    has_chunks: bool,
}

/// Writes everything but block 0, which it answers.
pub(super) fn write<W: Write + Seek>(
    tree: &Tree,
    out: &mut Output<W>,
    uuid: [u8; 16],
) -> Result<Superblock, Error> {
    let plan = Plan::new(tree);
    let mut blocks = Vec::new(); // addresses of directories that have blocks, in order
    for node in &plan.order {
        if let Some(dir) = tree.dir(*node) {
            blocks.push(out.block()?);
            plan.directory(tree, *node, dir, |block, is_apart| match is_apart {
                true => out.write(block).and_then(|()| out.pad()),
                false => Ok(()),
            })?;
        }
    }
    let metadata = out.block()?;
    plan.inodes(tree, out, metadata, &blocks)?;
    out.pad()?;
    let root = plan.numbers[0];
    Ok(Superblock {
        root: u16::try_from(root).unwrap_or(u16::MAX), // it comes first
        inodes: plan.order.len() as u64,
        blocks: out.block()?,
        metadata,
        shared_xattrs: 0,
        uuid,
        compatible: COMPAT_CHECKSUM | COMPAT_MTIME,
        incompatible: if plan.has_chunks { INCOMPAT_CHUNKED } else { 0 },
        time: (0, 0),
    })
}

impl Plan {
    fn new(tree: &Tree) -> Self {
        let mut plan = Self {
            order: Vec::with_capacity(tree.len()),
            numbers: vec![0; tree.len()],
            has_chunks: false,
        };
        let mut at = FIRST;
        plan.place(tree, Node(0), &mut at);
        let mut todo = vec![Node(0)];
        while let Some(node) = todo.pop() {
            let children = tree.dir(node).map(|dir| dir.names.values());
            let before = todo.len();
            for child in children.into_iter().flatten() {
                if plan.numbers[child.0 as usize] != 0 {
                    continue; // another name of a file that has its place
                }
                plan.place(tree, *child, &mut at);
                if tree.inode(*child).kind() == FileType::Directory {
                    todo.push(*child);
                }
            }
            todo[before..].reverse();
        }
        plan
    }

    /// Gives the inode the next place that suits it.
    fn place(&mut self, tree: &Tree, node: Node, at: &mut u64) {
        let inode = tree.inode(node);
        let head = (EXTENDED_LEN + tree.xattrs(node).len()) as u64;
        let (start, end) = match &inode.body {
            Body::Chunks { bits, .. } => {
                self.has_chunks = true;
                (
                    *at,
                    up(*at + head, ADDRESS) + chunks(inode, *bits) * ADDRESS,
                )
            }
            Body::Flat { tail, .. } => beside(*at, head, tail.len() as u64),
            Body::Directory(_) => {
                let extent = tree.dir(node).map(measure).unwrap_or_default();
                beside(*at, head, extent.tail)
            }
            Body::Special(_) => (*at, *at + head),
        };
        self.numbers[node.0 as usize] = start / SLOT;
        self.order.push(node);
        *at = up(end, SLOT);
    }

    fn number(&self, node: Node) -> u64 {
        self.numbers[node.0 as usize]
    }

    /// Encodes a directory block by block; those that lie apart are full or too long for beside the inode.
    fn directory(
        &self,
        tree: &Tree,
        node: Node,
        dir: &Dir,
        mut emit: impl FnMut(&[u8], bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut block = DirBlock::default();
        for (name, child) in entries(node, dir) {
            if !block.fits(name.len()) {
                emit(&block.encode(), true)?;
                block = DirBlock::default();
            }
            block.add(name, self.number(child), tree.inode(child).kind().code());
        }
        let last = block.encode();
        emit(&last, last.len() > DIRECTORY_INLINE)
    }

    fn inodes<W: Write + Seek>(
        &self,
        tree: &Tree,
        out: &mut Output<W>,
        metadata: u32,
        blocks: &[u32],
    ) -> Result<(), Error> {
        let base = u64::from(metadata) * BLOCK;
        let mut blocks = blocks.iter();
        for (index, node) in self.order.iter().enumerate() {
            let (inode, xattrs) = (tree.inode(*node), tree.xattrs(*node));
            let start = base + self.number(*node) * SLOT;
            out.zeros(start - out.position())?;
            let mut raw = RawInode {
                layout: PLAIN,
                xattr_len: xattrs.len() as u64,
                mode: inode.mode,
                size: inode.size,
                union: 0,
                number: u32::try_from(index + 1).unwrap_or(u32::MAX), // nodes are u32
                uid: inode.uid,
                gid: inode.gid,
                time: inode.time,
                links: inode.links,
            };
            let mut beside = Vec::new();
            match &inode.body {
                Body::Flat { block, tail } => {
                    raw.union = *block;
                    raw.layout = if tail.is_empty() { PLAIN } else { INLINE };
                    beside.extend_from_slice(tail);
                }
                Body::Chunks { bits, .. } => {
                    (raw.layout, raw.union) = (CHUNKED, u32::from(*bits));
                }
                Body::Special(number) => raw.union = *number,
                Body::Directory(_) => {
                    raw.union = blocks.next().copied().unwrap_or(0);
                    self.finish_directory(tree, *node, &mut raw, &mut beside)?;
                }
            }
            out.write(&raw.encode())?;
            out.write(xattrs)?;
            match &inode.body {
                Body::Chunks { bits, runs } => addresses(out, chunks(inode, *bits), *bits, runs)?,
                _ => out.write(&beside)?,
            }
        }
        Ok(())
    }

    fn finish_directory(
        &self,
        tree: &Tree,
        node: Node,
        raw: &mut RawInode,
        beside: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Some(dir) = tree.dir(node) else {
            return Ok(());
        };
        self.directory(tree, node, dir, |block, is_apart| {
            if !is_apart {
                beside.extend_from_slice(block);
            }
            Ok(())
        })?;
        let is_dir = |child: &&Node| tree.inode(**child).kind() == FileType::Directory;
        let dirs = dir.names.values().filter(is_dir).count();
        raw.links = u32::try_from(dirs + 2).unwrap_or(u32::MAX);
        raw.layout = if beside.is_empty() { PLAIN } else { INLINE };
        raw.size = measure(dir).size;
        Ok(())
    }
}

/// Start and end of an inode of `head` bytes whose tail must lie in one block.
fn beside(at: u64, head: u64, tail: u64) -> (u64, u64) {
    let mut start = at;
    while (start + head) % BLOCK + tail > BLOCK {
        start += SLOT;
    }
    (start, start + head + tail)
}

/// Chunks of a file of that size.
fn chunks(inode: &Inode, bits: u8) -> u64 {
    inode.size.div_ceil(BLOCK << bits)
}

fn addresses<W: Write + Seek>(
    out: &mut Output<W>,
    count: u64,
    bits: u8,
    runs: &[Run],
) -> Result<(), Error> {
    let mut at = 0;
    for run in runs {
        for _ in at..run.first {
            out.write(&HOLE.to_le_bytes())?;
        }
        for number in 0..run.count {
            let block = u64::from(run.block) + (u64::from(number) << bits);
            // Behind the last block of the image there is none to begin at.
            out.write(&u32::try_from(block).unwrap_or(HOLE).to_le_bytes())?;
        }
        at = run.first + run.count;
    }
    for _ in u64::from(at)..count {
        out.write(&HOLE.to_le_bytes())?;
    }
    Ok(())
}

/// All entries of a directory, sorted by byte; `.` and `..` are sorted in.
fn entries(node: Node, dir: &Dir) -> impl Iterator<Item = (&[u8], Node)> {
    let dots = [(&b"."[..], node), (&b".."[..], dir.parent)];
    let (mut dots, mut names) = (dots.into_iter().peekable(), dir.names.iter().peekable());
    std::iter::from_fn(move || match (dots.peek(), names.peek()) {
        (Some((dot, _)), Some((name, _))) if ***name < **dot => {
            names.next().map(|(name, child)| (&**name, *child))
        }
        (Some(_), _) => dots.next(),
        (None, _) => names.next().map(|(name, child)| (&**name, *child)),
    })
}

fn measure(dir: &Dir) -> Extent {
    let (mut blocks, mut used) = (0, 0);
    for (name, _) in entries(Node(0), dir) {
        let more = DIRENT + name.len();
        if used + more > BLOCK_LEN {
            (blocks, used) = (blocks + 1, 0);
        }
        used += more;
    }
    let is_apart = used > DIRECTORY_INLINE;
    Extent {
        size: blocks * BLOCK + used as u64,
        tail: if is_apart { 0 } else { used as u64 },
    }
}

/// A block of a directory: entries, then their names.
#[derive(Debug, Default)]
struct DirBlock {
    entries: Vec<(u64, u8, usize)>,
    names: Vec<u8>,
}

impl DirBlock {
    fn fits(&self, name: usize) -> bool {
        (self.entries.len() + 1) * DIRENT + self.names.len() + name <= BLOCK_LEN
    }

    fn add(&mut self, name: &[u8], number: u64, code: u8) {
        self.entries.push((number, code, self.names.len()));
        self.names.extend_from_slice(name);
    }

    fn encode(&self) -> Vec<u8> {
        let names = self.entries.len() * DIRENT;
        let mut out = Vec::with_capacity(BLOCK_LEN);
        for (number, code, at) in &self.entries {
            out.extend_from_slice(&number.to_le_bytes());
            let offset = u16::try_from(names + at).unwrap_or(0); // within a block
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&[*code, 0]);
        }
        out.extend_from_slice(&self.names);
        out
    }
}
