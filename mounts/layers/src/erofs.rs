//! Images of EROFS: a tree of files as one file that the kernel mounts read-only.
//!
//! [`Writer`] makes an image in one pass: content is written in the order in which it comes, and all
//! metadata behind it. [`Image`] reads one without the kernel and trusts nothing in it. Both use
//! only what every kernel since 5.15 reads: blocks of 4 KiB, no compression, extended inodes
//! (times in nanoseconds, 32-bit owners), extended attributes beside their inode.
//!
//! ```text
//! block 0      1 KiB unused, superblock with CRC-32C of the block
//! block 1..    content of files, in the order of writing; each begins at a block
//! then         blocks of large directories
//! then         inodes, each with its attributes, and a short tail or the addresses of its chunks
//! ```
//!
//! - A file's last partial block, or all of a short file, lies beside its inode if it has at most
//!   [`Options::inline`] bytes.
//! - Chunks of 64 KiB and more that are zero are holes: a file with any is stored by chunks, at
//!   most 65,536 of them (of files up to 512 PiB). Shorter runs of zeros within a chunk are stored; long ones are left out
//!   of the image file itself by seeking over them.
//! - EROFS has one time for each inode, that of modification; access times are lost.
//! - The same calls make the same bytes: the image has no time of its own, and the identifier that
//!   [`Options::uuid`] says.
#![forbid(unsafe_code)]

mod acl;
mod content;
mod crc;
mod error;
mod file;
mod format;
mod layout;
mod output;
mod reader;
mod seal;
mod tree;
mod walk;
mod writer;
mod xattr;

#[cfg(test)]
pub(crate) mod tests;

pub use error::Error;
pub use file::{Attributes, FileType, Special, Xattr};
pub use reader::{DirEntry, Entries, Image, Inode, ReadAt};
pub use seal::{Seal, Sealing};
pub use tree::Node;
pub use walk::Walk;
pub use writer::{FileWriter, Options, Summary, Writer};
pub use xattr::is_storable;
