//! A layer of an image as a tar stream, made from an overlay's upper directory and its lower ones.
//!
//! [`diff()`] gives the differences between the mounts with and without the upper directory, as
//! containerd's walking differ does, but mounts nothing and reads only names in the upper directory. An
//! unchanged copy-up is left out: attributes, time and content are compared, so that a change is
//! found although its time was set back. Each deleted name has a whiteout (`.wh.NAME`) of its own. There
//! is no opaque marker: one that comes after the entries of its directory, or is met by a program that
//! goes by names, would delete entries of the layer itself; whiteouts by name are unambiguous. So a
//! directory that was deleted and made again lists the names missing in it.
//!
//! Directories on the way to a change come before it, with their attributes. The root directory
//! itself has an entry if its mode, owner or attributes were changed, marked by the record
//! `LAYERD.top`: containerd passes over entries for it, and so do we without that mark. Entries come in the
//! order of their names, and nothing is taken from the clock: the same tree gives the same bytes.
//! Times keep their nanoseconds, where containerd cuts them off: a layer applied again is the same
//! tree, and all that read pax archives know fractions. Files are written with their holes as
//! zeros, since not all appliers know sparse files. Sockets are left out; a lower file that one
//! replaced is deleted.
//!
//! Where the mount was id-mapped, files of the upper directory belong to ids of the host; the layer
//! has those of the container, also in access lists and in the root id of capabilities. Capabilities
//! of another user namespace, whose ids are not known, lose their root id, which means nothing
//! elsewhere. Names that begin with `.wh.` cannot be in a layer: they are left out.
//!
//! Attributes in a layer are those of the crate, except `trusted.*`, which no applier sets, and
//! overlayfs' own in `user.overlay.*`.

use std::fmt;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::copy::Markers;
use crate::error::Error;
use crate::layering::Layering;
use crate::progress::{Progress, Silent};

mod ids;
mod same;
mod stream;
mod walk;

/// Compression of a layer. The same layer gives the same bytes with the same release of
/// layerd; another release may have another compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffCompression {
    /// Not at all.
    None,
    /// gzip, level 6, with neither time nor name in its header.
    Gzip,
    /// zstd, level 3.
    Zstd,
}

/// A range of ids of a container, and of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// Number of ids.
    pub length: u32,
}

/// Id mapping of an upper directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdRanges {
    /// Users.
    pub uid: Vec<IdRange>,
    /// Groups.
    pub gid: Vec<IdRange>,
}

/// Options of [`diff()`].
#[derive(Clone, Copy)]
pub struct DiffOptions<'a> {
    /// Compression.
    pub compression: DiffCompression,
    /// Times after this one, in seconds since 1970, are written as this one: SOURCE_DATE_EPOCH.
    pub source_date_epoch: Option<i64>,
    /// Content of the directories.
    pub layering: Layering,
    /// Mapping of the ids of the upper directory; those below are a container's already.
    pub ids: Option<&'a IdRanges>,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl Default for DiffOptions<'_> {
    /// gzip, times and ids unchanged, overlayfs' attributes in `trusted.overlay.*`, no progress.
    fn default() -> Self {
        Self {
            compression: DiffCompression::Gzip,
            source_date_epoch: None,
            layering: Layering::Diff(Markers::Trusted),
            ids: None,
            progress: &Silent,
        }
    }
}

impl fmt::Debug for DiffOptions<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("DiffOptions");
        shown.field("compression", &self.compression);
        shown.field("source_date_epoch", &self.source_date_epoch);
        shown.field("layering", &self.layering);
        shown.field("ids", &self.ids);
        shown.finish_non_exhaustive()
    }
}

/// Result of [`diff()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// SHA-256 of what was written: the digest of the blob.
    pub sha256: [u8; 32],
    /// Length of it.
    pub size: u64,
    /// SHA-256 of the archive before compression: the diff id of the layer.
    pub diff_id: [u8; 32],
    /// Length of the archive before compression.
    pub uncompressed: u64,
    /// Entries in it, whiteouts among them.
    pub entries: u64,
    /// Files written to while they were read: their content may be a mixture.
    pub changed: u64,
    /// Names that begin with `.wh.` and are left out, and the first of them. What is below them is
    /// left out as well, and not counted.
    pub left_out: u64,
    /// See [`left_out`](Self::left_out).
    pub first_left_out: Option<PathBuf>,
}

/// Writes what `upper` changes in the stack `lowers` to `out` as a layer, and flushes it.
///
/// With [`Layering::Diff`], `upper` is the upper directory of an overlay mount, or a base layer if
/// there are no `lowers`; `lowers` are the layers below, nearest first. With [`Layering::Full`] both
/// are whole trees, which are compared name by name, and at most the first of `lowers` is read. All descriptors may be `O_PATH`. The mount may be
/// in use: the layer then has each file as it was when it was read.
///
/// Costs a few system calls for each file of `upper` (of whole trees also one pass over the content
/// of both where a file only looks unchanged) and each layer it is looked for in, one pass
/// over the content of changed files and of those that only look unchanged, and one thread; memory
/// for the names of the directories on the way to the current one (in a directory that was deleted
/// and made again also those below) and for each file with several names; at most 260 descriptors
/// and two for each layer.
///
/// # Errors
/// [`Error::Feature`] for layers of mounts with redirect_dir or metacopy, or with whiteouts as
/// attributes; [`Error::Unmapped`] for a file of an id that [`DiffOptions::ids`] do not have;
/// [`Error::Stream`] if `out` fails; [`Error::MountPoint`], [`Error::TooLong`] and
/// [`Error::Changed`] for trees that cannot be read as a whole, the last also for a file that
/// got shorter while it was read; [`Error::Stopped`] when the progress says so; else
/// [`Error::Io`]. What was written so far is no layer: it has no end.
pub fn diff(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &DiffOptions<'_>,
    out: &mut dyn Write,
) -> Result<Diffed, Error> {
    walk::diff(upper, lowers, options, out)
}

#[cfg(test)]
pub(crate) mod tests;
