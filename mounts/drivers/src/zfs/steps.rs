//! The steps that calls consist of: what is known of a layer, and how one is made, frozen and thawed.

use std::path::{Path, PathBuf};

use layerd_mounts::{Error, Slot};
use nix::errno::Errno;
use nix::unistd::syncfs;

use super::{Known, Zfs, unmade};
use crate::dirs::{LAYER_MODE, give};
use crate::driver::{Base, Owner, Survey as _};

impl Zfs {
    /// Properties of a layer: one call if they are not known.
    pub(super) fn known(&self, slot: Slot) -> Result<Known, Error> {
        if let Some(known) = self.known.lock().get(&slot) {
            return Ok(*known);
        }
        match self.datasets.look(slot)? {
            Some(found) => {
                let known = Known::from(&found);
                self.known.lock().insert(slot, known);
                Ok(known)
            }
            None => Err(self.missing(slot)),
        }
    }

    pub(super) fn forget(&self, slot: Slot) {
        self.known.lock().remove(&slot);
    }

    pub(super) fn missing(&self, slot: Slot) -> Error {
        let dataset = self.datasets.layer(slot);
        Error::io("look at", Path::new(&dataset), Errno::ENOENT)
    }

    pub(super) fn is_in_trash(&self, slot: Slot) -> Result<bool, Error> {
        let trash = &self.dirs.trash;
        Ok(trash.has(&slot.to_string())? || trash.has(&unmade(slot))?)
    }

    pub(super) fn mark(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.mark(slot)?;
        // Before the dataset, which is on another disk.
        self.dirs.barrier.note();
        self.dirs.barrier.pass()
    }

    /// Makes the dataset of a marked layer.
    pub(super) fn make(&self, slot: Slot, base: &Base, origin: Option<Slot>) -> Result<(), Error> {
        let limit = base.limit.map(|limit| limit.bytes);
        // The owner is set before.
        let is_read_only = !base.writable && base.owner.is_none();
        let create = || self.datasets.create(slot, origin, is_read_only, limit);
        let made = match (create(), origin) {
            (Err(cause), Some(origin)) if cause.is_missing() => {
                // It was never frozen, or is not there, which this says.
                self.forget(origin);
                self.freeze_layer(origin)?;
                create()
            }
            (made, _) => made,
        };
        made.map_err(|cause| cause.to_error("create", &self.datasets.layer(slot)))?;
        self.known.lock().insert(
            slot,
            Known {
                is_read_only,
                limit,
                ..Known::default()
            },
        );
        match base.owner {
            Some(owner) => self.give_away(slot, owner),
            None => Ok(()),
        }
    }

    /// Gives the top directory of a new layer to its owner, durably.
    pub(super) fn give_away(&self, slot: Slot, owner: Owner) -> Result<(), Error> {
        let dataset = PathBuf::from(self.datasets.layer(slot));
        let top = self.open_layer(slot)?;
        give(&top, (owner.uid, owner.gid, LAYER_MODE), &dataset)?;
        drop(top);
        self.datasets.sync()
    }

    /// Brings what programs wrote through mapped memory into the dataset, so that a snapshot has it.
    pub(super) fn write_content(&self, slot: Slot) -> Result<(), Error> {
        let top = self.open_layer(slot)?;
        syncfs(&top).map_err(|cause| {
            let path = PathBuf::from(self.datasets.layer(slot));
            match cause {
                Errno::EIO | Errno::ENOSPC | Errno::EDQUOT => Error::Lost {
                    path,
                    cause: cause.into(),
                },
                cause => Error::io("sync", &path, cause),
            }
        })
    }

    pub(super) fn freeze_layer(&self, slot: Slot) -> Result<(), Error> {
        let known = self.known(slot)?;
        if known.is_frozen {
            return Ok(());
        }
        if !known.is_read_only {
            self.write_content(slot)?;
        }
        // Until it is known how far it came.
        self.forget(slot);
        self.datasets.freeze(slot, known.is_read_only)?;
        self.known.lock().insert(
            slot,
            Known {
                is_frozen: true,
                is_read_only: true,
                ..known
            },
        );
        Ok(())
    }

    /// Lets a layer be written again whose commit came to nothing.
    pub(super) fn thaw(&self, slot: Slot) -> Result<(), Error> {
        let known = self.known(slot)?;
        if !known.is_frozen && !known.is_read_only {
            return Ok(());
        }
        self.forget(slot);
        self.datasets.thaw(slot)?;
        self.known(slot).map(drop)
    }

    pub(super) fn remove_mark(&self, slot: Slot) -> Result<(), Error> {
        if self
            .known
            .lock()
            .get(&slot)
            .is_some_and(|known| known.is_acknowledged)
        {
            return Ok(());
        }
        self.dirs.remove_work(slot)?;
        if let Some(known) = self.known.lock().get_mut(&slot) {
            known.is_acknowledged = true;
        }
        Ok(())
    }
}
