//! A tree as a tar stream, and back.
//!
//! [`export()`] writes a pax archive that any tar reads: names, types, owners, device numbers, hard
//! links, sparse files (GNU.sparse 1.0), times in nanoseconds, and extended attributes, access
//! lists among them (SCHILY.xattr). Entries come in the order of their names, so the same tree
//! gives the same bytes. Sockets are left out: no archive can hold one, and without its process it
//! is nothing.
//!
//! Its first header is a global one with the comment `layerd archive 1`, its last a global one
//! with the comment `layerd sha256 HEX`: the SHA-256 of every byte before that header. Other
//! programs ignore both. [`import()`] checks it, and also takes archives that have none.
//!
//! [`import()`] trusts nothing it reads. Directories are opened one by one, none through a symlink,
//! so that whatever an archive names lies below the destination.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use crate::durable::Durable;
use crate::error::Error;
use crate::progress::{Progress, Silent};

mod export;
mod import;
pub(crate) mod write;

/// Options of [`export()`].
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// Writes access times. Without them, reading files does not change their archive.
    pub access_times: bool,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl Default for ExportOptions<'_> {
    /// With access times; no progress.
    fn default() -> Self {
        Self {
            access_times: true,
            progress: &Silent,
        }
    }
}

impl fmt::Debug for ExportOptions<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("ExportOptions");
        shown.field("access_times", &self.access_times);
        shown.finish_non_exhaustive()
    }
}

/// Result of [`export()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Length of the archive.
    pub bytes: u64,
    /// Names in it; the directory that was exported is one of them.
    pub files: u64,
    /// Sockets, which are not in it.
    pub left_out: u64,
    /// Files written to while they were read: their content may be a mixture.
    pub changed: u64,
    /// SHA-256 of the archive.
    pub sha256: [u8; 32],
}

/// Writes the tree at `dir` to `out`, and flushes it.
///
/// Costs a few system calls a file, one pass over the content, and one thread; memory for the
/// names of the directories on the way to the current one and for each file with several names.
///
/// # Errors
/// [`Error::Stream`] if `out` does; [`Error::MountPoint`], [`Error::TooLong`] and
/// [`Error::Changed`] for trees that cannot be written as a whole; [`Error::Stopped`] when the
/// progress says so; else [`Error::Io`]. What was written so far is no archive: it has no end.
pub fn export(
    dir: BorrowedFd<'_>,
    out: impl Write,
    options: &ExportOptions<'_>,
) -> Result<Exported, Error> {
    export::export(dir, out, options)
}

/// Limits and options of [`import()`].
#[derive(Clone, Copy)]
pub struct ImportOptions<'a> {
    /// Names it may hold.
    pub most_files: u64,
    /// Bytes of content it may hold, holes not counted.
    pub most_bytes: u64,
    /// Allows devices.
    pub devices: bool,
    /// Refuses an archive without a checksum.
    pub checksum: bool,
    /// Durability on return.
    pub durable: Durable,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl Default for ImportOptions<'_> {
    /// No limits, devices allowed, no checksum required, nothing durable, no progress.
    fn default() -> Self {
        Self {
            most_files: u64::MAX,
            most_bytes: u64::MAX,
            devices: true,
            checksum: false,
            durable: Durable::No,
            progress: &Silent,
        }
    }
}

impl fmt::Debug for ImportOptions<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("ImportOptions");
        shown.field("most_files", &self.most_files);
        shown.field("most_bytes", &self.most_bytes);
        shown.field("devices", &self.devices);
        shown.field("checksum", &self.checksum);
        shown.field("durable", &self.durable);
        shown.finish_non_exhaustive()
    }
}

/// Result of [`import()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Names made.
    pub files: u64,
    /// Bytes of content written, holes not counted.
    pub bytes: u64,
    /// Set if the archive had a checksum, which matched.
    pub verified: bool,
}

/// Makes the tree of an archive in `dest`, best an empty directory: what an archive names replaces
/// what is there, and what is there of its directories takes on their attributes.
///
/// The archive may come from other programs (see [`crate::tar`]). Attributes that layerd does not
/// carry, `security.selinux` above all, are passed over. `input` is read to the end mark, and up to
/// 256 KiB beyond.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Malformed`] and [`Error::Damaged`] for what is no sound archive;
/// [`Error::Refused`] and [`Error::TooLong`] for a file that would not stay in the tree or must
/// not be there; [`Error::Limit`]; [`Error::Stopped`] when the progress says so;
/// [`Error::Stream`] if `input` fails; else [`Error::Io`]. Nothing outside of `dest` changes; what
/// was made in it so far stays.
pub fn import(
    input: impl Read,
    dest: BorrowedFd<'_>,
    options: &ImportOptions<'_>,
) -> Result<Imported, Error> {
    import::import(input, dest, options)
}

#[cfg(test)]
mod tests;
