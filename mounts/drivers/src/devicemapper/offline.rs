//! Layers of a root that no daemon serves.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use layerd_mounts::{Error, Slot};
use nix::errno::Errno;

use super::FOLDERS;
use super::devices::Devices;
use super::look;
use super::settings::Access;
use crate::dirs::{LAYERS, Offline};
use crate::driver::{Found, Survey};

/// Entries by name, and devices of the pool that the root was made with, as soon as one is asked for.
#[derive(Debug)]
pub(super) struct OfflineDevices {
    offline: Offline,
    devices: OnceLock<Option<Devices>>,
}

impl OfflineDevices {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            offline: Offline {
                root: root.to_owned(),
                layers: LAYERS,
                empty: None,
            },
            devices: OnceLock::new(),
        }
    }

    fn devices(&self) -> Result<Option<&Devices>, Error> {
        if let Some(devices) = self.devices.get() {
            return Ok(devices.as_ref());
        }
        let found = look::offline(&self.offline.root)?;
        Ok(self.devices.get_or_init(|| found).as_ref())
    }
}

impl Drop for OfflineDevices {
    fn drop(&mut self) {
        if let Some(Some(devices)) = self.devices.get() {
            devices.sweep(Duration::ZERO);
        }
    }
}

impl Survey for OfflineDevices {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.offline.list()
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        let name = slot.to_string();
        Ok(self.offline.has("w", &name)? || !self.offline.has(LAYERS, &name)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.offline.has("t", &format!("{slot}.w"))? {
            return Ok(true);
        }
        Ok(self.is_unused(slot)? && !self.offline.has("t", &slot.to_string())?)
    }

    /// Read-only: of a layer that was not committed in order, as it was when its journal was emptied last.
    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let path = self.offline.root.join(LAYERS).join(slot.to_string());
        if !self.offline.has(LAYERS, &slot.to_string())? {
            return Err(Error::io("look at", &path, Errno::ENOENT));
        }
        match self.devices()? {
            Some(devices) => devices.open(slot, Access::Read),
            None => Err(Error::io("look for the pool of", &path, Errno::ENOENT)),
        }
    }
}
