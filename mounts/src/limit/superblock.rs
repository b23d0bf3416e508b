//! Superblocks of images, as far as they tell without a mount whether there is a file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::ext4;
use crate::error::Error;
use crate::folder::open_file;

/// File system of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ext4,
    Xfs,
}

/// Opens an image, with `write` to be written to, whose superblock tells of a file system that is all there. Two reads.
///
/// # Errors
/// [`Error::BadFileSystem`]; [`Error::Io`].
pub(super) fn open(image: &Path, write: bool) -> Result<(File, Kind), Error> {
    let bad = |problem: String| Error::BadFileSystem {
        path: image.to_owned(),
        problem,
    };
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => bad("it is gone".to_owned()),
        io::ErrorKind::InvalidData => bad(cause.to_string()),
        io::ErrorKind::UnexpectedEof => bad("it is cut short".to_owned()),
        _ => Error::Io {
            attempt: "read",
            path: image.to_owned(),
            cause,
        },
    };
    let file = open_file(image, write).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut start = [0; 16];
    file.read_exact_at(&mut start, 0).map_err(failed)?;
    // The image is sparse, and reads as zeros where nothing was written.
    let (kind, bytes) = match xfs_bytes(&start) {
        Some(bytes) => (Kind::Xfs, Some(bytes)),
        None => (Kind::Ext4, ext4::bytes(&file).map_err(failed)?),
    };
    match bytes {
        None => Err(bad("it has no superblock of ext4 or xfs".to_owned())),
        Some(bytes) if bytes > length => Err(bad(format!(
            "it is cut short: {length} of {bytes} bytes are there"
        ))),
        Some(_) => Ok((file, kind)),
    }
}

/// Bytes of the xfs that begins so.
fn xfs_bytes(start: &[u8; 16]) -> Option<u64> {
    let (magic, rest) = start.split_first_chunk()?;
    let (block, rest) = rest.split_first_chunk()?;
    let (blocks, _) = rest.split_first_chunk()?;
    let bytes = u64::from(u32::from_be_bytes(*block)).checked_mul(u64::from_be_bytes(*blocks));
    (magic == b"XFSB").then(|| bytes.unwrap_or(u64::MAX))
}
