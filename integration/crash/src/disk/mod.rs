//! Cuts the power of a disk at any moment.
//!
//! A [`Recorder`] mounts ext4, xfs or btrfs from a loop device over a FUSE file that this process serves,
//! by direct I/O: what the file system sends to its disk arrives here in order, every flush
//! included, and is logged. [`Recording`] then builds the images that a power cut could have left: all
//! that was written before the last completed flush, and of the later writes none, all, the
//! first few, a random half, or a random half of their 4 KiB pieces. Each image is mounted as
//! after a reboot, with the kernel's journal recovery (an ext4 without a journal is repaired by
//! e2fsck before), and looked at.
//!
//! Needs root, /dev/fuse, a free loop device, and mkfs of the file system. Should the process be
//! killed, its mounts stay and answer with errors: run it in a mount namespace of its own.

mod cut;
mod device;
mod image;
mod log;
mod recorder;
mod serve;

use std::io;
use std::path::PathBuf;

pub use cut::{Cut, Later};
pub use device::Filesystem;
pub use image::{Image, Mounted, Recording};
pub use recorder::{Marker, Recorder};

/// Errors of a recorded disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the recorder itself could not be read or written.
    #[error("{what} {path}")]
    File {
        /// The attempted operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
    /// A helper program failed.
    #[error("{command} ended with {status}: {stderr}")]
    Program {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its standard error.
        stderr: String,
    },
    /// A mount or its end failed. For an image this means that the file system did not recover.
    #[error("{what} {path}: {cause}")]
    Mount {
        /// The attempted operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: nix::Error,
    },
    /// The kernel set the loop device up in a way that would hide writes or flushes.
    #[error("loop device {device} has {attribute} {found:?} in place of {wanted:?}")]
    Device {
        /// Its name in /dev.
        device: String,
        /// Attribute in sysfs.
        attribute: &'static str,
        /// Its value.
        found: String,
        /// The value needed.
        wanted: &'static str,
    },
}

pub(crate) fn at(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |cause| Error::File { what, path, cause }
}
