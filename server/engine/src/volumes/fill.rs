//! Copies of volumes: clones and snapshots.
//!
//! Content is made in the staging area, brought to the disk, and appears by one rename. A crash
//! in between leaves staged content, which start-up deletes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use layerd_layers::Durable;
use layerd_layers::copy::{self, Copied, copy_tree};
use layerd_store::{Labels, Refusal, Volume, VolumeId, VolumeName};
use parking_lot::{Mutex, MutexGuard};

use super::create::filled_from;
use super::progress::Telling;
use super::sizes::{limit_asked, limit_of, limit_options};
use super::{CreateVolume, VolumeEntry, VolumeRef, new_volume, slot, top, top_asked};
use crate::reserve::Area;
use crate::{Error, VolumeError, Volumes};

/// Volumes whose content is being read, by how many: they must not be deleted meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<BTreeMap<VolumeId, usize>>>);

/// Keeps one volume from being deleted.
#[derive(Debug)]
pub struct Source {
    pins: Pins,
    id: VolumeId,
    /// Its name when it was pinned.
    name: VolumeName,
}

impl Pins {
    fn pin(&self, volume: &Volume) -> Source {
        *self.lock().entry(volume.id).or_default() += 1;
        Source {
            pins: self.clone(),
            id: volume.id,
            name: volume.name.clone(),
        }
    }

    /// Refuses to delete a volume that is being read. Both callers hold the volume.
    pub(crate) fn refuse(&self, id: VolumeId, name: &VolumeName) -> Result<(), Error> {
        match self.lock().contains_key(&id) {
            true => Err(Error::Volume(VolumeError::BeingRead { name: name.clone() })),
            false => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, usize>> {
        self.0.lock()
    }
}

impl Source {
    pub(crate) fn id(&self) -> VolumeId {
        self.id
    }

    /// Origin of a copy of it, as a record has it.
    pub(crate) fn filled_from(&self) -> String {
        filled_from(&self.name)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(count) = pins.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.id);
            }
        }
    }
}

impl Volumes {
    /// Makes a read-only copy of a volume, as a volume of its own with these labels. Blocks are shared where the
    /// file system can. Who writes meanwhile gets a copy as after a crash.
    ///
    /// # Errors
    /// `Missing`, or `Refused` for an id; `Exists` if the name of the copy is taken; `Full`, also if the
    /// disk's reserve is reached.
    pub fn snapshot_volume(
        &self,
        source: &VolumeRef,
        copy_name: VolumeName,
        labels: Labels,
    ) -> Result<VolumeEntry, Error> {
        let source = self.pinned(source)?;
        let request = CreateVolume {
            name: Some(copy_name.clone()),
            labels,
            options: self.size_of(source.id()),
            ..CreateVolume::default()
        };
        if self
            .root
            .store
            .records()
            .volumes()
            .find(&copy_name)
            .is_some()
        {
            return Err(Refusal::VolumeTaken { name: copy_name }.into());
        }
        self.root.check_reserve(Area::Volumes)?;
        let id = self.root.store.volume_id()?;
        let limit = match self.is_limited(source.id()) {
            true => limit_asked(&request.options)?,
            false => None,
        };
        let from = (source.filled_from(), Some(source.id()));
        let volume = new_volume(id, &request, from.0, from.1, self.held_by(limit))?;
        let data = self.stage(id, top(&request)?, limit)?;
        self.copy_volume(source.id(), &volume, &data)?;
        self.publish_volume(volume, &request)
            .map(|(entry, _)| entry)
    }

    /// The size that was asked for of a volume, as an option of a copy.
    fn size_of(&self, id: VolumeId) -> BTreeMap<String, String> {
        let records = self.root.store.records();
        let volume = records.volumes().get(id);
        volume.map_or_else(BTreeMap::new, |volume| limit_options(volume))
    }

    fn is_limited(&self, id: VolumeId) -> bool {
        let records = self.root.store.records();
        let volume = records.volumes().get(id);
        volume.is_some_and(|volume| limit_of(volume).is_some())
    }

    /// Keeps a volume from being deleted while it is read.
    pub(crate) fn pinned(&self, volume: &VolumeRef) -> Result<Source, Error> {
        let held = match volume {
            VolumeRef::Name(name) => self.hold_volume(name)?,
            VolumeRef::Id(id) => self
                .hold_volume_id(*id)
                .ok_or(Refusal::VolumeGone { id: *id })?,
        };
        Ok(self.pins.pin(&held.volume))
    }

    /// Copies a volume's content, on its way to the disk, to the staged one of `to`; after a
    /// failure nothing stays staged.
    pub(crate) fn copy_volume(
        &self,
        from: VolumeId,
        to: &Volume,
        staged: &OwnedFd,
    ) -> Result<(), Error> {
        let opened = self.open_content(from);
        let data = opened.inspect_err(|_| {
            // The next start deletes it too.
            let _ = self.dirs.drop_stage(slot(to.id));
        })?;
        let source = self.root.store.records().volumes().get(from).cloned();
        let measured = source.and_then(|source| source.usage);
        let expected = measured.map_or(0, |(usage, _)| usage.inodes);
        self.copy_directory(data.as_fd(), expected, to, staged)
            .map(drop)
    }

    /// As [`copy_volume`](Self::copy_volume), of any directory, with `expected` files in it; 0 if that is not
    /// known.
    pub(super) fn copy_directory(
        &self,
        from: BorrowedFd<'_>,
        expected: u64,
        to: &Volume,
        staged: &OwnedFd,
    ) -> Result<Copied, Error> {
        let progress = self.telling(to.name.as_str(), expected);
        let options = copy::Options {
            durable: Durable::Content,
            progress: &progress,
            ..copy::Options::default()
        };
        let copied = copy_tree(&[from], Path::new(""), staged.as_fd(), &options);
        let copied =
            copied.map_err(|cause| self.drop_staged(to.id, "copy a volume", &progress, cause))?;
        self.finish_stage(to, staged)?;
        Ok(copied)
    }

    /// Gives the staged top folder of `volume` the owner and mode that were asked for at its
    /// creation, after what filled it brought its own, and has what was staged brought to the disk,
    /// before it takes its place or with it; after a failure nothing stays staged.
    pub(crate) fn finish_stage(&self, volume: &Volume, staged: &OwnedFd) -> Result<(), Error> {
        let top = top_asked(&volume.options)?;
        let filled = self.dirs.filled(slot(volume.id), staged, top);
        filled.map_err(|cause| {
            self.drop_stage(volume.id);
            Error::driver("bring the content of a volume to the disk")(cause)
        })
    }

    /// Deletes what is staged for a volume whose filling failed. Answers why it failed.
    pub(crate) fn drop_staged(
        &self,
        id: VolumeId,
        attempt: &'static str,
        progress: &Telling<'_>,
        cause: layerd_layers::Error,
    ) -> Error {
        self.drop_stage(id);
        match progress.is_at_reserve() {
            true => self.root.reserve_reached(Area::Volumes),
            false => Error::Copy { attempt, cause },
        }
    }

    /// Deletes a staged directory; after a failure the next start does.
    pub(crate) fn drop_stage(&self, id: VolumeId) {
        if let Err(left) = self.dirs.drop_stage(slot(id)) {
            tracing::warn!(error = &left as &dyn std::error::Error, %id, "delete what was staged");
        }
    }
}
