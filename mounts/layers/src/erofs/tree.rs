//! The tree of an image while it is written: all metadata, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::error::Error;
use super::file::{Attributes, FileType, within};
use super::format::NAME_MAX;
use super::xattr;

/// A file of an image that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub(super) u32);

/// Chunks that follow each other in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first within the file.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Block of the first.
    pub(super) block: u32,
}

/// Content of an inode.
#[derive(Debug)]
pub(super) enum Body {
    /// Number in [`Tree::dirs`].
    Directory(u32),
    /// Blocks that follow each other, and the bytes behind them that lie beside the inode.
    Flat { block: u32, tail: Box<[u8]> },
    /// Chunks of `2^bits` blocks; those of no run are holes.
    Chunks { bits: u8, runs: Box<[Run]> },
    /// A device's number, or nothing.
    Special(u32),
}

/// An inode; 80 bytes, and what it points to.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: (i64, u32),
    /// Names of a file that is no directory.
    pub(super) links: u32,
    pub(super) size: u64,
    /// Number in [`Tree::xattrs`].
    pub(super) xattrs: u32,
    pub(super) body: Body,
}

impl Inode {
    pub(super) fn kind(&self) -> FileType {
        FileType::of_mode(self.mode).unwrap_or(FileType::Regular) // set() allows no other
    }
}

/// A directory: its names in the order of the format.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) parent: Node,
    pub(super) names: BTreeMap<Box<[u8]>, Node>,
}

#[derive(Debug)]
pub(super) struct Tree {
    inodes: Vec<Inode>,
    dirs: Vec<Dir>,
    /// Encoded sets of attributes, each once; the first is empty.
    xattrs: Vec<Arc<[u8]>>,
    known: HashMap<Arc<[u8]>, u32>,
    /// Bytes of memory, about, and the most.
    memory: u64,
    most_memory: u64,
}

/// Bytes of memory for an inode, with its place in the layout, for a name, and for a set of
/// attributes or a directory, each without what it points to; as allocators round.
const INODE_MEMORY: usize = size_of::<Inode>() + size_of::<(Node, u64)>() + 16;
const NAME_MEMORY: usize = 56;
const SET_MEMORY: usize = 96;

impl Tree {
    /// A root directory, 0755 and root's.
    pub(super) fn new(most_memory: u64) -> Result<Self, Error> {
        let none: Arc<[u8]> = Arc::from([]);
        let mut tree = Self {
            inodes: Vec::new(),
            dirs: Vec::new(),
            xattrs: vec![Arc::clone(&none)],
            known: HashMap::from([(none, 0)]),
            memory: 0,
            most_memory,
        };
        let root = Attributes {
            permissions: 0o755,
            ..Attributes::default()
        };
        tree.directory(Node(0), &root)?;
        Ok(tree)
    }

