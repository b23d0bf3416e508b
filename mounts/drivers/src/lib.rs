//! Storage drivers: how layers are kept on disk, and which mounts show them.
//!
//! A [`Driver`] keeps layers and says how to mount them; it knows nothing of keys, labels or the
//! database. No driver mounts on its own account: [`plan`](Driver::plan) only describes.

pub mod btrfs;
mod dirs;
pub mod driver;
pub mod factory;
mod finding;
pub mod memory;
pub mod native;
pub mod overlay;
mod whole_tree;

pub use btrfs::Btrfs;
pub use driver::{
    Base, Content, Directories, Driver, Features, Found, Info, LayerPool, Owner, Place, Stack,
    Stamp, Survey, WorkDirs,
};
pub use finding::Finding;
pub use layerd_layers::Layering;
pub use layerd_mounts::{Error, IdMap, IdMaps, Mount, Slot, Usage};
pub use memory::Memory;
pub use native::Native;
pub use overlay::{Options, Overlay};

#[cfg(any(test, feature = "fake"))]
pub mod conformance;
#[cfg(any(test, feature = "fake"))]
mod hooked;

#[cfg(any(test, feature = "fake"))]
pub use hooked::Hooked;
