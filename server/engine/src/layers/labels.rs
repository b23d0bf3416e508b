//! Labels of containerd's own.

/// Says that what is prepared is to be the layer of an image.
pub(crate) const REF: &str = "containerd.io/snapshot.ref";
