//! Layers that become images.
//!
//! The layer's directory stays empty: a client that has it mounted sees nothing of the image. So
//! one that asks for the mounts again before Commit, to write, gets a directory that has all files
//! of the image ([`Driver::make_mountable`](layerd_drivers::Driver::make_mountable)). Commit deletes
//! the directory, and refuses a layer in which that holds something.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use layerd_layers::Durable;
use layerd_layers::apply::{Applied, ImageTarget, apply_image};
use layerd_layers::erofs::{self, Attributes};
use layerd_mounts::sys;
use layerd_store::{Record, Usage};

use super::memory::{Claim, Found};
use super::{Opened, Unpack};
use crate::{Error, LayerError, Layers, slot};

impl Layers {
    /// True if a layer is to become an image when it is unpacked. One whose parent is not known
    /// yet is not: what it takes from below at Commit cannot be put into an image.
    pub(super) fn is_image_due(&self, record: &Record) -> Result<bool, Error> {
        let Some(images) = self.driver.images() else {
            return Ok(false);
        };
        let is_due = !record.has_deferred_parent
            && images
                .is_due(slot(record.id))
                .map_err(Error::driver("look at a layer"))?;
        Ok(is_due)
    }

    /// Turns the image of an active layer into a directory, if it is one.
    pub(super) fn expand(&self, record: &Record) -> Result<(), Error> {
        let Some(images) = self.driver.images() else {
            return Ok(());
        };
        let expanded = images.expand(slot(record.id));
        expanded.map_err(|cause| {
            self.note_bad_image(&cause);
            let key = record.key.clone();
            Error::Layer(LayerError::MakeMountable { key, cause })
        })
    }

    /// Unpacks into an image. If that fails, the layer is as empty as before.
    pub(super) fn apply_to_image(
        &self,
        record: &Record,
        layers: &Opened,
        claim: &Claim<'_>,
        source: impl Read + Send,
        unpack: &Unpack<'_>,
    ) -> Result<Applied, Error> {
        let applied = self.fill_image(record, layers, claim, source, unpack);
        let (applied, usage) = applied.inspect_err(|_| claim.undone())?;
        if unpack.sync {
            let synced = self.driver.sync();
            synced.map_err(Error::driver("bring a layer to the disk"))?;
        }
        let distrusted = claim.done(Found {
            usage,
            durable: self.wanted(unpack) != Durable::No,
            stamp: None,
            digests: false,
            implied: applied.implied.clone(),
            whiteouts: applied.whiteouts.clone(),
            top: applied.top,
        });
        if distrusted {
            self.expand(record)?;
        }
        self.tell_applied(record, &applied);
        Ok(applied)
    }

    fn fill_image(
        &self,
        record: &Record,
        layers: &Opened,
        claim: &Claim<'_>,
        source: impl Read + Send,
        unpack: &Unpack<'_>,
    ) -> Result<(Applied, Usage), Error> {
        let id = slot(record.id);
        let images = self.driver.images().ok_or_else(|| self.lacks("images"))?;
        let durable = self.wanted(unpack) != Durable::No;
        let begin = || -> Result<_, layerd_mounts::Error> {
            let top = sys::stat(layers.open[0].as_fd(), c"").map_err(|cause| {
                layerd_mounts::Error::io("look at", std::path::Path::new("a layer"), cause)
            })?;
            let out = images.create_image(id)?;
            Ok((top, if durable { out.write_back_early() } else { out }))
        };
        let (top, out) = begin().map_err(Error::driver("begin the image of a layer"))?;
        let open: Vec<BorrowedFd<'_>> = layers.open[1..].iter().map(AsFd::as_fd).collect();
        let target = ImageTarget {
            out,
            lowers: &open,
            whiteouts: layers.whiteouts,
            top: Attributes {
                permissions: u16::try_from(top.mode & 0o7777).unwrap_or(0o755),
                uid: top.uid,
                gid: top.gid,
                ..Attributes::default()
            },
            image: erofs::Options::default(),
        };
        let filled = self.unpack_with(source, claim, unpack, None, |source, options| {
            let (applied, out) = apply_image(source, target, options)?;
            Ok((applied.size, (applied, out)))
        });
        let filled =
            filled.map_err(|cause| self.not_applied(record, claim, unpack.progress, cause));
        let (applied, out) = filled?;
        let usage = images.finish_image(id, out, durable);
        let usage = usage.map_err(Error::driver("take over the image of a layer"))?;
        let usage = Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        };
        Ok((applied, usage))
    }

    /// Usage of an active layer that is an image, whose content is on the disk if that is promised.
    /// `None` for other layers.
    pub(crate) fn image_usage(&self, active: &Record) -> Result<Option<Usage>, Error> {
        // One that holds part of something is refused.
        self.unpacks.found(active.id, &active.key)?;
        if !self.is_image(active.id) {
            return Ok(None);
        }
        if self.is_full() {
            return self.write_back(active).map(Some);
        }
        let usage = self.driver.usage(slot(active.id), &|| true);
        let usage = usage.map_err(|cause| {
            self.note_bad_image(&cause);
            Error::driver("measure a layer")(cause)
        })?;
        Ok(Some(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        }))
    }
}
