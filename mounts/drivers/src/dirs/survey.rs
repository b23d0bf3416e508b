//! Lists directories below a root by name: for a running driver, and for tools while none runs.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use layerd_mounts::folder::{FLAGS, Folder};
use layerd_mounts::{Error, Slot, tree};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::Mode;

use crate::driver::{Found, SlotKind};

/// Folder of layers, unless a driver has another one.
pub(crate) const LAYERS: &str = "l";

/// Our folders, and what is in each.
pub(super) const FOLDERS: [(SlotKind, &str); 3] = [
    (SlotKind::Layer, LAYERS),
    (SlotKind::Work, "w"),
    (SlotKind::Trash, "t"),
];

/// The folders of a root that no daemon serves, opened for each call and never changed.
#[derive(Debug, Clone)]
pub(crate) struct Offline {
    pub(crate) root: PathBuf,
    /// Folder of the layers.
    pub(crate) layers: &'static str,
    /// A further folder, in which nothing belongs.
    pub(crate) empty: Option<&'static str>,
}

impl Offline {
    pub(crate) fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let folders = FOLDERS.map(|(kind, name)| match kind {
            SlotKind::Layer => (Some(kind), self.layers),
            SlotKind::Work | SlotKind::Trash => (Some(kind), name),
        });
        let empty = self.empty.map(|name| (None, name));
        for (kind, name) in folders.into_iter().chain(empty) {
            if let Some(folder) = self.folder(name)? {
                list_folder(kind, &folder, &mut found)?;
            }
        }
        Ok(found)
    }

    pub(crate) fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let path = self.root.join(self.layers).join(slot.to_string());
        let opened = nix::fcntl::open(&path, FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &path, cause))
    }

    /// True if the directory of a slot is empty or missing in all of `folders`.
    pub(crate) fn hold_nothing(&self, folders: &[&str], slot: Slot) -> Result<bool, Error> {
        for name in folders {
            if let Some(folder) = self.folder(name)?
                && !holds_nothing(&folder, slot)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if a folder has an entry of this name, whatever its type.
    pub(crate) fn has(&self, folder: &str, name: &str) -> Result<bool, Error> {
        self.folder(folder)?
            .map_or(Ok(false), |folder| folder.has(name))
    }

    fn folder(&self, name: &str) -> Result<Option<Folder>, Error> {
        let path = self.root.join(name);
        match nix::fcntl::open(&path, FLAGS, Mode::empty()) {
            Ok(fd) => Ok(Some(Folder { fd, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(cause) => Err(Error::io("open directory", &path, cause)),
        }
    }
}

/// True if the directory of a slot in a folder is empty or missing.
pub(crate) fn holds_nothing(folder: &Folder, slot: Slot) -> Result<bool, Error> {
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

/// Name of the image of a layer in the trash.
pub(crate) fn image_name(slot: Slot) -> String {
    format!("{slot}.i")
}

/// Name of what held a layer to a size in the trash.
pub(crate) fn limited_name(slot: Slot) -> String {
    format!("{slot}.c")
}

/// Name of the whole tree of a layer in the trash.
pub(crate) fn tree_name(slot: Slot) -> String {
    format!("{slot}.r")
}

pub(super) fn list_folder(
    kind: Option<SlotKind>,
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
        let wanted = match kind {
            Some(SlotKind::Trash) if name.to_bytes().ends_with(b".i") => Type::File,
            _ => Type::Directory,
        };
        let kind = kind.filter(|_| entry.file_type() == Some(wanted));
        let slot = kind.and_then(|kind| Some((kind, slot_of(kind, name)?)));
        found.push(match slot {
            Some((kind, slot)) => Found::Slot(kind, slot),
            None => Found::UnknownEntry(folder.path.join(OsStr::from_bytes(name.to_bytes()))),
        });
    }
    drop_repeats(found, first);
    Ok(())
}

fn slot_of(kind: SlotKind, name: &CStr) -> Option<Slot> {
    let name = name.to_str().ok()?;
    let number = match kind {
        SlotKind::Trash => {
            let beside = [".w", ".i", ".r", ".c"];
            let mut stripped = beside.iter().filter_map(|end| name.strip_suffix(end));
            stripped.next().unwrap_or(name)
        }
        SlotKind::Layer | SlotKind::Work => name,
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
