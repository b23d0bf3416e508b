//! The mount table, trees of files, and the folders of volumes.
//!
//! [`mount`] makes mounts that a storage driver planned, for a client that asks; a [`mounter`] makes
//! those of attachments. Storage drivers themselves are in `layerd-drivers`, which builds on the
//! [`tree`], [`barrier`] and [`folder`] of this crate.

pub mod barrier;
pub mod error;
pub mod folder;
pub mod idmap;
pub mod limit;
pub mod mount;
pub mod mounter;
pub mod mountinfo;
pub mod overlay_options;
pub mod space;
pub mod sys;
pub mod thin;
pub mod tree;
pub mod types;
pub mod user_namespace;
pub mod volume_dirs;

pub use error::Error;
pub use layerd_id::Slot;
pub use space::Space;
pub use types::{IdMap, IdMaps, Mount, Usage};
pub use volume_dirs::VolumeDirs;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod test_support;
