//! Storage drivers: how layers are kept on disk, and which mounts show them.
//!
//! A [`Driver`] keeps layers and says how to mount them; it knows nothing of keys, labels or the
//! database. [`plan`](Driver::plan) only describes mounts; the one kind that a driver makes itself are
//! those of images ([`make_mountable`](Driver::make_mountable)).

pub mod aufs;
pub mod btrfs;
pub mod devicemapper;
mod dirs;
pub mod driver;
pub mod factory;
mod finding;
mod image_file;
pub mod memory;
pub mod native;
pub mod overlay;
pub mod overlay1;
mod whole_tree;
pub mod zfs;

pub use aufs::Aufs;
pub use btrfs::Btrfs;
pub use devicemapper::Devicemapper;
pub use driver::{
    Base, CheckedImage, Content, Directories, Driver, Features, Found, ImageCounts, ImageFile,
    Images, Info, LayerPool, Limits, Owner, SlotKind, Stack, Stamp, Survey, WorkDirs,
};
pub use finding::Finding;
pub use layerd_layers::Layering;
pub use layerd_mounts::limit::{Enforcement, Limit};
pub use layerd_mounts::{Error, IdMap, IdMaps, Mount, Slot, Usage};
pub use memory::Memory;
pub use native::Native;
pub use overlay::{LayerForm, Options, Overlay};
pub use overlay1::Overlay1;
pub use zfs::Zfs;

#[cfg(any(test, feature = "fake"))]
pub mod conformance;
#[cfg(any(test, feature = "fake"))]
mod hooked;
#[cfg(test)]
mod stacks;

#[cfg(any(test, feature = "fake"))]
pub use hooked::Hooked;
