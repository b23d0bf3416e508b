//! Why keeping, planning or mounting a layer failed.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::Slot;

/// A failure of a driver or of a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// The attempted operation, such as "create directory".
        attempt: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// Content that was written to a layer did not reach the disk, and is gone.
    #[error("write {} to the disk", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
    /// A layer was written to after it was frozen, through a descriptor that was open before.
    #[error("{} was written to after it was committed; remove it, and make it anew", path.display())]
    Altered {
        /// Its directory.
        path: PathBuf,
    },
    /// The image of a layer is not what was written, or gone.
    #[error("the image {} of layer {} cannot be used: {problem}", path.display(), slot.0)]
    BadImage {
        /// The layer.
        slot: Slot,
        /// Its image.
        path: PathBuf,
        /// The fault.
        problem: String,
    },
    /// The file system that holds content to a size is not what was made, or gone.
    #[error(
        "the file system in {} cannot be used: {problem}; put it back from a backup, or remove what is in it",
        path.display()
    )]
    BadFileSystem {
        /// Its image.
        path: PathBuf,
        /// The fault.
        problem: String,
    },
    /// A layer that is an image was written to as well, through mounts that were answered before it was
    /// unpacked.
    #[error(
        "{} was written to through mounts that were answered before a layer was unpacked into it; \
         ask for the mounts after that, as these show the layer",
        path.display()
    )]
    WrittenBeside {
        /// The directory that was written to.
        path: PathBuf,
    },
    /// Something is mounted where files were to be deleted.
    #[error("{} is a mount point; unmount it, then try again", path.display())]
    Busy {
        /// The mount point, or the directory that holds it.
        path: PathBuf,
    },
    /// A file system cannot become so large without moving what is in it.
    #[error("{} has an ext4 that can be enlarged to {most} bytes at most", path.display())]
    TooLarge {
        /// Its image.
        path: PathBuf,
        /// Most bytes that it can have.
        most: u64,
    },
    /// A disk has no room for a file system to grow.
    #[error(
        "{} needs up to {need} bytes of the disk to be enlarged, and {free} are free; nothing was changed",
        path.display()
    )]
    NoRoom {
        /// Its image.
        path: PathBuf,
        /// Bytes that it may take.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A pool of blocks has come to its reserve, which is kept for what is there.
    #[error(
        "{} has {free} of {total} bytes of {what} free, and nothing new takes the last {percent} %: \
         remove layers, or enlarge it",
        path.display()
    )]
    PoolReserve {
        /// The pool.
        path: PathBuf,
        /// Which of its parts: data or metadata.
        what: &'static str,
        /// Bytes that are free there.
        free: u64,
        /// Its bytes.
        total: u64,
        /// Share that is kept.
        percent: u64,
    },
    /// The caller wanted no more of it. What was done stays done.
    #[error("stopped before the end")]
    Stopped,
    /// The mount options would be cut off by the kernel.
    #[error(
        "mount options of {layers} lower layers take {bytes} bytes, the kernel takes {limit}; \
         a shorter root path or fewer layers would fit"
    )]
    TooLong {
        /// Length of the options in their shortest form.
        bytes: usize,
        /// Bytes the kernel takes.
        limit: usize,
        /// Number of lower layers.
        layers: usize,
    },
    /// More layers than overlayfs stacks.
    #[error("{layers} lower layers, the kernel takes {limit}; build the image with fewer layers")]
    TooDeep {
        /// Number of lower layers.
        layers: usize,
        /// Number the kernel takes.
        limit: usize,
    },
    /// A stack that no mount can express.
    #[error("cannot plan a mount: {problem}")]
    NotAStack {
        /// The missing property.
        problem: &'static str,
    },
    /// This machine, file system or configuration cannot hold layers.
    #[error("{} cannot be used for layers: {check}: {problem}; {advice}", path.display())]
    Unsuitable {
        /// Root directory, or the setting concerned.
        path: PathBuf,
        /// Name of the check that failed.
        check: &'static str,
        /// The finding.
        problem: String,
        /// The fix.
        advice: String,
    },
    /// A mount that this program does not know how to make.
    #[error("cannot mount on {}: option or type `{option}` is not known", target.display())]
    UnknownOption {
        /// Where it was to be mounted.
        target: PathBuf,
        /// The option or type.
        option: String,
    },
}

impl Error {
    /// A system call on `path` that failed with `cause`.
    #[must_use]
    pub fn io(attempt: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        Self::Io {
            attempt,
            path: path.to_owned(),
            cause: cause.into(),
        }
    }

    /// The kernel's answer, where there was one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { cause, .. } | Self::Lost { cause, .. } => Some(cause.kind()),
            _ => None,
        }
    }

    /// The kernel's answer as a number, as in errno(3).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } | Self::Lost { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }

    /// True if the disk, a pool, the inode table, a quota or a limit of this process is exhausted, so
    /// that the same call may succeed later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        if matches!(self, Self::PoolReserve { .. } | Self::NoRoom { .. }) {
            return true;
        }
        let full = [
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::EMLINK,
        ];
        self.errno()
            .is_some_and(|number| full.contains(&Errno::from_raw(number)))
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::path::Path;

    use nix::errno::Errno;

    use super::Error;

    #[test]
    fn says_what_on_which_and_why() {
        let error = Error::io("create directory", Path::new("/r/l/1"), Errno::ENOSPC);
        assert_eq!(error.to_string(), "create directory /r/l/1");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.starts_with("No space left on device"), "{cause}");
    }

    #[test]
    fn tells_full_from_broken() {
        let with = |errno| Error::io("x", Path::new("/"), errno);
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EMFILE] {
            assert!(with(errno).is_full());
        }
        for errno in [Errno::EIO, Errno::EROFS, Errno::ENOENT] {
            assert!(!with(errno).is_full());
            assert_eq!(with(errno).errno(), Some(errno as i32));
        }
        assert!(!Error::Stopped.is_full());
    }
}
