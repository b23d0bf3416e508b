//! Layers as whole trees, copied file by file.
//!
//! A new layer is a copy of its parent's tree, whose files share their blocks where the file system
//! can clone them (FICLONE: btrfs, xfs with reflink); elsewhere they are copied. So it works where
//! overlayfs does not: with the root on overlayfs, as in a container, or on any tmpfs. The price is
//! the copy: Prepare takes time and inodes for each file of the image, and space where nothing is
//! shared.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use layerd_layers::Durable;
use layerd_layers::copy::{self, copy_tree};
use layerd_mounts::{Error, Slot};

use crate::dirs::{LayerDirs, Top};
use crate::finding::{Finding, file_system};
use crate::whole_tree::{Trees, WholeTrees};

mod reflink;

/// Whole trees below one root, copied file by file.
pub type Native = WholeTrees<Copies>;

/// Copies of trees.
#[derive(Debug)]
pub struct Copies;

impl Trees for Copies {
    const NAME: &'static str = "native";
    const FOLDERS: &'static [&'static str] = &["l", "w", "t"];

    fn look(root: &Path) -> Result<(Vec<Finding>, String), Error> {
        let (finding, file_system) = file_system(root)?;
        Ok((vec![finding, reflink::check(root)?], file_system.0))
    }

    fn open(_: &Path) -> Result<Self, Error> {
        Ok(Self)
    }

    /// Its content is on the disk on return, so that no power cut takes away what a client was
    /// shown.
    fn copy(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        (_, source): (Slot, &OwnedFd),
        top: Top,
    ) -> Result<(), Error> {
        let to = dirs.make_layer(slot, top)?;
        let options = copy::Options {
            durable: Durable::Content,
            ..copy::Options::default()
        };
        let copied = copy_tree(&[source.as_fd()], Path::new(""), to.as_fd(), &options);
        copied.map_err(|cause| not_copied(dirs, slot, cause))?;
        dirs.correct(&slot.to_string(), top)?;
        dirs.barrier.filled()
    }
}

fn not_copied(dirs: &LayerDirs, slot: Slot, cause: layerd_layers::Error) -> Error {
    let layer = dirs.layers.path.join(slot.to_string());
    match cause {
        layerd_layers::Error::Io { path, cause, .. } => {
            Error::io("copy to", &layer.join(path), cause)
        }
        cause => Error::io("copy to", &layer, io::Error::other(cause)),
    }
}

#[cfg(test)]
mod tests;
