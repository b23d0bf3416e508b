//! Layers that are made before it is known what lies below them.
//!
//! From release 2.2 on, containerd can unpack the layers of an image at the same time. It prepares
//! each without a parent and names the parent when it commits, one after the other. Such a layer
//! is mounted over an empty directory, so that deletions can be noted in it. What only the layers
//! below could have told is made up for by Commit, before the record is written, and may be made
//! up for again after a crash:
//!
//! - Directories that the archive only implied, and the top directory, get the attributes that
//!   they have below; what lies in one that is a symlink there moves to where that leads; and
//!   whiteouts of what is not there are deleted. Which ones these are is known of layers that layerd unpacked since it was
//!   started. In others they stay 0755 and root's, as with containerd's own snapshotters.
//! - A layer that is committed without a parent is the lowest. Its whiteouts, likewise, are deleted:
//!   a view of it would show them as devices.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use layerd_layers::Layering;
use layerd_layers::apply::{Rebase, delete_whiteouts, inherit};
use layerd_store::{Commit, Create, Kind, Record, Records, Usage};
use tracing::debug;

use super::memory::Found;
use crate::layers::labels::REF;
use crate::layers::snapshots::find;
use crate::stack::Top;
use crate::{Error, LayerError, Layers, slot};

impl Layers {
    /// True if a new snapshot may get its parent at Commit only.
    pub(crate) fn defers_parent(&self, create: &Create) -> bool {
        self.root.options.rebase
            && self.driver.features().deferred_parents
            && create.kind == Kind::Active
            && create.parent.is_none()
            && create.labels.get(REF).is_some()
    }

    /// Makes up for what was not known of an active layer, if it `has_deferred_parent`; answers what it holds by
    /// then, if that is known. Costs a few system calls for each directory that was implied.
    ///
    /// # Errors
    /// `Refused` if the stack is too high to mount, or if a layer of an image that does not float
    /// is to get a parent; `Damaged` if a layer below is; `Full`, `Internal`. The snapshot stays
    /// active.
    pub(crate) fn rebase_onto_parent(
        &self,
        view: &Records,
        active: &Record,
        commit: &Commit,
        usage: Option<Usage>,
    ) -> Result<Option<Usage>, Error> {
        if !active.has_deferred_parent {
            return match is_bound(active, commit) {
                true => Err(Error::Layer(LayerError::NotRebased {
                    key: active.key.clone(),
                })),
                false => Ok(usage),
            };
        }
        let parent = commit.parent.as_ref().map(|name| find(view, name));
        let parent = parent.transpose()?;
        if let Some(parent) = parent {
            self.quarantine.check_stack(view, parent)?;
            let stack = Top::rebased(active, parent).stack(view);
            self.plan(&active.key, &stack)?;
        }
        match self.unpacks.found(active.id, &active.key)? {
            Some(found) => self.make_up(view, active, parent, &found, usage),
            None => {
                debug!(key = active.key.as_str(), id = %active.id, "not unpacked by this process");
                Ok(usage)
            }
        }
    }

    fn make_up(
        &self,
        view: &Records,
        active: &Record,
        parent: Option<&Arc<Record>>,
        found: &Found,
        usage: Option<Usage>,
    ) -> Result<Option<Usage>, Error> {
        // Of whole trees none has a deferred parent.
        let Layering::Diff(markers) = self.directories()?.layering() else {
            return Err(self.lacks("deferred parents"));
        };
        let layer = self.driver.open_layer(slot(active.id));
        let layer = layer.map_err(Error::driver("open a layer"))?;
        let rebase = Rebase {
            layer: layer.as_fd(),
            markers,
            implied: &found.implied,
            whiteouts: found.whiteouts.as_deref(),
            top: found.top,
        };
        let rebased = match parent {
            Some(parent) => {
                let lowers = self.open_layers(view, parent)?;
                let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
                inherit(&rebase, &lowers)
            }
            None => delete_whiteouts(&rebase),
        };
        let rebased = rebased.map_err(|cause| {
            Error::Layer(LayerError::Unpack {
                key: active.key.clone(),
                cause,
            })
        })?;
        if rebased.moved {
            self.drop_digests(active.id);
        }
        let usage = usage.filter(|_| !rebased.moved).map(|usage| Usage {
            bytes: usage.bytes.saturating_add_signed(rebased.grown),
            inodes: usage.inodes.saturating_sub(rebased.deleted),
        });
        if self.is_full() {
            self.note_filled()?;
        }
        Ok(usage)
    }
}

/// True if a layer of an image was prepared while `rebase` was off, and is to get a parent all the
/// same. It was a bind mount, where deletions are executed and leave no trace.
fn is_bound(active: &Record, commit: &Commit) -> bool {
    active.parent.is_none() && commit.parent.is_some() && active.labels.get(REF).is_some()
}
