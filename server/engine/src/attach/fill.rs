//! Copy-up: what an image has at a mount's target goes into a volume that is empty.
//!
//! Straight from the layers' directories, so that blocks are shared where the file system can. It
//! is made in the staging area and takes the place of the empty content in one exchange, so a
//! volume is filled whole or not at all. One call fills; others for the same volume wait for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use layerd_layers::copy::{self, Markers, copy_tree};
use layerd_mounts::volume_dirs::Top;
use layerd_store::{AttachState, Attachment, Key, VolumeId};
use tracing::info;

use crate::spec::{Kind, MountSpec};
use crate::volumes::slot;
use crate::{Engine, Error};

impl Engine {
    /// Fills the volume of an attachment, if it is to be filled and is empty; answers whether it
    /// did.
    pub(super) fn fill(
        &self,
        spec: &MountSpec,
        attachment: &Attachment,
        from: Option<&Key>,
    ) -> Result<bool, Error> {
        let (Kind::Volume(volume), Some(id), Some(from)) = (&spec.kind, attachment.volume, from)
        else {
            return Ok(false);
        };
        if !volume.copy_up || volume.subpath.is_some() {
            return Ok(false);
        }
        let _turn = self.filling.take(&id);
        // Who has it mounted would go on with the empty content that is exchanged away.
        let view = self.store.view();
        let is_used = view
            .volumes()
            .holders(id)
            .any(|other| other.state == AttachState::Attached);
        let recorded = self
            .store
            .view()
            .volumes()
            .get(id)
            .is_some_and(|volume| !volume.filled_from.is_empty());
        let is_empty = self
            .volume_dirs
            .is_empty(slot(id))
            .map_err(Error::driver("look into a volume"))?;
        if is_used || recorded || !is_empty {
            return Ok(false);
        }
        let inside = spec.target.to_string();
        let Some(files) = self.copy_up(id, from, inside.trim_start_matches('/'))? else {
            return Ok(false);
        };
        self.volume_dirs
            .exchange(slot(id))
            .map_err(Error::driver("fill a volume"))?;
        self.store
            .set_volume_filled(id, format!("image {from} {inside}"))?;
        self.volume_dirs
            .drop_stage(slot(id))
            .map_err(Error::driver("drop what was staged"))?;
        info!(%id, from = from.as_str(), files, "volume filled");
        Ok(true)
    }

    /// Copies a directory of an image to the staging area; `None` if the image has none there.
    fn copy_up(&self, id: VolumeId, from: &Key, inside: &str) -> Result<Option<u64>, Error> {
        let layers = self.layers_of(from)?;
        let layers: Vec<BorrowedFd<'_>> = layers.iter().map(AsFd::as_fd).collect();
        let top = Top {
            uid: 0,
            gid: 0,
            mode: 0o755,
        };
        let staged = self
            .volume_dirs
            .stage(slot(id), top)
            .map_err(Error::driver("stage a volume"))?;
        let view = self.store.view();
        let volume = view.volumes().get(id);
        let volume = volume.map(|volume| volume.name.to_string());
        let options = copy::Options {
            durable: self.volumes_durable(),
            markers: self.markers(from)?,
            progress: &self.telling(&volume.unwrap_or_default(), 0),
            ..copy::Options::default()
        };
        match copy_tree(&layers, Path::new(inside), staged.as_fd(), &options) {
            Ok(copied) => Ok(Some(copied.files)),
            Err(
                layerd_layers::Error::Missing { .. } | layerd_layers::Error::NotADirectory { .. },
            ) => {
                self.volume_dirs
                    .drop_stage(slot(id))
                    .map_err(Error::driver("drop what was staged"))?;
                Ok(None)
            }
            Err(cause) => Err(self.drop_staged(id, "copy image content into a volume", cause)),
        }
    }

    /// Where the mounts of a committed snapshot look for overlayfs' notes.
    fn markers(&self, name: &Key) -> Result<Markers, Error> {
        let id = super::committed(&self.store.view(), name.as_str())?;
        let plan = self.image_plan(id)?;
        let mut options = plan.iter().flat_map(|mount| &mount.options);
        Ok(match options.any(|option| option == "userxattr") {
            true => Markers::User,
            false => Markers::Trusted,
        })
    }

    /// The directories of a committed snapshot's layers, topmost first.
    fn layers_of(&self, name: &Key) -> Result<Vec<OwnedFd>, Error> {
        let view = self.store.view();
        let id = super::committed(&view, name.as_str())?;
        let record = view.get(id).ok_or(Error::Stopping)?;
        self.quarantine.check_stack(&view, record)?;
        let all = std::iter::once(record).chain(view.ancestors(record));
        let opened = all.map(|layer| self.driver.open_layer(crate::slot(layer.id)));
        opened
            .collect::<Result<_, _>>()
            .map_err(Error::driver("open a layer"))
    }
}
