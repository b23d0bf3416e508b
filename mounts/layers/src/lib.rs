//! Operations on trees of files: [`copy`] copies one out of a stack of layers, [`archive`] writes one
//! to a tar stream and reads it back, [`apply`] unpacks layers of images, [`diff`] makes
//! them, [`erofs`] writes and reads images that the kernel mounts, and [`file_digests`] compares an unpacked layer with the digests of its files.
//!
//! Everything works on descriptors of directories. No path is resolved a second time, no symlink
//! is followed (but those on the way to the part of a stack that is copied, within the stack), no
//! mount is crossed, and nothing outside the destination changes, also when the source is hostile
//! and changes meanwhile. This crate knows no record, no volume and no mount.
//!
//! Attributes that are copied with a file: type, permission bits, owner, access and
//! modification time in nanoseconds, device number, hard links, holes, and the extended
//! attributes `user.*`, `trusted.*`, `security.capability` and POSIX ACLs. Other attributes
//! (`security.selinux` above all) are left to the policy of the destination.

pub mod apply;
pub mod archive;
pub mod copy;
pub mod diff;
mod dir_stack;
pub mod durable;
pub mod erofs;
pub mod error;
pub mod file_digests;
pub mod layering;
mod node;
pub mod progress;
mod sys;
pub mod tar;
#[cfg(test)]
mod test_support;

pub use durable::Durable;
pub use error::Error;
pub use layering::Layering;
pub use progress::{Progress, Silent};
