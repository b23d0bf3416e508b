//! layerd's own services, package `layerd.v1`.

pub(super) mod admin;
mod alarms;
mod content;
mod events;
mod finding;
pub(super) mod layers;
pub(super) mod mounts;
pub(crate) mod rescue;
pub(super) mod volumes;
