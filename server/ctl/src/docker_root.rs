//! The data root that a Docker daemon with a graph driver left: its images, volumes and containers, read
//! without changing anything.
//!
//! A root may be damaged, or made up. So each path is opened below the root's descriptor and through no
//! symlink, each file is read up to a limit, and each id is checked before it becomes part of a path.

pub(crate) mod bolt;
pub(crate) mod containers;
pub(crate) mod graph;
pub(crate) mod images;
mod names;
pub(crate) mod tar_split;
pub(crate) mod volumes;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mountinfo;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Attempts at a path while renames get in its way.
const TRIES: usize = 64;
/// Bytes of a file that holds one word, such as an id.
const MOST_OF_A_WORD: u64 = 4096;
/// Entries of a directory.
const MOST_ENTRIES: usize = 1 << 20;

/// A data root.
#[derive(Debug)]
pub(crate) struct Root {
    dir: File,
    path: PathBuf,
}

/// Something in a root that is not as Docker writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub(crate) struct Damaged {
    /// Relative to the root.
    pub(crate) path: String,
    pub(crate) problem: String,
}

impl Damaged {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        let (path, problem) = (path.into(), problem.into());
        Self { path, problem }
    }
}

impl Root {
    /// # Errors
    /// If the path leads to no directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Damaged> {
        let shown = || path.display().to_string();
        let failed = |cause: std::io::Error| Damaged::new(shown(), cause.to_string());
        let path = path.canonicalize().map_err(failed)?;
        let dir = File::open(&path).map_err(failed)?;
        match dir.metadata().map_err(failed)?.is_dir() {
            true => Ok(Self { dir, path }),
            false => Err(Damaged::new(shown(), "is no directory")),
        }
    }

    /// User that owns it.
    pub(crate) fn owner(&self) -> Result<u32, Damaged> {
        let metadata = self.dir.metadata();
        let metadata = metadata.map_err(|cause| Damaged::new(".", cause.to_string()))?;
        Ok(metadata.uid())
    }

    /// True if it is the place of a bind mount of itself, which Docker makes of its root to have it shared.
    pub(crate) fn is_mounted_on_itself(&self) -> bool {
        let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
        let parent = self.path.parent().and_then(device);
        let is_same = parent.is_some() && parent == device(&self.path);
        let mounts = mountinfo::read().unwrap_or_default();
        is_same && mounts.iter().any(|mount| mount.target == self.path)
    }

    /// Path of something in it on this host.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Content of a file; none if it is missing.
    ///
    /// # Errors
    /// If it is no regular file, has more than `most` bytes, or cannot be read.
    pub(crate) fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, Damaged> {
        let Some(file) = self.file(path)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let read = file.take(most + 1).read_to_end(&mut content);
        read.map_err(|cause| Damaged::new(path, cause.to_string()))?;
        match content.len() as u64 > most {
            true => Err(Damaged::new(path, format!("has more than {most} bytes"))),
            false => Ok(Some(content)),
        }
    }

    /// As [`read`](Self::read), of a file that has to be there.
    pub(crate) fn need(&self, path: &str, most: u64) -> Result<Vec<u8>, Damaged> {
        let content = self.read(path, most)?;
        content.ok_or_else(|| Damaged::new(path, "is missing"))
    }

    /// The word in a file, which has to be there.
    pub(crate) fn word(&self, path: &str) -> Result<String, Damaged> {
        let content = self.need(path, MOST_OF_A_WORD)?;
        let text = String::from_utf8(content);
        let text = text.map_err(|_| Damaged::new(path, "is not text"))?;
        Ok(text.trim().to_owned())
    }

    /// A regular file; none if it is missing.
    pub(crate) fn file(&self, path: &str) -> Result<Option<File>, Damaged> {
        // Without waiting, should it be a FIFO.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let Some(file) = open(self.dir.as_fd(), path, flags, INSIDE)? else {
            return Ok(None);
        };
        let metadata = file.metadata();
        let metadata = metadata.map_err(|cause| Damaged::new(path, cause.to_string()))?;
        match metadata.is_file() {
            true => Ok(Some(file)),
            false => Err(Damaged::new(path, "is no regular file")),
        }
    }

    /// A directory; none if it is missing.
    pub(crate) fn directory(&self, path: &str) -> Result<Option<File>, Damaged> {
        open(self.dir.as_fd(), path, OFlag::O_DIRECTORY, INSIDE)
    }

    /// Names in a directory, sorted; none if it is missing.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, Damaged> {
        let Some(dir) = self.directory(path)? else {
            return Ok(Vec::new());
        };
        let failed = |cause: std::io::Error| Damaged::new(path, cause.to_string());
        let shown = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(shown).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().into_string();
            names.push(
                name.map_err(|name| Damaged::new(path, format!("{name:?} is no name here")))?,
            );
            if names.len() > MOST_ENTRIES {
                let problem = format!("has more than {MOST_ENTRIES} entries");
                return Err(Damaged::new(path, problem));
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Below a directory, through no symlink.
const INSIDE: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);
/// With the directory as `/`, so that symlinks lead nowhere else.
const AS_ROOT: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// Opens `path` below `dir`; none if it is missing.
fn open<P: AsRef<Path>>(
    dir: BorrowedFd<'_>,
    path: P,
    flags: OFlag,
    resolve: ResolveFlag,
) -> Result<Option<File>, Damaged> {
    let path = path.as_ref();
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let mut cause = Errno::EAGAIN;
    for _ in 0..TRIES {
        cause = match openat2(dir, path, how) {
            Ok(opened) => return Ok(Some(opened.into())),
            Err(Errno::ENOENT) => return Ok(None),
            Err(again @ (Errno::EAGAIN | Errno::EINTR)) => again,
            Err(other) => {
                cause = other;
                break;
            }
        };
    }
    let problem = match cause {
        Errno::ELOOP => "is a symlink, or lies behind one".to_owned(),
        Errno::EXDEV => "leads out of the root".to_owned(),
        Errno::ENOTDIR => "is no directory, or lies below what is none".to_owned(),
        other => other.desc().to_owned(),
    };
    Err(Damaged::new(path.display().to_string(), problem))
}

