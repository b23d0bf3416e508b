//! Storage drivers: how layers are kept on disk, and which mounts show them.
//!
//! A [`Driver`] keeps layers and says how to mount them; it knows nothing of keys, labels or the
//! database. No driver mounts on its own account: [`plan`](Driver::plan) only describes.

pub mod driver;
pub mod overlay;

pub use driver::{Base, Driver, Found, Place, Stack, Stamp};
pub use layerd_mounts::{Error, IdMap, IdMaps, Mount, Slot, Usage};
pub use overlay::probe::Finding;
pub use overlay::{Options, Overlay};

#[cfg(any(test, feature = "fake"))]
pub mod conformance;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
