//! The operations on volumes.
//!
//! Order of writes: a new volume's directory is whole and durable before its record; a deleted
//! volume's record is retired before its directory moves to the trash. A directory without a
//! record is never deleted unless it is empty: after a restored backup it may be the only copy.

mod archive;
mod by_id;
mod create;
mod delete;
mod directory;
mod fill;
mod fullness;
mod limits;
mod locks;
mod progress;
mod prune;
mod purge;
mod reap;
mod recover;
mod sizes;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_mounts::VolumeDirs;
use layerd_store::{
    BadInput, LabelChange, Labels, Records, Refusal, Timestamp, Usage, Volume, VolumeId, VolumeName,
};
use tracing::{debug, warn};

pub use archive::Filled;
pub use create::{is_nocopy, owner_id, refuse_own_labels};
pub use fill::Source;
pub use sizes::{limit_of, size_asked};

pub use prune::{Candidate, Plan, Pruned};
pub use purge::Purged;
pub(crate) use recover::survey_volumes;

use crate::events::Topic;
use crate::fullness::Marks;
use crate::reserve::Area;
use crate::trash::Discarded;
use crate::{Error, Root, VolumeError, volume_slot as slot};
pub(crate) use create::{check_asked, check_settings, top_asked};
use create::{new_volume, top};
use fill::Pins;
pub(crate) use locks::{Held, Locks};
use prune::Plans;
use sizes::limit_asked;

/// The one driver there is: a folder of layerd's own.
const LOCAL: &str = "local";
/// Properties of a new volume.
#[derive(Debug, Clone, Default)]
pub struct CreateVolume {
    /// Its name; anonymous without one.
    pub name: Option<VolumeName>,
    /// Its driver; empty for `local`.
    pub driver: String,
    /// `uid`, `gid` and `mode` of the top folder; `size` and `inodes`, which it is held to;
    /// `nocopy`, which keeps an empty volume from being filled from an image.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: Labels,
    /// The volume it is to be a copy of.
    pub clone_of: Option<VolumeRef>,
}

/// One volume: by its name, which can change hands, or by its id, which cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeRef {
    /// The volume that has the name when the call gets to it.
    Name(VolumeName),
    /// The volume that the caller looked up before, whatever its name is by now.
    Id(VolumeId),
}

/// Which volumes are meant.
#[derive(Debug, Clone, Default)]
pub struct VolumeFilter {
    /// Part of the name.
    pub name: String,
    /// `key` or `key=value`, all of them.
    pub labels: Vec<String>,
    /// The driver; empty for any.
    pub driver: String,
    /// Those that nothing holds, or something.
    pub dangling: Option<bool>,
    /// Those in the trash.
    pub deleted: bool,
}

/// A volume as it is described to clients.
#[derive(Debug, Clone)]
pub struct VolumeEntry {
    /// Its record.
    pub volume: Arc<Volume>,
    /// Where its content is.
    pub path: PathBuf,
    /// Number of attachments.
    pub attachments: usize,
}

/// Volumes: their folders, and who works on them.
#[derive(Debug)]
pub struct Volumes {
    pub(crate) root: Arc<Root>,
    pub(crate) dirs: Arc<VolumeDirs>,
    pub(crate) locks: Locks,
    pins: Pins,
    plans: Plans,
    marks: Marks<VolumeId>,
}

impl Volumes {
    /// Nothing is looked at on the disk.
    pub(crate) fn new(root: Arc<Root>, dirs: Arc<VolumeDirs>) -> Self {
        Self {
            root,
            dirs,
            locks: Locks::default(),
            pins: Pins::default(),
            plans: Plans::default(),
            marks: Marks::default(),
        }
    }

    /// Creates a volume, or answers the one that is there if it is as asked. Durable on return.
    /// An empty one costs three directories and a shared flush; a clone a look at each file, and
    /// the content too where the file system cannot share blocks.
    ///
    /// # Errors
    /// `Exists` if the name has other settings, naming the field; `Missing` if the volume to clone
    /// is; `Invalid` if an option breaks a rule; `Full`, also if the disk's reserve is reached. Nothing is
    /// visible then.
    pub fn create_volume(&self, request: &CreateVolume) -> Result<(VolumeEntry, bool), Error> {
        let top = top(request)?;
        if let Some(name) = &request.name
            && let Some(there) = self.root.store.records().volumes().find(name)
        {
            self.check_volume_same(there, request)?;
            return Ok((self.volume_entry(there.clone()), false));
        }
        self.root.check_reserve(Area::Volumes)?;
        let source = request
            .clone_of
            .as_ref()
            .map(|source| self.pinned(source))
            .transpose()?;
        let filled_from = source.as_ref().map(Source::filled_from);
        let id = self.root.store.volume_id()?;
        let limit = limit_asked(&request.options)?;
        let volume = new_volume(
            id,
            request,
            filled_from.unwrap_or_default(),
            None,
            self.held_by(limit),
        )?;
        let data = self.stage(id, top, limit)?;
        if let Some(source) = &source {
            self.copy_volume(source.id(), &volume, &data)?;
        }
        self.publish_volume(volume, request)
    }

