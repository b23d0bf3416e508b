//! Lists directories of volumes by name: for the daemon, and for tools while none runs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{open, openat, readlinkat};
use nix::sys::stat::Mode;

use super::limited::has_limit;
use super::{DATA, FoundVolumes, NEW, VolumeDirs};
use crate::Slot;
use crate::error::Error;
use crate::folder::{FLAGS, Folder};
use crate::limit;

/// Our folders below `volumes`, and what mkfs puts on a disk of its own that is mounted there.
const OWN: [&str; 5] = [".staging", ".trash", "by-name", ".lost", "lost+found"];

impl VolumeDirs {
    /// Lists what is on disk under `root` without changing anything. A root without layerd's folders
    /// holds nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn survey(root: &Path) -> Result<FoundVolumes, Error> {
        match open(&root.join("volumes"), FLAGS, Mode::empty()) {
            Ok(fd) => list(&Folder {
                fd,
                path: root.join("volumes"),
            }),
            Err(Errno::ENOENT) => Ok(FoundVolumes::default()),
            Err(cause) => Err(Error::io("open directory", &root.join("volumes"), cause)),
        }
    }

    /// Lists what is on disk, in no order. Cost: a read of each of layerd's own directories, and four
    /// looks at each volume, and two reads of an image.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<FoundVolumes, Error> {
        list(&self.live)
    }
}

fn list(live: &Folder) -> Result<FoundVolumes, Error> {
    let mut found = FoundVolumes::default();
    live_ones(live, &mut found)?;
    if let Some(folder) = existing(live, OWN[0])? {
        found.staged = staged(&folder, &mut found.unknown_entries)?;
    }
    if let Some(folder) = existing(live, OWN[1])? {
        found.has_trash = true;
        found.trashed = slots(&folder, &[], &mut found.unknown_entries)?;
    }
    if let Some(folder) = existing(live, OWN[2])? {
        links(&folder, &mut found)?;
    }
    Ok(found)
}

fn existing(parent: &Folder, name: &str) -> Result<Option<Folder>, Error> {
    let path = parent.path.join(name);
    match openat(&parent.fd, name, FLAGS, Mode::empty()) {
        Ok(fd) => Ok(Some(Folder { fd, path })),
        Err(Errno::ENOENT) => Ok(None),
        Err(cause) => Err(Error::io("open directory", &path, cause)),
    }
}

fn live_ones(folder: &Folder, found: &mut FoundVolumes) -> Result<(), Error> {
    found.live = slots(folder, &OWN, &mut found.unknown_entries)?;
    for slot in &found.live {
        if folder.has(&format!("{slot}/{NEW}"))? {
            found.new.push(*slot);
        }
        if !folder.has(&format!("{slot}/{DATA}"))? {
            found.hollow.push(*slot);
        }
        if has_limit(folder, *slot)? {
            found.with_limit.push(*slot);
        }
        if limit::has_image(folder, &slot.to_string())?
            && let Some(problem) = limit::image_problem(&folder.path.join(slot.to_string()))
        {
            found.bad_images.insert(*slot, problem);
        }
    }
    Ok(())
}

/// Directories that were being made, or what a power cut left of them: where there is no journal, a name
/// may be on the disk before the directory, and names what had its inode before.
fn staged(folder: &Folder, unknown_entries: &mut Vec<PathBuf>) -> Result<Vec<Slot>, Error> {
    let mut slots = Vec::new();
    each(folder, |name, _| {
        let slot = name.to_str().and_then(|name| name.parse::<Slot>().ok());
        match slot {
            Some(slot) => slots.push(slot),
            None => unknown_entries.push(folder.path.join(name)),
        }
    })?;
    Ok(slots)
}

fn slots(
    folder: &Folder,
    own: &[&str],
    unknown_entries: &mut Vec<PathBuf>,
) -> Result<Vec<Slot>, Error> {
    let mut slots = Vec::new();
    each(folder, |name, kind| {
        let slot = name.to_str().and_then(|name| name.parse::<Slot>().ok());
        match slot {
            Some(slot) if kind == Some(Type::Directory) => slots.push(slot),
            _ if own.iter().any(|own| name == *own) => {}
            _ => unknown_entries.push(folder.path.join(name)),
        }
    })?;
    Ok(slots)
}

fn links(folder: &Folder, found: &mut FoundVolumes) -> Result<(), Error> {
    each(folder, |name, _| {
        let target = readlinkat(&folder.fd, name).ok();
        let slot = target.as_ref().and_then(|target| {
            let target = target.to_str()?.strip_prefix("../")?;
            target.strip_suffix(DATA)?.strip_suffix('/')?.parse().ok()
        });
        match (slot, name.to_str()) {
            (Some(slot), Some(name)) => drop(found.links.insert(name.to_owned(), slot)),
            _ => found.unknown_entries.push(folder.path.join(name)),
        }
    })
}

fn each(folder: &Folder, mut visit: impl FnMut(&OsStr, Option<Type>)) -> Result<(), Error> {
    let fail = |cause: Errno| Error::io("read directory", &folder.path, cause);
    let mut dir = Dir::openat(&folder.fd, ".", FLAGS, Mode::empty()).map_err(fail)?;
    for entry in dir.iter() {
        let entry = entry.map_err(fail)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            visit(name, entry.file_type());
        }
    }
    Ok(())
}