/// The hexadecimal digits of an id, of a SHA-256 with or without its prefix.
fn digits(id: &str) -> Option<&str> {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == 64 && digits.bytes().all(is_digit)).then_some(digits)
}

/// `sha256:` and the digits.
fn digest(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(content);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Parses a JSON file of the root.
fn parsed<'c, T: serde::Deserialize<'c>>(path: &str, content: &'c [u8]) -> Result<T, Damaged> {
    let parsed = serde_json::from_slice(content);
    parsed.map_err(|cause| Damaged::new(path, format!("is not what Docker writes: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::Root;

    #[test]
    fn nothing_is_read_through_symlinks_or_past_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("image")).unwrap();
        std::fs::write(dir.path().join("image/word"), "word\n").unwrap();
        assert_eq!(root.word("image/word").unwrap(), "word");
        assert_eq!(root.read("image/none", 1).unwrap(), None);
        let said = |path: &str| root.read(path, 3).unwrap_err().to_string();
        assert_eq!(said("image/word"), "image/word: has more than 3 bytes");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("word", dir.path().join("image/link")).unwrap();
        assert!(said("out/hostname").ends_with("is a symlink, or lies behind one"));
        assert!(said("image/link").ends_with("is a symlink, or lies behind one"));
        assert_eq!(said("../x"), "../x: leads out of the root");
        assert_eq!(said("image"), "image: is no regular file");
        assert!(said("image/word/x").contains("is no directory"));
        assert_eq!(root.names("image").unwrap(), ["link", "word"]);
        assert!(root.names("none").unwrap().is_empty());
    }
}
