//! Why a tree could not be copied, written or read.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// A failure. Paths are relative to the root of the tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// The attempted operation, such as "create directory".
        attempt: Cow<'static, str>,
        /// Its file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// There is nothing of this name in any layer, or it was deleted by one above.
    #[error("there is no {} in the source", path.display())]
    Missing {
        /// The first component that is not there, with those before it.
        path: PathBuf,
    },
    /// A directory was wanted.
    #[error("{} in the source is {found}, not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// Its type, such as "a symlink".
        found: &'static str,
    },
    /// A path that leaves the tree, or is none.
    #[error("`{}` is not a path within a tree", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
    },
    /// The path of a file is longer than the kernel takes, counted from the root of the tree.
    #[error("a path of {length} bytes, the kernel takes {limit}; it begins with {}", path.display())]
    TooLong {
        /// Its first 200 bytes.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// Something is mounted inside the source; what is below it is not part of the tree.
    #[error("{} is a mount point; unmount it, then try again", path.display())]
    MountPoint {
        /// Where.
        path: PathBuf,
    },
    /// The layers were made with a feature of overlayfs that layerd never turns on.
    #[error("{} was made by an overlay mount with {feature}, which is not supported", path.display())]
    Feature {
        /// The file concerned.
        path: PathBuf,
        /// The needed feature.
        feature: &'static str,
    },
    /// A file belongs to an id that the container cannot have.
    #[error(
        "{} belongs to {kind} {id} of the host, which is none of the snapshot's id mapping; give it an \
         owner of the container, or the container a larger range (/etc/subuid, /etc/subgid)",
        path.display()
    )]
    Unmapped {
        /// The file.
        path: PathBuf,
        /// "user" or "group".
        kind: &'static str,
        /// The id on the host.
        id: u32,
    },
    /// A directory was moved or replaced while it was in use.
    #[error("{} was replaced by another process meanwhile", path.display())]
    Changed {
        /// Which one.
        path: PathBuf,
    },
    /// Reading the archive's stream, or writing it, failed.
    #[error("{attempt} the archive at byte {offset}")]
    Stream {
        /// The attempted operation, such as "read".
        attempt: &'static str,
        /// Bytes before.
        offset: u64,
        /// The stream's error.
        #[source]
        cause: io::Error,
    },
    /// The stream ends within the archive.
    #[error("the archive ends at byte {offset}, before its end mark")]
    Truncated {
        /// Length of what there is.
        offset: u64,
    },
    /// The stream is no tar archive, a damaged one, or of a kind that is not known.
    #[error("bad archive at byte {offset}: {problem}")]
    Malformed {
        /// Where the header begins that makes no sense.
        offset: u64,
        /// The fault.
        problem: &'static str,
    },
    /// The archive was altered since layerd wrote it.
    #[error("the archive is damaged: {problem}")]
    Damaged {
        /// The evidence.
        problem: &'static str,
    },
    /// A file in the archive that would not stay in the tree, or must not be there.
    #[error("refused `{}` in the archive: {problem}", path.display())]
    Refused {
        /// The file, at most 200 bytes of its path.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// The archive holds more than the caller allows.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// The counted unit, such as "files".
        what: &'static str,
        /// The allowed number.
        limit: u64,
    },
    /// A layer asks for more than one of the [`Limits`](crate::apply::Limits) allows.
    #[error("the layer has more than {limit} {bound}")]
    Beyond {
        /// Which one.
        bound: Bound,
        /// The allowed amount.
        limit: u64,
    },
    /// The blob cannot be decompressed: it is damaged, truncated, or of another kind.
    #[error("decompress the blob at byte {offset}")]
    Compressed {
        /// Bytes of it that were read by then, at most some 100 KiB past the damage.
        offset: u64,
        /// The fault.
        #[source]
        cause: io::Error,
    },
    /// The blob has another length than was said.
    #[error("the blob has {found} bytes, not {wanted}")]
    Length {
        /// Expected length.
        wanted: u64,
        /// Actual length; if that is more, the bytes read of it.
        found: u64,
    },
    /// The blob is another one than was said.
    #[error("the blob is sha256:{found}, not sha256:{wanted}")]
    Digest {
        /// Expected digest, in hexadecimal.
        wanted: String,
        /// Actual digest.
        found: String,
    },
    /// The manifest of a layer cannot be used: it was cut off or damaged.
    #[error("the manifest is of no use: {problem}")]
    BadFileDigests {
        /// The evidence.
        problem: &'static str,
    },
    /// A file, or the whole, cannot be stored in an image, or writing the image failed.
    #[error("store {} in the image", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The fault.
        #[source]
        cause: crate::erofs::Error,
    },
    /// The caller wanted no more of it. What was done stays done.
    #[error("stopped before the end")]
    Stopped,
}

/// A limited quantity of a layer, one for each of the [`Limits`](crate::apply::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Bytes when decompressed.
    Bytes,
    /// Names.
    Entries,
    /// Directories.
    Directories,
    /// Bytes out of each byte of the blob.
    Ratio,
    /// Bytes of the window of a Zstandard frame.
    Window,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Bytes => "bytes",
            Self::Entries => "entries",
            Self::Directories => "directories",
            Self::Ratio => "bytes for each byte of the blob",
            Self::Window => "bytes in the window of a Zstandard frame",
        })
    }
}

impl Error {
    pub(crate) fn io(
        attempt: impl Into<Cow<'static, str>>,
        path: &Path,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            attempt: attempt.into(),
            path: shown(path),
            cause: cause.into(),
        }
    }

    /// The kernel's answer as a number, as in errno(3), where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } => cause.raw_os_error(),
            Self::Image { cause, .. } => cause.errno(),
            _ => None,
        }
    }

    /// True if the disk, the inode table, a quota or a limit of this process is exhausted, so that
    /// the same call may succeed later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
        ];
        self.errno().is_some_and(|number| full.contains(&number))
    }
}

/// The root of a tree has no name of its own.
pub(crate) fn shown(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::path::Path;

    use rustix::io::Errno;

    use super::Error;

    #[test]
    fn says_what_on_which_and_why() {
        let error = Error::io("create directory", Path::new("a/b"), Errno::NOSPC);
        assert_eq!(error.to_string(), "create directory a/b");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.starts_with("No space left on device"), "{cause}");
        assert!(error.is_full());
        let root = Error::io("read directory", Path::new(""), Errno::IO);
        assert_eq!(root.to_string(), "read directory .");
        assert!(!root.is_full());
    }
}
