//! Unpacks a layer of an image into the directory that overlayfs will show.
//!
//! What comes out is what containerd's own differ makes of the same blob when it writes straight
//! into the upper directory of an overlay mount: the rules, and where we differ on purpose, stand
//! in `apply/extract.rs`. What differs is how: the blob is read, decompressed, hashed, parsed and
//! written by threads of their own, with bounded queues between them, and every file is made by
//! name in an open directory, so that no path is resolved again and again.
//!
//! One thread makes all names, in the order of the archive. Only content and attributes of small
//! files are left to others, by descriptor: nothing depends on which of them is faster.
//!
//! The blob is hostile until proven otherwise. Nothing outside of the layer's directory changes,
//! whatever it says; memory is bounded, whatever it claims. When [`apply()`] fails, what the
//! directory holds by then is of no use, and must be thrown away.

use std::fmt;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::copy::Markers;
use crate::durable::Durable;
use crate::error::{Bound, Error};
use crate::progress::{Progress, Silent};

pub use image::{ImageTarget, TOP as IMAGE_TOP, apply_image};
pub use inherit::{Rebase, Rebased, delete_whiteouts, inherit};

/// Compression of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all; but what begins as one of the others, and not as an archive, is taken for that.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard, of one or more frames; skippable ones are passed over.
    Zstd,
    /// By its first bytes, as containerd does for every media type that means compressed.
    #[default]
    Detect,
}

/// Handling of whiteout entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Devices 0:0 and marks on directories, as overlayfs reads them; or names, as AUFS does.
    Devices(Markers),
    /// Executed: the named file is deleted, for a directory that is used without overlayfs.
    Delete,
}

/// Where a layer goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The directory. No other process may change it meanwhile.
    pub layer: BorrowedFd<'a>,
    /// The layers below, nearest first. They are only read.
    pub lowers: &'a [BorrowedFd<'a>],
    /// Handling of deletions.
    pub whiteouts: Whiteouts,
}

/// Limits for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of it when decompressed.
    pub most_bytes: u64,
    /// Names it may make, directories that it only implies included.
    pub most_entries: u64,
    /// Directories among them; about 150 bytes of memory each.
    pub most_directories: u64,
    /// Bytes that one byte of the blob may become, on the whole; where the length of the blob is not
    /// known, at any time. The first 16 MiB are free, and so are runs of zeros of 64 KiB or
    /// more, which take no disk.
    pub most_ratio: u64,
    /// Bytes of memory for the window of a Zstandard frame. Of those above 128 MiB there is one at
    /// a time in the process.
    pub most_window: u64,
}

impl Limits {
    /// Refuses the name that makes them more than a layer may have.
    fn check_entries(&self, entries: u64) -> Result<(), Error> {
        let (bound, limit) = (Bound::Entries, self.most_entries);
        match entries <= limit {
            true => Ok(()),
            false => Err(Error::Beyond { bound, limit }),
        }
    }
}

impl Default for Limits {
    /// Those of memory, and the ratio: no deflate stream passes 1032, and no layer that means well
    /// comes near that with Zstandard, but for zeros.
    fn default() -> Self {
        Self {
            most_bytes: u64::MAX,
            most_entries: u64::MAX,
            most_directories: 1 << 20,
            most_ratio: 2000,
            most_window: 512 << 20,
        }
    }
}

/// Expected properties of the blob, which are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blob {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its digest, compressed as it is.
    pub sha256: Option<[u8; 32]>,
}

/// Receiver of file digests. Called from several threads; for the same path in the order of the
/// archive, and a later call replaces an earlier one.
pub trait DigestSink: Sync {
    /// The file at `path`, relative to the layer and with no symlink on the way, has `size` bytes.
    /// `digest` is XXH3 (128 bits) of them; of a sparse file it is not known.
    fn file(&self, path: &[u8], size: u64, digest: Option<u128>);

    /// `path` is another name of the file at `target`, which may be of any type but a directory.
    fn link(&self, path: &[u8], target: &[u8]);

    /// The file or directory at `path` was removed again, with all below.
    fn gone(&self, path: &[u8]);
}

