//! One call at a time for a volume.
//!
//! A call that changes what a volume is or where its folder stands (create, delete, undelete, rename,
//! exchange of its content, purge) or relies on that (mount) holds the volume by its id, and decides
//! by its newest record once it does: a name may have changed hands while it waited. What takes long
//! holds it only at its ends: who reads the content (clone, snapshot, export) pins it, so that it is
//! not deleted meanwhile, and who fills it holds it for the exchange alone.
//!
//! Order: a pass of the reaper, then a volume, then the links. Nothing waits for a volume while it
//! holds another.

use std::sync::Arc;

use layerd_store::{Volume, VolumeId, VolumeName};
use tracing::warn;

use super::{find, slot};
use crate::keyed_lock::{KeyedGuard, KeyedLock};
use crate::{Error, Volumes};

/// Locks of volumes.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    volumes: KeyedLock<VolumeId>,
    /// One call at a time fills a volume.
    pub(crate) filling: KeyedLock<VolumeId>,
    /// The links for people.
    links: KeyedLock<()>,
}

impl Locks {
    /// Waits until no other call changes a volume.
    pub(crate) fn hold(&self, id: VolumeId) -> KeyedGuard<'_, VolumeId> {
        self.volumes.lock(&id)
    }

    /// Number of threads that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.volumes.waiting() + self.filling.waiting() + self.links.waiting()
    }
}

/// A volume that is there, and stays as it is until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'e> {
    pub(crate) volume: Arc<Volume>,
    _guard: KeyedGuard<'e, VolumeId>,
}

impl Volumes {
    /// Holds the volume that has a name then.
    ///
    /// # Errors
    /// `Missing`.
    pub(crate) fn hold_volume(&self, name: &VolumeName) -> Result<Held<'_>, Error> {
        loop {
            let id = find(&self.root.store.records(), name)?.id;
            if let Some(held) = self.hold_volume_id(id)
                && held.volume.name == *name
            {
                return Ok(held);
            }
        }
    }

    /// Holds a volume by its id; `None` if it is not there, or in the trash.
    pub(crate) fn hold_volume_id(&self, id: VolumeId) -> Option<Held<'_>> {
        let _guard = self.locks.hold(id);
        let volume = self.root.store.records().volumes().get(id)?.clone();
        Some(Held { volume, _guard })
    }

    /// Has the link of a name lead to the volume that has the name now, if there is one. Nothing
    /// rests on the links for people.
    pub(super) fn relink(&self, name: &VolumeName) {
        let _guard = self.locks.links.lock(&());
        let view = self.root.store.records();
        let linked = match view.volumes().find(name) {
            Some(volume) => self.dirs.link(name.as_str(), slot(volume.id)),
            None => self.dirs.unlink(name.as_str()),
        };
        if let Err(cause) = linked {
            warn!(error = &cause as &dyn std::error::Error, %name, "link the name of a volume");
        }
    }
}
