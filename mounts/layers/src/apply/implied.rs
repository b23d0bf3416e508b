//! Attributes of directories that an archive only implies.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::Timestamps;

use crate::apply::attributes::PendingAttributes;
use crate::error::Error;
use crate::node;

/// Attributes that a directory inherits from the one below.
pub(super) fn attributes(found: &OwnedFd, path: &Path) -> Result<PendingAttributes, Error> {
    let failed = |cause| Error::io("look in a lower layer at", path, cause);
    let stat = node::stat(found.as_fd()).map_err(failed)?;
    let mut xattrs = node::xattrs(found.as_fd()).map_err(failed)?;
    // Overlayfs' own notes are about that layer, not this one.
    xattrs.retain(|(name, _)| !name.to_bytes().starts_with(b"trusted."));
    Ok(PendingAttributes {
        owner: Some((stat.uid, stat.gid)),
        xattrs,
        mode: Some(stat.permissions()),
        times: Timestamps {
            last_access: stat.accessed,
            last_modification: stat.modified,
        },
    })
}