    /// Describes a volume. Reads memory only.
    ///
    /// # Errors
    /// `Missing`, naming those that are near.
    pub fn volume(&self, name: &VolumeName) -> Result<VolumeEntry, Error> {
        let view = self.root.store.records();
        let volume = find(&view, name)?;
        Ok(self.volume_entry(volume.clone()))
    }

    /// Volumes that match, in the order of their creation. Reads memory only.
    #[must_use]
    pub fn volumes(&self, filter: &VolumeFilter) -> Vec<VolumeEntry> {
        let view = self.root.store.records();
        let volumes = view.volumes();
        let all: Vec<_> = if filter.deleted {
            volumes.removed().cloned().collect()
        } else {
            volumes.iter().cloned().collect()
        };
        let is_held = |volume: &Volume| volumes.holders(volume.id).next().is_some();
        let matching = all
            .into_iter()
            .filter(|volume| filter.matches(volume, is_held(volume)));
        matching.map(|volume| self.volume_entry(volume)).collect()
    }

    /// Number of deleted volumes that are not gone for good. Reads memory only.
    #[must_use]
    pub fn volumes_in_trash(&self) -> usize {
        self.root.store.records().volumes().removed().count()
    }

    /// Changes labels, in order. Durable on return.
    ///
    /// # Errors
    /// `Missing`; `Invalid` if the labels would exceed their limit.
    pub fn update_volume(
        &self,
        name: &VolumeName,
        changes: Vec<LabelChange>,
    ) -> Result<VolumeEntry, Error> {
        find(&self.root.store.records(), name)?;
        let volume = self.root.store.relabel_volume(name, changes)?;
        self.root
            .events
            .tell(Topic::Volume, "updated", name.as_str());
        Ok(self.volume_entry(volume))
    }

    /// Gives a volume another name, also while it is attached: its folder stays where it is.
    ///
    /// # Errors
    /// `Missing`; `Exists` if the new name is taken; `Refused` while Docker or Podman uses it, which know
    /// it by name.
    pub fn rename_volume(&self, name: &VolumeName, new: VolumeName) -> Result<VolumeEntry, Error> {
        let held = self.hold_volume(name)?;
        let volume = self.root.store.rename_volume(name, new)?;
        self.relink(name);
        self.relink(&volume.name);
        drop(held);
        self.root
            .events
            .tell(Topic::Volume, "renamed", volume.name.as_str());
        debug!(from = %name, to = %volume.name, "volume renamed");
        Ok(self.volume_entry(volume))
    }

    /// Takes a volume out of the trash, by id or by a name that only one in the trash had.
    ///
    /// # Errors
    /// `Missing` if it is not in the trash; `Exists` if its name is taken and no other was given;
    /// `Invalid` if several had the name.
    pub fn undelete_volume(
        &self,
        id: Option<VolumeId>,
        name: Option<&VolumeName>,
        new: Option<VolumeName>,
    ) -> Result<VolumeEntry, Error> {
        let _pass = self.root.backlog.hold();
        let id = id.map_or_else(|| self.deleted_id(name), Ok)?;
        let _guard = self.locks.hold(id);
        let is_removed = self
            .root
            .store
            .records()
            .volumes()
            .get_removed(id)
            .is_some();
        if is_removed {
            let checked = self.dirs.check_trashed(slot(id));
            checked.map_err(Error::driver("take a volume out of the trash"))?;
        }
        let is_back = is_removed
            && self
                .dirs
                .restore(slot(id))
                .map_err(Error::driver("move a volume out of the trash"))?;
        if !is_back {
            return Err(Refusal::NotInTrash { id }.into());
        }
        let volume = self.root.store.restore_volume(id, new).inspect_err(|_| {
            if let Err(cause) = self.dirs.retire(slot(id)) {
                warn!(error = &cause as &dyn std::error::Error, %id, "move a volume back to the trash");
            }
        })?;
        if let Err(cause) = self.dirs.ready(slot(id)) {
            warn!(error = &cause as &dyn std::error::Error, %id, "mount the image of a volume");
        }
        self.root.trash.restored(Discarded::Volume(id));
        self.root.release_empty_trash();
        self.relink(&volume.name);
        self.root
            .events
            .tell(Topic::Volume, "undeleted", volume.name.as_str());
        Ok(self.volume_entry(volume))
    }

