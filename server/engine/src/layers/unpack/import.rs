//! Layers of overlayfs that another program keeps, such as containerd's own snapshotter: taken over by
//! further names of their files.
//!
//! Commit treats such a layer as one that was filled through a mount: it measures it, and brings it to
//! the disk. There are no file digests of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use layerd_layers::Progress;
use layerd_layers::copy::{Copied, Options, copy_tree};
use layerd_store::Record;
use tracing::info;

use super::memory::Claim;
use super::{Active, Opened};
use crate::call_phase::enter;
use crate::events::Topic;
use crate::reserve::Area;
use crate::{Error, LayerError, Layers, host_directory};

impl Layers {
    /// Fills an empty active layer with what the directory `source` of the host holds, a layer in the
    /// form of overlayfs, whiteouts and attributes as they are. Files get a further name where that
    /// is possible, else they are copied, with shared blocks where the file system can; so nothing may
    /// write to them afterwards. Durable with Commit. Costs a few system calls a file.
    ///
    /// # Errors
    /// `Missing`; `Refused` if the snapshot is not active, not empty, or being unpacked into;
    /// `Unsupported` if the driver keeps no changes in overlayfs's form; `Invalid` if `source` is no
    /// absolute path of a directory outside the data root; `Full`; `Stopping`; `Internal` if a disk
    /// fails. Unless nothing was written by then, the snapshot can only be removed.
    ///
    /// # Cancellation
    /// Ends soon after `progress` says so, or after the snapshot was removed.
    pub fn import(
        &self,
        active: &Active,
        source: &Path,
        progress: &dyn Progress,
    ) -> Result<Copied, Error> {
        if !self.directories()?.layering().is_overlayfs() {
            return Err(self.lacks("layers in the form of overlayfs"));
        }
        let from = host_directory::open(source, &self.root.path)?;
        let (claim, view, record) = self.claim(active)?;
        let checked = self.root.check_reserve(Area::Layers);
        checked.inspect_err(|_| claim.undone())?;
        let layers = self.open_target(&view, &record);
        let layers = layers.inspect_err(|_| claim.undone())?;
        if !layers.was_empty {
            claim.undone();
            let key = record.key.clone();
            return Err(LayerError::NotEmpty { key }.into());
        }
        self.fill_by_links(&record, &layers, &claim, &from, progress)
    }

    fn fill_by_links(
        &self,
        record: &Record,
        layers: &Opened,
        claim: &Claim<'_>,
        from: &File,
        progress: &dyn Progress,
    ) -> Result<Copied, Error> {
        let marked = self.mark_partial(record.id);
        marked.inspect_err(|_| claim.undone())?;
        let watch = self.watch(claim, progress);
        let options = Options {
            links: true,
            progress: &watch,
            ..Options::default()
        };
        enter("linking the files of the layer");
        let copied = copy_tree(
            &[from.as_fd()],
            Path::new(""),
            layers.open[0].as_fd(),
            &options,
        );
        let copied =
            copied.map_err(|cause| self.give_up(record, layers, claim, progress, cause))?;
        self.note_filled()?;
        self.unmark_whole(record.id, false)?;
        claim.undone();
        let key = record.key.as_str();
        info!(key, id = %record.id, files = copied.files, copied = copied.bytes, "imported");
        self.root.events.tell(Topic::Layer, "imported", key);
        Ok(copied)
    }
}
