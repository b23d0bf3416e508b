//! Layers of a root that no daemon serves, and whole trees without a layer.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use layerd_mounts::folder::{FLAGS, Folder};
use layerd_mounts::{Error, Slot};
use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::{FOLDERS, TREES};
use crate::dirs::LayerDirs;
use crate::driver::{Base, Found, Survey};

/// Changes and whole trees that no daemon serves.
#[derive(Debug)]
pub(super) struct OfflineOverlay1<S> {
    pub(super) changes: S,
    pub(super) root: PathBuf,
}

impl<S: Survey> Survey for OfflineOverlay1<S> {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.changes.list()?;
        let path = self.root.join(TREES);
        match nix::fcntl::open(&path, FLAGS, Mode::empty()) {
            Ok(fd) => unknown_trees(&Folder { fd, path }, &self.root.join("l"), &mut found)?,
            Err(Errno::ENOENT) => {}
            Err(cause) => return Err(Error::io("open directory", &path, cause)),
        }
        Ok(found)
    }

    fn needs_work(&self, base: &Base) -> bool {
        self.changes.needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.changes.is_unused(slot)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        self.changes.is_empty(slot)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.changes.open_layer(slot)
    }
}

/// Adds the entries of the folder of whole trees that are no layer's.
pub(super) fn unknown_trees(
    trees: &Folder,
    layers: &Path,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    let mut all = Vec::new();
    LayerDirs::list_unknown_entries(trees, &mut all)?;
    let is_layers = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let slot = name.and_then(|name| Some((name, name.parse::<Slot>().ok()?)));
        slot.is_some_and(|(name, _)| path.is_dir() && layers.join(name).is_dir())
    };
    found.extend(all.into_iter().filter(|entry| match entry {
        Found::UnknownEntry(path) => !is_layers(path),
        Found::Slot(..) => true,
    }));
    Ok(())
}
