//! Listings of directory trees, for comparison.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// Type and content of a path, without its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A regular file: its size, the hash of its bytes, and the first path (in the order of the
    /// tree) of the same inode.
    File {
        /// Bytes.
        size: u64,
        /// Hash of the content.
        hash: u64,
        /// Path of the first name of this inode; its own if it has one name.
        first: String,
    },
    /// A symbolic link and what it points to.
    Symlink(PathBuf),
    /// A character device.
    Character(u64),
    /// A block device.
    Block(u64),
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and content.
    pub content: Content,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes in all name spaces.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A tree: its paths relative to the top, which is "".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    /// Reads a directory. Mounts below it are walked into.
    ///
    /// # Panics
    /// If anything in it cannot be read.
    #[must_use]
    pub fn read(top: &Path) -> Self {
        Self::try_read(top).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Reads a directory that may be deleted meanwhile. Mounts below it are walked into.
    ///
    /// # Errors
    /// The first path that cannot be read, and why.
    ///
    /// # Panics
    /// If a name is not text.
    pub fn try_read(top: &Path) -> Result<Self, String> {
        let mut nodes = BTreeMap::new();
        visit(top, "", &mut nodes)?;
        let mut first: BTreeMap<(u64, u64), String> = BTreeMap::new();
        let nodes = nodes.into_iter().map(|(path, (inode, mut node))| {
            let name = first.entry(inode).or_insert_with(|| path.clone());
            if let Content::File { first, .. } = &mut node.content {
                first.clone_from(name);
            }
            (path, node)
        });
        Ok(Self(nodes.collect()))
    }

    /// Requires that two trees are equal.
    ///
    /// # Panics
    /// With the paths that differ and how, otherwise.
    pub fn assert_equals(&self, wanted: &Self) {
        let mut report = String::new();
        for path in self.0.keys().chain(wanted.0.keys()) {
            let (have, want) = (self.0.get(path), wanted.0.get(path));
            if have != want {
                let _ = writeln!(report, "{path:?}:\n  is     {have:?}\n  wanted {want:?}");
            }
        }
        assert!(report.is_empty(), "the trees differ:\n{report}");
    }
}

type Found = BTreeMap<String, ((u64, u64), Node)>;

fn visit(path: &Path, relative: &str, found: &mut Found) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let meta = std::fs::symlink_metadata(path).map_err(told)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(told)? {
            let name = entry.map_err(told)?.file_name();
            let name = name.to_str().expect("names in the tests' images are text");
            let below = if relative.is_empty() {
                name.into()
            } else {
                format!("{relative}/{name}")
            };
            visit(&path.join(name), &below, found)?;
        }
    }
    let node = Node {
        content: content(path, &meta).map_err(told)?,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        xattrs: try_xattrs(path).map_err(told)?,
    };
    found.insert(relative.into(), ((meta.dev(), meta.ino()), node));
    Ok(())
}

fn content(path: &Path, meta: &Metadata) -> io::Result<Content> {
    let kind = meta.file_type();
    Ok(if kind.is_dir() {
        Content::Directory
    } else if kind.is_symlink() {
        Content::Symlink(std::fs::read_link(path)?)
    } else if kind.is_char_device() {
        Content::Character(meta.rdev())
    } else if kind.is_block_device() {
        Content::Block(meta.rdev())
    } else if kind.is_fifo() {
        Content::Pipe
    } else if kind.is_socket() {
        Content::Socket
    } else {
        let bytes = std::fs::read(path)?;
        Content::File {
            size: meta.len(),
            hash: hash(&bytes),
            first: String::new(),
        }
    })
}

/// The hash a tree keeps of a file's bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The extended attributes of a file, in all name spaces.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    try_xattrs(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn try_xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(&path, &mut names[..])?;
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..])?;
            value.truncate(length);
            Ok((String::from_utf8_lossy(name).into_owned(), value))
        })
        .collect()
}
