//! Disks of a pool.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};

use layerd_mounts::sys::loop_device;
use nix::sys::stat::{major, minor};

use super::super::failed;
use crate::error::Error;
use crate::text::escape;

/// Bytes at the start of a disk that are looked at for something that is on it.
const HEAD: usize = 128 << 10;

/// A disk that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File { path: PathBuf, bytes: u64 },
    Device(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, bytes } => {
                let path = escape(&path.display().to_string());
                write!(formatter, "{bytes} bytes in the file {path}")
            }
            Self::Device(path) => {
                write!(
                    formatter,
                    "the device {}",
                    escape(&path.display().to_string())
                )
            }
        }
    }
}

/// A block device that is there.
#[derive(Debug)]
pub(super) struct Disk {
    /// Path of the device; of a file that of its loop device.
    pub(super) path: PathBuf,
    pub(super) sectors: u64,
    /// Set if a file was made larger now.
    pub(super) has_grown: bool,
    number: (u64, u64),
    /// Keeps a loop device until the pool has it.
    open: File,
}

impl Disk {
    /// Makes a file that is missing, or larger one that is too small, and gives it a loop device, which goes
    /// away with its last user.
    pub(super) fn ready(source: &Source) -> Result<Self, Error> {
        match source {
            Source::Device(path) => {
                let open = opened(path).map_err(|cause| failed("open", path, cause))?;
                Self::of(path.clone(), open, false)
            }
            Source::File { path, bytes } => of_file(path, *bytes),
        }
    }

    fn of(path: PathBuf, open: File, has_grown: bool) -> Result<Self, Error> {
        let fail = |cause| failed("look at", &path, cause);
        let found = open.metadata().map_err(fail)?;
        if !found.file_type().is_block_device() {
            return Err(Error::Invalid {
                what: format!("use {}", path.display()),
                why: "it is no block device".to_owned(),
                hint: "For files there is --data-file SIZE.".to_owned(),
            });
        }
        let number = (major(found.rdev()), minor(found.rdev()));
        let size = format!("/sys/dev/block/{}:{}/size", number.0, number.1);
        let text = fs::read_to_string(size).map_err(fail)?;
        let sectors = text
            .trim()
            .parse()
            .map_err(|_| fail(io::ErrorKind::InvalidData.into()))?;
        Ok(Self {
            path,
            sectors,
            has_grown,
            number,
            open,
        })
    }

    /// As tables name it.
    pub(super) fn number(&self) -> String {
        format!("{}:{}", self.number.0, self.number.1)
    }

    fn head(&self) -> Result<Vec<u8>, Error> {
        let mut head = vec![0; HEAD];
        let read = self.open.read_exact_at(&mut head, 0);
        read.map_err(|cause| failed("read", &self.path, cause))?;
        Ok(head)
    }

    /// What a disk of metadata says of its pool; `None` if it is blank.
    ///
    /// # Errors
    /// [`Error::Refused`] if something else is on it.
    pub(super) fn superblock(&self) -> Result<Option<Superblock>, Error> {
        let head = self.head()?;
        match Superblock::parse(&head) {
            Some(superblock) => Ok(Some(superblock)),
            None => self.must_be_blank().map(|()| None),
        }
    }

    /// # Errors
    /// [`Error::Refused`] if something is on it.
    pub(super) fn must_be_blank(&self) -> Result<(), Error> {
        if self.head()?.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::Refused {
            what: format!("make a pool of {path}"),
            why: "something is on it".to_owned(),
            hint: format!(
                "If that may go: wipefs --all {path}, and blkdiscard or zeros for its first megabyte."
            ),
        })
    }
}

/// Start of the metadata of a pool (struct `thin_disk_superblock` of drivers/md/dm-thin-metadata.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Size of a block of data in sectors.
    pub(super) block: u64,
}

impl Superblock {
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        const MAGIC: u64 = 27_022_010;
        const MAGIC_AT: usize = 32;
        // Behind the magic: version and time, 4 bytes each, transaction and held root, 8 each, two space
        // maps of 128, two roots of 8; then this.
        const BLOCK_AT: usize = MAGIC_AT + 8 + 4 + 4 + 8 + 8 + 128 + 128 + 8 + 8;
        let magic = head.get(MAGIC_AT..MAGIC_AT + 8)?.try_into().ok()?;
        let block = head.get(BLOCK_AT..BLOCK_AT + 4)?.try_into().ok()?;
        let block = u64::from(u32::from_le_bytes(block));
        (u64::from_le_bytes(magic) == MAGIC && block > 0).then_some(Self { block })
    }
}

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn of_file(path: &Path, bytes: u64) -> Result<Disk, Error> {
    let fail = |cause| failed("make", path, cause);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(|cause| failed("make", folder, cause))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = options.open(path).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    let has_grown = found.len() < bytes;
    if has_grown {
        file.set_len(bytes).map_err(fail)?;
        file.sync_all().map_err(fail)?;
    }
    let of_loop = |cause: nix::errno::Errno| failed("make a loop device of", path, cause.into());
    let (device, open) = match loop_device::of_file(found.dev(), found.ino()).map_err(of_loop)? {
        Some(device) => {
            loop_device::refresh_size(device.clone()).map_err(of_loop)?;
            let open = opened(&device).map_err(|cause| failed("open", &device, cause))?;
            (device, open)
        }
        None => loop_device::attach_writable(file.as_fd()).map_err(of_loop)?,
    };
    Disk::of(device, open, has_grown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_told_from_others() {
        let mut head = vec![0; HEAD];
        assert_eq!(Superblock::parse(&head), None);
        head[32..40].copy_from_slice(&27_022_010_u64.to_le_bytes());
        assert_eq!(Superblock::parse(&head), None, "without a size");
        head[336..340].copy_from_slice(&128_u32.to_le_bytes());
        assert_eq!(Superblock::parse(&head), Some(Superblock { block: 128 }));
        head[32] ^= 1;
        assert_eq!(Superblock::parse(&head), None, "another magic");
        for short in [0, 33, 40, 339] {
            assert_eq!(Superblock::parse(&head[..short]), None);
        }
    }

    #[test]
    fn files_are_no_block_devices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        let refused = Disk::ready(&Source::Device(path)).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
    }
}
