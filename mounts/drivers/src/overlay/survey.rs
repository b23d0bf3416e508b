//! What is below a root, by its names: for a running driver, and for tools while none runs.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use layerd_mounts::folder::{FLAGS, Folder};
use layerd_mounts::{Error, Slot, tree};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::Mode;

use super::Overlay;
use crate::driver::{Found, Place};

/// Our folders, and what may be in each.
pub(super) const PLACES: [(Option<Place>, &str); 4] = [
    (Some(Place::Layer), "l"),
    (Some(Place::Work), "w"),
    (Some(Place::Trash), "t"),
    (None, "e"),
];

impl Overlay {
    /// Lists what is on disk under `root` without changing anything. A root without layerd's
    /// folders holds nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn survey(root: &Path) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for (place, name) in PLACES {
            let path = root.join(name);
            match nix::fcntl::open(&path, FLAGS, Mode::empty()) {
                Ok(fd) => list_folder(place, &Folder { fd, path }, &mut found)?,
                Err(Errno::ENOENT) => {}
                Err(cause) => return Err(Error::io("open directory", &path, cause)),
            }
        }
        Ok(found)
    }

    /// Opens the top directory of a layer under `root` to read it, without changing anything.
    ///
    /// # Errors
    /// [`Error::Io`], `NotFound` if there is no such layer.
    pub fn open_layer_of(root: &Path, slot: Slot) -> Result<OwnedFd, Error> {
        let path = root.join("l").join(slot.to_string());
        let opened = nix::fcntl::open(&path, FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &path, cause))
    }

    /// As [`Driver::is_unused`](crate::Driver::is_unused), without changing anything.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_unused_in(root: &Path, slot: Slot) -> Result<bool, Error> {
        is_empty(root, &["l", "w"], slot)
    }

    /// Whether no directory of a layer under `root` holds anything, in its place or in the trash:
    /// one that was made ahead, say.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_empty(root: &Path, slot: Slot) -> Result<bool, Error> {
        is_empty(root, &["l", "w", "t"], slot)
    }
}

fn is_empty(root: &Path, folders: &[&str], slot: Slot) -> Result<bool, Error> {
    for path in folders.iter().map(|name| root.join(name)) {
        let is_empty = match nix::fcntl::open(&path, FLAGS, Mode::empty()) {
            Ok(fd) => holds_nothing(&Folder { fd, path }, slot)?,
            Err(Errno::ENOENT) => true,
            Err(cause) => return Err(Error::io("open directory", &path, cause)),
        };
        if !is_empty {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the directory of a slot in a folder is empty or missing.
pub(super) fn holds_nothing(folder: &Folder, slot: Slot) -> Result<bool, Error> {
    let name = slot.to_string();
    let path = folder.path.join(&name);
    match openat(&folder.fd, name.as_str(), FLAGS, Mode::empty()) {
        Ok(dir) => tree::is_empty(dir.as_fd(), &path),
        Err(Errno::ENOENT) => Ok(true),
        Err(cause) => Err(Error::io("open directory", &path, cause)),
    }
}

pub(super) fn work_name(slot: Slot) -> String {
    format!("{slot}.w")
}

pub(super) fn list_folder(
    place: Option<Place>,
    folder: &Folder,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    let fail = |cause: Errno| Error::io("read directory", &folder.path, cause);
    let mut dir = Dir::openat(&folder.fd, c".", FLAGS, Mode::empty()).map_err(fail)?;
    let first = found.len();
    for entry in dir.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_dir = entry.file_type() == Some(Type::Directory);
        let place = place.filter(|_| is_dir);
        let slot = place.and_then(|place| Some((place, slot_of(place, name)?)));
        found.push(match slot {
            Some((place, slot)) => Found::Slot(place, slot),
            None => Found::Stranger(folder.path.join(OsStr::from_bytes(name.to_bytes()))),
        });
    }
    drop_repeats(found, first);
    Ok(())
}

fn slot_of(place: Place, name: &CStr) -> Option<Slot> {
    let name = name.to_str().ok()?;
    let number = match place {
        Place::Trash => name.strip_suffix(".w").unwrap_or(name),
        Place::Layer | Place::Work => name,
    };
    number.parse().ok()
}

/// A slot may be in the trash under several names.
fn drop_repeats(found: &mut Vec<Found>, first: usize) {
    let mut seen = std::collections::HashSet::new();
    let mut index = 0;
    found.retain(|entry| {
        index += 1;
        match entry {
            Found::Slot(_, slot) if index > first => seen.insert(*slot),
            _ => true,
        }
    });
}
