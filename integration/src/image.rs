//! Images made for the tests, as OCI layouts in a tar file, and the tree each must unpack to.

pub mod layout;
mod model;
mod samples;
pub mod tar;

use std::path::{Path, PathBuf};

pub(crate) use layout::architecture;
pub use model::apply;
pub use samples::{busybox, corpus, tiny};

use crate::tree::Tree;

/// Type of an archive entry.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and what it points to.
    Symlink(String),
    /// One more name for an earlier path of the same layer.
    HardLink(String),
    /// A character device: major, minor.
    Character(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
}

/// One entry of a layer's archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path relative to the top of the tree; a last part `.wh.NAME` deletes NAME from the layers
    /// below, `.wh..wh..opq` everything that they have in the directory.
    pub path: String,
    /// Its type.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// An entry that belongs to root, with mode 0755 for directories and 0644 for others.
    #[must_use]
    pub fn new(path: impl Into<String>, kind: Kind) -> Self {
        let mode = match kind {
            Kind::Directory => 0o755,
            Kind::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
        }
    }

    /// A directory.
    #[must_use]
    pub fn directory(path: impl Into<String>) -> Self {
        Self::new(path, Kind::Directory)
    }

    /// A regular file.
    #[must_use]
    pub fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::File(bytes.into()))
    }

    /// A symbolic link to `target`.
    #[must_use]
    pub fn symlink(path: impl Into<String>, target: &str) -> Self {
        Self::new(path, Kind::Symlink(target.into()))
    }

    /// One more name for the path `target` of the same layer, whose attributes it shares.
    #[must_use]
    pub fn hard_link(path: impl Into<String>, target: &str) -> Self {
        Self::new(path, Kind::HardLink(target.into()))
    }

    /// Sets the mode.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets owner and group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.into(), value.into()));
        self
    }
}

/// The entries of one layer, in the order of the archive.
pub type Layer = Vec<Entry>;

/// Layers without the attributes that the file system of the directory `disk` does not take: tmpfs has those
/// of users from Linux 6.6 on, and containerd logs them and goes on without.
///
/// # Panics
/// If no file can be made there.
#[must_use]
pub fn fitting(layers: &[Layer], disk: &Path) -> Vec<Layer> {
    let tried = tempfile::NamedTempFile::new_in(disk).expect("a file on the disk");
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::fsetxattr(tried.as_file(), "user.tried", b"x", flags);
    let mut layers = layers.to_vec();
    if set == Err(rustix::io::Errno::OPNOTSUPP) {
        for entry in layers.iter_mut().flatten() {
            entry.xattrs.retain(|(name, _)| !name.starts_with("user."));
        }
    }
    layers
}

/// Writes the archive of one layer, as `docker import` takes it.
///
/// # Panics
/// If the file cannot be written.
pub fn write_layer(file: &Path, layer: &[Entry]) {
    std::fs::write(file, tar::archive(layer)).expect("the archive can be written");
}

/// An image as a tar file that `ctr images import` and `docker load` take.
#[derive(Debug)]
pub struct Image {
    reference: String,
    archive: PathBuf,
    chain: Vec<String>,
    tree: Tree,
}

impl Image {
    /// Writes the image `reference` (such as `docker.io/test/app:1`) into `dir`.
    ///
    /// # Panics
    /// If `dir` cannot be written.
    #[must_use]
    pub fn build(dir: &Path, reference: &str, layers: &[Layer]) -> Self {
        let (archive, chain) = layout::write(dir, reference, layers);
        let mut tree = model::bare();
        for layer in layers {
            apply(&mut tree, layer);
        }
        Self {
            reference: reference.into(),
            archive,
            chain,
            tree,
        }
    }

    /// The name it is imported under.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The tar file.
    #[must_use]
    pub fn archive(&self) -> &str {
        self.archive.to_str().expect("scratch paths are text")
    }

    /// The chain ids of its layers (`sha256:` and hex), the base first. containerd names the
    /// committed snapshots after them.
    #[must_use]
    pub fn chain(&self) -> &[String] {
        &self.chain
    }

    /// The chain id of the last layer, under which the whole image can be mounted.
    ///
    /// # Panics
    /// If it has no layers.
    #[must_use]
    pub fn top(&self) -> &str {
        self.chain.last().expect("an image has layers")
    }

    /// Expected content of the unpacked image.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}
