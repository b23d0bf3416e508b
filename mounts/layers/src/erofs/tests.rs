//! Images written from trees, and read back: by the reader here, by the kernel (`root_*`) and by
//! erofs-utils.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Attributes, FileType, Image, Node, Options, ReadAt, Special, Writer};
use crate::copy::next_data;
use crate::node::{self, Identity, Kind, Stat};
use crate::test_support::{Manifest, Seen};

mod files;
mod hostile;
pub(crate) mod kernel;
mod limits;
mod peers;
mod trees;

type Memory = Writer<Cursor<Vec<u8>>>;

fn writer() -> Memory {
    Writer::new(Cursor::new(Vec::new()), Options::default()).unwrap()
}

fn finish(writer: Memory) -> Vec<u8> {
    let (out, summary) = writer.finish().unwrap();
    let image = out.into_inner();
    assert_eq!(image.len() as u64, summary.bytes);
    image
}

/// Attributes that nothing depends on.
fn plain(permissions: u16) -> Attributes {
    Attributes {
        permissions,
        modified: (1_700_000_000, 123_456_789),
        ..Attributes::default()
    }
}

/// Adds a file with this content.
fn add(writer: &mut Memory, parent: Node, name: &str, content: &[u8]) -> Node {
    let size = content.len() as u64;
    let file = writer.file(parent, name.as_bytes(), &plain(0o644), size);
    let mut file = file.unwrap();
    file.write(content).unwrap();
    file.finish().unwrap()
}

fn attributes(stat: &Stat, xattrs: node::Xattrs) -> Attributes {
    let xattrs = xattrs.into_iter();
    Attributes {
        permissions: u16::try_from(stat.permissions()).unwrap(),
        uid: stat.uid,
        gid: stat.gid,
        modified: (
            stat.modified.tv_sec,
            u32::try_from(stat.modified.tv_nsec).unwrap(),
        ),
        xattrs: xattrs
            .map(|(name, value)| (name.into_bytes(), value))
            .collect(),
    }
}

/// Writes a directory of the disk as an image.
fn pack<W: std::io::Write + std::io::Seek>(writer: &mut Writer<W>, root: &Path) {
    let mut known: HashMap<Identity, Node> = HashMap::new();
    let mut todo = vec![(root.to_owned(), Writer::<W>::ROOT)];
    let (_, top) = look(root);
    writer.set(Writer::<W>::ROOT, &top).unwrap();
    while let Some((dir, parent)) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().as_bytes().to_vec();
            let (stat, given) = look(&path);
            if let Some(node) = known.get(&stat.identity()) {
                writer.link(parent, &name, *node).unwrap();
                continue;
            }
            let node = one(writer, parent, &name, &path, &stat, &given);
            if stat.kind() == Kind::Directory {
                todo.push((path, node));
            } else if stat.links > 1 {
                known.insert(stat.identity(), node);
            }
        }
    }
}

fn look(path: &Path) -> (Stat, Attributes) {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let stat = node::stat(found.as_fd()).unwrap();
    let xattrs = node::xattrs(found.as_fd()).unwrap();
    (stat, attributes(&stat, xattrs))
}

fn one<W: std::io::Write + std::io::Seek>(
    writer: &mut Writer<W>,
    parent: Node,
    name: &[u8],
    path: &Path,
    stat: &Stat,
    given: &Attributes,
) -> Node {
    let (major, minor) = stat.number;
    let special = match stat.kind() {
        Kind::Directory => return writer.directory(parent, name, given).unwrap(),
        Kind::Symlink => {
            let target = fs::read_link(path).unwrap();
            let target = target.as_os_str().as_bytes();
            return writer.symlink(parent, name, given, target).unwrap();
        }
        Kind::Regular => {
            let mut out = writer.file(parent, name, given, stat.size).unwrap();
            let mut file = File::open(path).unwrap();
            let mut at = 0;
            while let Some((start, end)) = next_data(file.as_fd(), at, stat.size).unwrap() {
                out.hole(start - at).unwrap();
                let mut data = vec![0; usize::try_from(end - start).unwrap()];
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(start)).unwrap();
                file.read_exact(&mut data).unwrap();
                out.write(&data).unwrap();
                at = end;
            }
            out.hole(stat.size - at).unwrap();
            return out.finish().unwrap();
        }
        Kind::Character => Special::Character(major, minor),
        Kind::Block => Special::Block(major, minor),
        Kind::Fifo => Special::Fifo,
        Kind::Socket => Special::Socket,
    };
    writer.special(parent, name, given, special).unwrap()
}

/// All of an image as our reader sees it, in the form of a tree on the disk.
pub(crate) fn seen<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Manifest {
    let mut all = Manifest::new();
    let mut names: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    for file in image.walk() {
        let (path, inode) = file.unwrap();
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let mut xattrs: node::Xattrs = image
            .xattrs(&inode)
            .unwrap()
            .into_iter()
            .map(|(name, value)| (CString::new(name).unwrap(), value))
            .collect();
        xattrs.sort();
        let (kind, mut content) = (kind(inode.kind), Vec::new());
        match inode.kind {
            FileType::Symlink => content = image.target(&inode).unwrap(),
            FileType::Regular => {
                content.resize(usize::try_from(inode.size).unwrap(), 1);
                let read = image.read(&inode, &mut content, 0).unwrap();
                assert_eq!(read, content.len());
            }
            _ => {}
        }
        names.entry(inode.number).or_default().push(path.clone());
        let file = Seen {
            kind,
            permissions: inode.permissions.into(),
            owner: (inode.uid, inode.gid),
            modified: (inode.modified.0, inode.modified.1.into()),
            accessed: None,
            number: inode.device,
            xattrs,
            content,
            pieces: Vec::new(),
            first: path.clone(),
        };
        all.insert(path, file);
    }
    for names in names.values() {
        for name in names {
            all.get_mut(name).unwrap().first = names.iter().min().unwrap().clone();
        }
    }
    all
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::Regular => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Character => Kind::Character,
        FileType::Block => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
    }
}

/// A tree without what an image does not keep: access times, and holes below 64 KiB.
pub(crate) fn kept(manifest: Manifest) -> Manifest {
    crate::test_support::without(manifest, |seen| {
        seen.accessed = None;
        seen.pieces.clear();
    })
}
