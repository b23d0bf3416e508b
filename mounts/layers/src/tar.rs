//! The tar format: a streaming reader, and the pieces a writer puts together.
//!
//! Ours and not the `tar` crate, for fidelity: that one knows neither the sparse files of pax nor
//! times below a second when it writes, takes paths where we need descriptors, and keeps entries
//! behind iterators that a pipeline of threads cannot take apart. The reader takes ustar, pax, old
//! GNU (long names, sparse, binary numbers) and v7. It allocates no more than a limit, whatever
//! an archive claims, and never panics on one.

pub(crate) mod acl;
pub mod entry;
pub(crate) mod header;
pub(crate) mod pax;
pub mod reader;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod sparse;

use sha2::{Digest, Sha256};

pub use entry::{Entry, EntryKind};
pub use reader::Reader;

/// Bytes of a header, and the unit to which all else is filled up.
pub(crate) const BLOCK: usize = 512;

/// Zeros that follow `length` bytes up to the end of the last block.
pub(crate) fn padding(length: u64) -> usize {
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// A finished sum in hexadecimal.
pub(crate) fn hex(sum: Sha256) -> String {
    sum.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
