//! File digests of an unpacked layer, in one file: path, size and digest of each regular file.
//!
//! [`Writer`] makes it while the layer is unpacked, [`check()`] compares a layer with it later. Both
//! take a layer of any size in little memory: the file has a record for each file, link and removal,
//! in the order of the archive, and a removal revokes earlier records. A checker keeps only removals
//! in memory, which are few in ordinary archives; with more than a mebibyte of removed names no
//! digests are kept.
//!
//! The digest is XXH3: it detects changes by a disk, a power cut or a mistake, at the speed of memory. It
//! is no protection from an attacker, who could write to this file as well. Names, sizes and contents are
//! compared; attributes, other types of files and added files are not, and of sparse files only the
//! size is known.
//!
//! ```text
//! "layerdm1"
//! 1 PATH SIZE DIGEST    a file; the digest has 16 bytes
//! 2 PATH SIZE           a sparse file
//! 3 PATH LENGTH TARGET  hard link to the file at TARGET
//! 4 PATH                removal of the path and all below
//! RECORDS GONE DIGEST   trailer: number of records, of removals among them, XXH3 of all before
//! ```
//!
//! A PATH is two lengths and bytes: how many bytes it shares with the path of the record before, and
//! those that follow them. Numbers are LEB128 but for the end, which has 8, 8 and 16 bytes; bytes of
//! numbers that have a fixed length are in little-endian order.

mod check;
mod read;
mod write;

pub use check::{Checked, Wrong, check};
pub use write::Writer;

const MAGIC: &[u8; 8] = b"layerdm1";

/// Bytes of the end.
const END: usize = 32;

const FILE: u8 = 1;
const SPARSE: u8 = 2;
const LINK: u8 = 3;
const GONE: u8 = 4;

#[cfg(test)]
mod tests;
