//! Copy-up: what an image has at a mount's target goes into a volume that is empty.
//!
//! Straight from the layers' directories, so that blocks are shared where the file system can. It
//! is made in the staging area and takes the place of the empty content in one exchange, so a
//! volume is filled whole or not at all. One call fills; others for the same volume wait for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use layerd_layers::Durable;
use layerd_layers::copy::{self, copy_tree};
use layerd_spec::{Kind, MountSpec};
use layerd_store::{
    AttachState, Attachment, AttachmentId, Key, LayerId, Refusal, Volume, VolumeId, VolumeName,
};
use tracing::info;

use crate::reserve::Area;
use crate::volume_slot as slot;
use crate::volumes::is_nocopy;
use crate::{Attachments, Error};

/// Outcome of filling a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Filling {
    /// It was not to be filled, or holds something.
    #[default]
    None,
    /// It was filled.
    Done,
    /// It stays empty, and why.
    Without(String),
}

impl Filling {
    /// Why the volume stays empty, if it was to be filled.
    pub(super) fn note(&self, volume: Option<&VolumeName>) -> Option<String> {
        let (Self::Without(why), Some(volume)) = (self, volume) else {
            return None;
        };
        Some(format!("volume {volume} stays empty: {why}"))
    }
}

impl Attachments {
    /// Fills the volume of an attachment, if it is to be filled and is empty.
    pub(super) fn fill(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        from: Option<&Key>,
    ) -> Result<Filling, Error> {
        let (Kind::Volume(volume), Some(id), Some(from)) = (&spec.kind, attachment.volume, from)
        else {
            return Ok(Filling::None);
        };
        if !volume.copy_up || volume.subpath.is_some() {
            return Ok(Filling::None);
        }
        let _filling = self.volumes.locks.filling.lock(&id);
        let record = match self.check_fillable(id, attachment.id)? {
            Ok(record) => record,
            Err(not) => return Ok(not),
        };
        let image = super::committed(&self.root.store.records(), from.as_str())?;
        let inside = spec.target.to_string();
        let files = match self.copy_up(&record, (image, from), inside.trim_start_matches('/'))? {
            Ok(files) => files,
            Err(why) => return Ok(Filling::Without(why)),
        };
        // From here on nothing mounts it. What came while the copy was made counts.
        let _guard = self.volumes.locks.hold(id);
        let checked = self.check_source(image, from);
        let checked = checked.and_then(|()| self.check_fillable(id, attachment.id));
        let checked = checked.inspect_err(|_| self.volumes.drop_stage(id))?;
        if let Err(not) = checked {
            self.volumes.drop_stage(id);
            return Ok(not);
        }
        self.volumes
            .dirs
            .exchange(slot(id))
            .map_err(Error::driver("fill a volume"))?;
        self.root
            .store
            .set_volume_filled(id, format!("image {from} {inside}"))?;
        self.volumes.note_limit_again(&record)?;
        self.volumes.drop_stage(id);
        info!(%id, from = from.as_str(), files, "volume filled");
        Ok(Filling::Done)
    }

    /// A volume that content may be put into, or what is to be said of one that stays as it is.
    fn check_fillable(
        &self,
        id: VolumeId,
        own: AttachmentId,
    ) -> Result<Result<Arc<Volume>, Filling>, Error> {
        let view = self.root.store.records();
        let Some(record) = view.volumes().get(id) else {
            return Ok(Err(Filling::None));
        };
        if !self.is_to_be_filled(record)? {
            return Ok(Err(Filling::None));
        }
        // Who has it mounted would go on with the empty content that is exchanged away.
        let mut holders = view.volumes().holders(id);
        Ok(
            match holders.find(|other| other.id != own && other.state == AttachState::Attached) {
                None => Ok(record.clone()),
                Some(other) => {
                    let key = other.key.as_str();
                    Err(Filling::Without(format!("it is in use by {key:?}")))
                }
            },
        )
    }

    /// Refuses an image that was removed while it was read, or found to be damaged.
    fn check_source(&self, image: LayerId, name: &Key) -> Result<(), Error> {
        let view = self.root.store.records();
        match view.get(image) {
            Some(record) => self.layers.quarantine.check_stack(&view, record),
            None => Err(Refusal::Missing { key: name.clone() }.into()),
        }
    }

    /// True if a volume may be filled: it was not filled before, is no snapshot, was not created with
    /// `nocopy`, and is empty.
    pub(super) fn is_to_be_filled(&self, volume: &Volume) -> Result<bool, Error> {
        let is_closed = volume.snapshot_of.is_some() || is_nocopy(volume);
        if !volume.filled_from.is_empty() || is_closed {
            return Ok(false);
        }
        self.volumes.is_empty(volume.id)
    }

    /// Copies a directory of an image to the staging area. Answers the number of names, or what
    /// the image has instead of the directory.
    fn copy_up(
        &self,
        volume: &Volume,
        (image, from): (LayerId, &Key),
        inside: &str,
    ) -> Result<Result<u64, String>, Error> {
        self.check_source(image, from)?;
        self.root.check_reserve(Area::Volumes)?;
        let markers = self
            .layers
            .directories()?
            .layering()
            .markers()
            .unwrap_or_default();
        let layers = self.layers.layers_of(image)?;
        let layers: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
        let images = self.layers.images_of(image)?;
        let images: Vec<_> = images
            .iter()
            .map(|image| image.as_ref().map(AsFd::as_fd))
            .collect();
        let staged = self.volumes.stage_again(volume)?;
        let progress = self.volumes.telling(volume.name.as_str(), 0);
        let options = copy::Options {
            durable: Durable::Content,
            images: &images,
            markers,
            progress: &progress,
            ..copy::Options::default()
        };
        let from = from.as_str();
        let without = match copy_tree(&layers, Path::new(inside), staged.as_fd(), &options) {
            Ok(copied) => {
                self.volumes.finish_stage(volume, &staged)?;
                return Ok(Ok(copied.files));
            }
            Err(layerd_layers::Error::Missing { path }) => {
                format!("{from:?} has no /{}", path.display())
            }
            Err(layerd_layers::Error::NotADirectory { path, found }) => {
                format!(
                    "/{} of {from:?} is {found}, not a directory",
                    path.display()
                )
            }
            Err(cause) => {
                let attempt = "copy image content into a volume";
                return Err(self
                    .volumes
                    .drop_staged(volume.id, attempt, &progress, cause));
            }
        };
        self.volumes.drop_stage(volume.id);
        Ok(Err(without))
    }
}

#[cfg(test)]
mod tests;
