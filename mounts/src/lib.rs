//! What is on disk and in the mount table.
//!
//! A [`Driver`] keeps layers and says how to mount them; it knows nothing of keys, labels or the
//! database. No driver mounts on its own account: [`plan`](Driver::plan) only describes, and
//! [`mount`] does it for who asks.

mod barrier;
pub mod driver;
pub mod error;
mod folder;
pub mod idmap;
pub mod mount;
pub mod mounter;
pub mod mountinfo;
pub mod overlay;
pub mod plan;
pub mod probe;
pub mod slot;
mod sys;
pub mod tree;
pub mod volume_dirs;

pub use driver::{Base, Driver, Found, IdMap, IdMaps, Mount, Place, Stack, Stamp, Usage};
pub use error::Error;
pub use overlay::{Options, Overlay};
pub use probe::Finding;
pub use slot::Slot;
pub use volume_dirs::VolumeDirs;

#[cfg(any(test, feature = "fake"))]
pub mod contract;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod rig;