    pub(super) fn inode(&self, node: Node) -> &Inode {
        &self.inodes[node.0 as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// The directory that a node is; `None` for other files.
    pub(super) fn dir(&self, node: Node) -> Option<&Dir> {
        match self.inode(node).body {
            Body::Directory(number) => Some(&self.dirs[number as usize]),
            _ => None,
        }
    }

    /// Counts memory that is about to be taken; none is given back.
    fn take_memory(&mut self, bytes: usize) -> Result<(), Error> {
        let (value, limit) = (self.memory + bytes as u64, self.most_memory);
        if value > limit {
            return Err(Error::TooLarge {
                field: "memory for metadata, in bytes,",
                value,
                limit,
            });
        }
        self.memory = value;
        Ok(())
    }

    fn names(
        &mut self,
        node: Node,
        attempt: &'static str,
    ) -> Result<&mut BTreeMap<Box<[u8]>, Node>, Error> {
        let inode = &self.inodes[node.0 as usize];
        match inode.body {
            Body::Directory(number) => Ok(&mut self.dirs[number as usize].names),
            _ => Err(Error::WrongType {
                attempt,
                found: inode.kind().noun(),
            }),
        }
    }

    pub(super) fn xattrs(&self, node: Node) -> &[u8] {
        &self.xattrs[self.inode(node).xattrs as usize]
    }

    /// Adds an inode without a name.
    pub(super) fn add(
        &mut self,
        kind: FileType,
        attributes: &Attributes,
        size: u64,
        body: Body,
    ) -> Result<Node, Error> {
        let number = number("number of inodes", self.inodes.len())?;
        let beside = match &body {
            Body::Flat { tail, .. } => tail.len(),
            Body::Chunks { runs, .. } => size_of_val(&**runs),
            Body::Directory(_) => SET_MEMORY,
            Body::Special(_) => 0,
        };
        self.take_memory(INODE_MEMORY + beside)?;
        self.inodes.push(Inode {
            mode: kind.bits(),
            uid: 0,
            gid: 0,
            time: (0, 0),
            links: 0,
            size,
            xattrs: 0,
            body,
        });
        let node = Node(number);
        if let Err(error) = self.set(node, attributes) {
            self.inodes.pop();
            return Err(error);
        }
        Ok(node)
    }

    /// Adds a directory without a name.
    pub(super) fn directory(
        &mut self,
        parent: Node,
        attributes: &Attributes,
    ) -> Result<Node, Error> {
        let number = number("number of directories", self.dirs.len())?;
        let node = self.add(FileType::Directory, attributes, 0, Body::Directory(number))?;
        let names = BTreeMap::new();
        self.dirs.push(Dir { parent, names });
        Ok(node)
    }

    pub(super) fn set(&mut self, node: Node, attributes: &Attributes) -> Result<(), Error> {
        within("permission bits", attributes.permissions.into(), 0o7777)?;
        within("nanoseconds", attributes.modified.1, 999_999_999)?;
        let kind = self.inode(node).kind();
        let mode = kind.bits() | attributes.permissions;
        let xattrs = self.intern(xattr::encode(&attributes.xattrs, mode)?)?;
        let inode = &mut self.inodes[node.0 as usize];
        inode.mode = mode;
        inode.uid = attributes.uid;
        inode.gid = attributes.gid;
        inode.time = attributes.modified;
        inode.xattrs = xattrs;
        Ok(())
    }

    pub(super) fn attributes(&self, node: Node) -> Attributes {
        let inode = self.inode(node);
        Attributes {
            permissions: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            modified: inode.time,
            xattrs: xattr::decode(self.xattrs(node)).unwrap_or_default(), // encoded here
        }
    }

    fn intern(&mut self, encoded: Vec<u8>) -> Result<u32, Error> {
        if let Some(known) = self.known.get(&*encoded) {
            return Ok(*known);
        }
        let number = number("number of sets of attributes", self.xattrs.len())?;
        self.take_memory(SET_MEMORY + encoded.len())?;
        let encoded: Arc<[u8]> = encoded.into();
        self.xattrs.push(Arc::clone(&encoded));
        self.known.insert(encoded, number);
        Ok(number)
    }

    /// Checks that a name can be added.
    pub(super) fn check(&mut self, parent: Node, name: &[u8]) -> Result<(), Error> {
        let bad = |problem| {
            let name = name[..name.len().min(NAME_MAX)].to_vec();
            Err(Error::BadName { name, problem })
        };
        match name {
            b"" => return bad("it is empty"),
            b"." | b".." => return bad("every directory has it"),
            _ if name.len() > NAME_MAX => return bad("it has more than 255 bytes"),
            _ if name.contains(&b'/') => return bad("it has a slash"),
            _ if name.contains(&0) => return bad("it has a NUL"),
            _ => {}
        }
        if self.names(parent, "add an entry")?.contains_key(name) {
            let name = name.to_vec();
            return Err(Error::Exists { name });
        }
        Ok(())
    }

    /// Gives a node a name, which was checked.
    pub(super) fn link(&mut self, parent: Node, name: &[u8], node: Node) -> Result<(), Error> {
        let links = self.inode(node).links;
        let links = links.checked_add(1).ok_or(Error::TooLarge {
            field: "number of links",
            value: u64::from(links) + 1,
            limit: u32::MAX.into(),
        })?;
        self.take_memory(NAME_MEMORY + name.len())?;
        self.names(parent, "add an entry")?
            .insert(name.into(), node);
        self.inodes[node.0 as usize].links = links;
        Ok(())
    }

    pub(super) fn lookup(&self, parent: Node, name: &[u8]) -> Option<Node> {
        self.dir(parent)?.names.get(name).copied()
    }

    /// Takes a name away, and with a directory all that is in it.
    pub(super) fn remove(&mut self, parent: Node, name: &[u8]) -> Result<(), Error> {
        let removed = self.names(parent, "remove an entry")?.remove(name);
        let first = removed.ok_or_else(|| Error::Missing {
            name: name.to_vec(),
        })?;
        let mut todo = vec![first];
        while let Some(node) = todo.pop() {
            let inode = &mut self.inodes[node.0 as usize];
            inode.links -= 1;
            match &mut inode.body {
                Body::Directory(number) => {
                    let names = std::mem::take(&mut self.dirs[*number as usize].names);
                    todo.extend(names.into_values());
                }
                Body::Flat { tail, .. } if inode.links == 0 => *tail = Box::default(),
                Body::Chunks { runs, .. } if inode.links == 0 => *runs = Box::default(),
                _ => {}
            }
        }
        Ok(())
    }
}

fn number(field: &'static str, value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::TooLarge {
        field,
        value: value as u64,
        limit: u32::MAX.into(),
    })
}
