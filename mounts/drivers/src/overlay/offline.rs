//! Layers of a root that no daemon serves.

use std::os::fd::OwnedFd;

use layerd_mounts::{Error, Slot};

use super::images::{self, recover};
use super::{FOLDERS, limited, needs_work};
use crate::dirs::{Offline, limited_name};
use crate::driver::{Base, CheckedImage, Found, Survey};

/// Folders of overlayfs's layers that no daemon serves.
#[derive(Debug)]
pub(super) struct OfflineOverlay(pub(super) Offline);

impl Survey for OfflineOverlay {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.0.list()?;
        recover::list(&self.0.root, &mut found)?;
        limited::list(&self.0.root, &mut found)?;
        Ok(found)
    }

    fn needs_work(&self, base: &Base) -> bool {
        needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(!recover::holds_image(&self.0.root, slot, false)
            && !limited::was_mounted(&self.0.root, slot)
            && self.0.hold_nothing(&["l", "w"], slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        Ok(!recover::holds_image(&self.0.root, slot, true)
            && !limited::was_mounted(&self.0.root, slot)
            && !self.0.has("t", &limited_name(slot))?
            && self.0.hold_nothing(&["l", "w", "t"], slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.0.open_layer(slot)
    }

    fn check_image(
        &self,
        slot: Slot,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<Option<CheckedImage>, Error> {
        if !recover::holds_image(&self.0.root, slot, false) {
            return Ok(None);
        }
        let folder = self.0.root.join(images::IMAGES);
        images::checked(&folder, slot, keep_going).map(Some)
    }
}
