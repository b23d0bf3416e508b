//! What is on disk and in the mount table.
//!
//! A [`Driver`] keeps layers and says how to mount them; it knows nothing of keys, labels or the
//! database. Nothing here mounts on its own account: [`plan`](Driver::plan) only describes.

pub mod driver;

pub use driver::{Base, Driver, Error, Found, IdMap, IdMaps, Mount, Place, Slot, Stack, Usage};
