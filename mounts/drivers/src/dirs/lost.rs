//! Where things go that layerd does not know: kept, out of the way, for a person to look at.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layerd_mounts::Error;
use layerd_mounts::folder::{FLAGS, sync_path};
use layerd_mounts::tree::flags;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;

use super::survey::{image_name, limited_name, tree_name, work_name};
use crate::driver::{Found, SlotKind};

/// Moves an entry to `<root>/lost/<folder>-<name>`, with a number behind it if that is taken. A
/// slot in the trash has a directory, a work directory, or both; all of them are moved. What is on a
/// disk of its own below `volumes` goes to `volumes/.lost`. Durable on return.
pub(super) fn move_to_lost_found(
    root: &Path,
    layers: &Path,
    found: &Found,
) -> Result<PathBuf, Error> {
    let source = match found {
        Found::Slot(SlotKind::Trash, slot) => {
            let folder = root.join("t");
            let names = [
                slot.to_string(),
                image_name(*slot),
                tree_name(*slot),
                limited_name(*slot),
                work_name(*slot),
            ];
            let paths = names.each_ref().map(|name| folder.join(name));
            let is_there = |path: &&PathBuf| path.symlink_metadata().is_ok();
            let mut there: Vec<&PathBuf> = paths.iter().filter(is_there).collect();
            // What is not there has its error.
            let first = (!there.is_empty()).then(|| there.remove(0));
            for beside in there {
                move_aside(root, beside.clone())?;
            }
            first.unwrap_or(&paths[0]).clone()
        }
        Found::Slot(SlotKind::Layer, slot) => layers.join(slot.to_string()),
        Found::Slot(SlotKind::Work, slot) => root.join("w").join(slot.to_string()),
        Found::UnknownEntry(path) => path.clone(),
    };
    move_aside(root, source)
}

/// Folders on which a disk of its own can be mounted, and that know a `.lost` of theirs.
const OWN_DISKS: [&str; 1] = ["volumes"];

/// By rename, so that it costs nothing and is whole or not at all: where `lost/` is on another file
/// system, to `.lost` in the folder that is on its own.
fn move_aside(root: &Path, source: PathBuf) -> Result<PathBuf, Error> {
    match move_into(root, root.join("lost"), &source) {
        Err(cause) if cause.io_kind() == Some(io::ErrorKind::CrossesDevices) => {
            let top = source
                .strip_prefix(root)
                .ok()
                .and_then(|path| path.iter().next());
            match top.filter(|top| OWN_DISKS.iter().any(|own| own == top)) {
                Some(top) => move_into(root, root.join(top).join(".lost"), &source),
                None => Err(cause),
            }
        }
        moved => moved,
    }
}

fn move_into(root: &Path, lost: PathBuf, source: &Path) -> Result<PathBuf, Error> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&lost);
    made.map_err(|cause| Error::io("create directory", &lost, cause))?;
    sync_path(lost.parent().unwrap_or(root))?;
    let folder = source
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let mut name = OsString::from(folder);
    name.push("-");
    name.push(source.file_name().unwrap_or_default());
    let mut target = lost.join(&name);
    let mut number = 0_u32;
    loop {
        match rename(source, &target) {
            Ok(()) => break,
            Err(Errno::EEXIST) => {}
            Err(cause) => return Err(Error::io("move", source, cause)),
        }
        number += 1;
        let mut numbered = name.clone();
        numbered.push(format!(".{number}"));
        target = lost.join(numbered);
    }
    // Rather there twice than nowhere.
    sync_path(&lost)?;
    sync_path(source.parent().unwrap_or(root))?;
    Ok(target)
}

/// Renames an entry, also an immutable one, which is no longer that. Replaces nothing.
fn rename(source: &Path, target: &Path) -> Result<(), Errno> {
    let (Some(folder), Some(name)) = (source.parent(), source.file_name()) else {
        return Err(Errno::EINVAL);
    };
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let folder = nix::fcntl::open(folder, FLAGS, Mode::empty())?;
    let rename = || {
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(&folder, name.as_c_str(), AT_FDCWD, target, flags)
    };
    flags::without(folder.as_fd(), &name, rename)
}
