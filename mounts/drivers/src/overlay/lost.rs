//! Where things go that layerd does not know: kept, out of the way, for a person to look at.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layerd_mounts::Error;
use layerd_mounts::folder::sync_path;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::survey::work_name;
use crate::driver::{Found, Place};

/// Moves an entry to `<root>/lost/<folder>-<name>`, with a number behind it if that is taken. A
/// slot in the trash has a directory, a work directory, or both; all of them are moved. Durable on
/// return.
pub(super) fn set_aside(root: &Path, found: &Found) -> Result<PathBuf, Error> {
    let source = match found {
        Found::Slot(Place::Trash, slot) => {
            let folder = root.join("t");
            let [layer, work] = [slot.to_string(), work_name(*slot)].map(|name| folder.join(name));
            let is_there = |path: &Path| path.symlink_metadata().is_ok();
            match (is_there(&layer), is_there(&work)) {
                (true, true) => {
                    move_aside(root, work)?;
                    layer
                }
                (false, true) => work,
                (_, false) => layer,
            }
        }
        Found::Slot(Place::Layer, slot) => root.join("l").join(slot.to_string()),
        Found::Slot(Place::Work, slot) => root.join("w").join(slot.to_string()),
        Found::Stranger(path) => path.clone(),
    };
    move_aside(root, source)
}

fn move_aside(root: &Path, source: PathBuf) -> Result<PathBuf, Error> {
    let lost = root.join("lost");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&lost);
    made.map_err(|cause| Error::io("create directory", &lost, cause))?;
    sync_path(root)?;
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
        match renameat2(
            AT_FDCWD,
            &source,
            AT_FDCWD,
            &target,
            RenameFlags::RENAME_NOREPLACE,
        ) {
            Ok(()) => break,
            Err(nix::Error::EEXIST) => {}
            Err(cause) => return Err(Error::io("move", &source, cause)),
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