/// Options of [`apply()`].
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Compression of the blob.
    pub compression: Compression,
    /// Expected length and digest.
    pub blob: Blob,
    /// Limits for the layer.
    pub limits: Limits,
    /// Durability on return.
    pub durable: Durable,
    /// Threads that write small files, besides those that always are there; 0 stands for one.
    pub workers: usize,
    /// Receiver of progress, which may cancel: names made, and bytes of the decompressed stream.
    pub progress: &'a dyn Progress,
    /// Receiver of file digests. Costs a hash of all content.
    pub digests: Option<&'a dyn DigestSink>,
    /// Leaves out entries for devices, as containerd does in a user namespace, where none can be made: as
    /// if the archive did not have them.
    pub leaves_out_devices: bool,
}

impl Default for Options<'_> {
    /// Detected compression, no expected length or digest, the default limits, nothing durable, one
    /// worker, no progress, devices as other files.
    fn default() -> Self {
        Self {
            compression: Compression::Detect,
            blob: Blob::default(),
            limits: Limits::default(),
            durable: Durable::No,
            workers: 1,
            progress: &Silent,
            digests: None,
            leaves_out_devices: false,
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Options");
        shown.field("compression", &self.compression);
        shown.field("blob", &self.blob);
        shown.field("limits", &self.limits);
        shown.field("durable", &self.durable);
        shown.field("workers", &self.workers);
        shown.field("leaves_out_devices", &self.leaves_out_devices);
        shown.finish_non_exhaustive()
    }
}

/// Result of [`apply()`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// SHA-256 of the decompressed stream, to its very end.
    pub diff_id: [u8; 32],
    /// Length of that stream in bytes.
    pub size: u64,
    /// Bytes of disk that the layer takes, its top directory included: blocks of 512 bytes, each
    /// inode counted once.
    pub bytes: u64,
    /// Inodes of the layer, its top directory included.
    pub inodes: u64,
    /// Directories that were made only because something lies in them, and that no lower layer
    /// had: they are 0755 and belong to root. Relative to the layer, parents first.
    pub implied: Vec<Vec<u8>>,
    /// Whiteout devices that were made, relative to the layer; none if their names take more than
    /// 16 MiB.
    pub whiteouts: Option<Vec<Vec<u8>>>,
    /// Set if the archive has an entry for the root directory.
    pub top: bool,
    /// Devices that were left out, and the path of the first.
    pub left_out: u64,
    /// See [`left_out`](Self::left_out).
    pub first_left_out: Option<PathBuf>,
}

/// Unpacks the blob that `source` yields into the directory `target.layer`.
///
/// `source` is read to its end. With [`Durable::Content`] all content is on the disk on return,
/// and one wait by the caller makes the layer durable.
///
/// Takes five threads and `options.workers`, of which two are busy all the time; about 600 file
/// descriptors; memory for each directory of the layer (about 150 bytes), for each entry where
/// deletions are executed in a directory that was not empty (about 30), the window that a Zstandard
/// frame asks for, and 32 MiB at most for all else.
///
/// # Errors
/// [`Error::Compressed`] for a damaged or truncated blob, [`Error::Digest`] and
/// [`Error::Length`] for one that is not what `options.blob` says; [`Error::Truncated`] and
/// [`Error::Malformed`] for a damaged archive in it; [`Error::Refused`] and [`Error::TooLong`] for
/// an entry that cannot be; [`Error::Beyond`]; [`Error::Stopped`] when the progress says so;
/// [`Error::Stream`] if `source` fails; else [`Error::Io`], failed write-back included. Nothing
/// outside of the layer has changed; what is in it is incomplete.
pub fn apply(
    source: impl Read + Send,
    target: &Target<'_>,
    options: &Options<'_>,
) -> Result<Applied, Error> {
    run::run(source, target, options)
}

mod attributes;
mod below;
mod dirs;
mod extract;
mod image;
mod implied;
mod inherit;
mod names;
mod queue;
mod remove;
mod run;
mod shared;
mod stream;
mod write;
mod write_back;
mod zstd;

#[cfg(test)]
mod tests;
