//! What a layer held when it was unpacked, in one file: path, size and digest of each regular file.
//!
//! [`Writer`] makes it while the layer is unpacked, [`check()`] compares a layer with it later. Both
//! take a layer of any size in little memory: the file has a record for each thing that unpacking
//! told, in the order of the archive, and later ones may take earlier ones back. So a checker needs
//! to know beforehand only what was taken back, which is little in archives that mean well; where it
//! is more than a mebibyte of names, no manifest is made.
//!
//! The digest is XXH3: it finds what a disk, a power cut or a mistake has changed, at the speed of
//! memory. It is no proof against somebody who wants to deceive; who may write to layers may write
//! to manifests as well. Names, sizes and contents are compared; attributes, other types of files
//! and files that were added are not, and of sparse files only the size is known.
//!
//! ```text
//! "layerdm1"
//! 1 PATH SIZE DIGEST    a file; the digest has 16 bytes
//! 2 PATH SIZE           a sparse file
//! 3 PATH LENGTH TARGET  another name of what is at TARGET by then
//! 4 PATH                what was there is gone, with all below
//! RECORDS GONE DIGEST   the end: how many records, how many of them gone, XXH3 of all before
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
