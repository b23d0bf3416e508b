//! Datasets and marks as they are found: by the driver, and by tools while no daemon serves the root.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use layerd_mounts::{Error, Slot};

use super::check::{LOCK, OWNER_LINK};
use super::datasets::{Dataset, Datasets, LOST, TRIAL};
use super::program::Programs;
use super::{FOLDERS, HOME, holds_nothing, unmade};
use crate::dirs::Offline;
use crate::driver::{Found, SlotKind, Survey};

/// True for what the driver keeps in its folder.
pub(super) fn is_own(home: &Path, found: &Found) -> bool {
    let Found::UnknownEntry(path) = found else {
        return false;
    };
    [OWNER_LINK, LOCK]
        .iter()
        .any(|name| *path == home.join(name))
}

/// Entries of a root: its marks, and the datasets. One that is marked so is in the trash; others are layers.
pub(super) fn listed(marks: Vec<Found>, datasets: &[Dataset], parent: &str) -> Vec<Found> {
    let trash: HashSet<Slot> = marks
        .iter()
        .filter_map(|mark| match mark {
            Found::Slot(SlotKind::Trash, slot) => Some(*slot),
            _ => None,
        })
        .collect();
    let mut found = marks;
    for dataset in datasets {
        match dataset.name.parse() {
            Ok(slot) if trash.contains(&slot) => {}
            Ok(slot) => found.push(Found::Slot(SlotKind::Layer, slot)),
            Err(_) if [LOST, TRIAL].contains(&&*dataset.name) => {}
            Err(_) => {
                let path = Path::new(parent).join(&dataset.name);
                found.push(Found::UnknownEntry(path));
            }
        }
    }
    found
}

/// Datasets of a root that no daemon serves.
#[derive(Debug)]
pub(super) struct OfflineZfs {
    offline: Offline,
    datasets: Datasets,
}

impl OfflineZfs {
    pub(super) fn new(root: &Path, dataset: &str) -> Self {
        Self {
            offline: Offline {
                root: root.to_owned(),
                layers: HOME,
                empty: None,
            },
            datasets: Datasets::new(Programs::new(), dataset),
        }
    }

    fn is_in_trash(&self, slot: Slot) -> Result<bool, Error> {
        let name = slot.to_string();
        Ok(self.offline.has("t", &name)? || self.offline.has("t", &unmade(slot))?)
    }

    fn open(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let found = self.datasets.look(slot)?;
        let name = self.datasets.layer(slot);
        match found {
            Some(found) if found.is_frozen() => {
                self.datasets.open(&self.datasets.frozen(slot), true)
            }
            Some(found) => self.datasets.open(&name, found.is_read_only),
            None => Err(Error::io(
                "look at",
                Path::new(&name),
                nix::errno::Errno::ENOENT,
            )),
        }
    }
}

impl Survey for OfflineZfs {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut marks = self.offline.list()?;
        let home = self.offline.root.join(HOME);
        marks.retain(|found| !is_own(&home, found));
        // A root that was never used has no datasets, whatever lies below the parent.
        if !home.join(OWNER_LINK).is_symlink() {
            return Ok(marks);
        }
        Ok(listed(marks, &self.datasets.all()?, self.datasets.parent()))
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.offline.has("w", &slot.to_string())?
            || self.is_in_trash(slot)?
            || holds_nothing(self.open(slot), slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        let is_unmade =
            self.offline.has("t", &unmade(slot))? || self.offline.has("w", &slot.to_string())?;
        Ok(is_unmade || holds_nothing(self.open(slot), slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.open(slot)
    }
}