    /// Disk usage of a volume, and the time of the measurement. Without `exact` the last measurement, if
    /// there is one; else it costs one stat(2) a file.
    ///
    /// # Errors
    /// `Missing`; `Internal` if it cannot be read.
    pub fn volume_usage(
        &self,
        name: &VolumeName,
        exact: bool,
    ) -> Result<(Usage, Timestamp), Error> {
        let view = self.root.store.records();
        let volume = find(&view, name)?;
        if let Some(figure) = volume.usage
            && !exact
        {
            return Ok(figure);
        }
        // As of the moment when the walk begins: what is written later may not be in it.
        let taken = Timestamp::now();
        self.check_limited(volume.id)?;
        let measured = self
            .dirs
            .usage(slot(volume.id), &|| !self.root.backlog.is_stopping());
        let measured = measured.map_err(|cause| {
            // It may have been deleted meanwhile.
            match self.root.store.records().volumes().get(volume.id) {
                Some(_) => Error::driver("measure a volume")(cause),
                None => no_volume(&view, name),
            }
        })?;
        let usage = Usage {
            bytes: measured.bytes,
            inodes: measured.inodes,
        };
        self.root.store.set_volume_usage(volume.id, usage, taken)?;
        Ok((usage, taken))
    }

    /// Lets staged content appear as a volume and records it. If another call was first, its
    /// volume is the answer, if it is as asked.
    fn publish_volume(
        &self,
        volume: Volume,
        request: &CreateVolume,
    ) -> Result<(VolumeEntry, bool), Error> {
        let id = volume.id;
        let _guard = self.locks.hold(id);
        self.dirs
            .publish(slot(id))
            .map_err(Error::driver("put a volume in its place"))?;
        match self.root.store.create_volume(volume) {
            Ok(volume) => {
                self.settle_volume(id);
                self.relink(&volume.name);
                self.root
                    .events
                    .tell(Topic::Volume, "created", volume.name.as_str());
                debug!(name = %volume.name, %id, "volume created");
                Ok((self.volume_entry(volume), true))
            }
            Err(cause) => {
                self.drop_unrecorded(id);
                let there = request
                    .name
                    .as_ref()
                    .and_then(|name| self.root.store.records().volumes().find(name).cloned());
                match (cause, there) {
                    (layerd_store::Error::Refused(Refusal::VolumeTaken { .. }), Some(there)) => {
                        self.check_volume_same(&there, request)?;
                        Ok((self.volume_entry(there), false))
                    }
                    (cause, _) => Err(cause.into()),
                }
            }
        }
    }

    pub(crate) fn volume_entry(&self, volume: Arc<Volume>) -> VolumeEntry {
        VolumeEntry {
            path: self.dirs.data_path(slot(volume.id)),
            attachments: self
                .root
                .store
                .records()
                .volumes()
                .holders(volume.id)
                .count(),
            volume,
        }
    }

    /// Why the content of a volume could not be opened.
    pub(crate) fn not_opened(&self, id: VolumeId, cause: layerd_mounts::Error) -> Error {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        let is_gone = cause.io_kind().is_some_and(|kind| gone.contains(&kind));
        match self.root.store.records().volumes().get(id) {
            Some(volume) if is_gone => Error::Volume(VolumeError::NoContent {
                name: volume.name.clone(),
                path: self.dirs.data_path(slot(id)),
            }),
            _ => Error::driver("open a volume")(cause),
        }
    }

    fn deleted_id(&self, name: Option<&VolumeName>) -> Result<VolumeId, Error> {
        let view = self.root.store.records();
        let Some(name) = name else {
            return Err(BadInput::new("id", "name a deleted volume by its id or its name").into());
        };
        let mut found = view
            .volumes()
            .removed()
            .filter(|volume| volume.name == *name);
        match (found.next(), found.next()) {
            (None, _) => Err(Error::Volume(VolumeError::NotInTrash {
                name: name.clone(),
            })),
            (Some(only), None) => Ok(only.id),
            (Some(first), Some(second)) => {
                let rule = format!(
                    "several deleted volumes had the name {name}; give an id, such as {} or {}",
                    first.id, second.id
                );
                Err(BadInput::new("name", rule).into())
            }
        }
    }
}

impl VolumeFilter {
    fn matches(&self, volume: &Volume, is_held: bool) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => volume.labels.get(key) == Some(value),
            None => volume.labels.get(wanted).is_some(),
        };
        volume.name.as_str().contains(&self.name)
            && (self.driver.is_empty() || volume.driver == self.driver)
            && self.labels.iter().all(has)
            && self.dangling.is_none_or(|dangling| dangling != is_held)
    }
}

/// The volume of this name, or an error that names those that are near.
pub(crate) fn find<'v>(view: &'v Records, name: &VolumeName) -> Result<&'v Arc<Volume>, Error> {
    view.volumes()
        .find(name)
        .ok_or_else(|| no_volume(view, name))
}

fn no_volume(view: &Records, name: &VolumeName) -> Error {
    /// Most names that an error suggests.
    const NEAR: usize = 3;
    let wanted = name.as_str();
    let is_near = |other: &&Arc<Volume>| {
        let other = other.name.as_str();
        other.starts_with(wanted) || wanted.starts_with(other) || other.eq_ignore_ascii_case(wanted)
    };
    let near = view.volumes().iter().filter(is_near).take(NEAR);
    Error::Volume(VolumeError::NoVolume {
        name: name.clone(),
        near: near.map(|volume| volume.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests;
