//! The empty file system that layers without content are snapshots of.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use layerd_mounts::Error;
use layerd_mounts::folder::Folder;
use layerd_mounts::thin::SECTOR;
use nix::errno::Errno;
use nix::sys::stat::fchmod;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::devices::{BASE, Devices, PATIENCE, Pool};
use super::figures::Figures;
use super::home::Note;
use super::pairing::Pairing;
use super::settings::{Access, Options};
use crate::dirs::LAYER_MODE;

/// The note of a new root.
pub(super) fn note(pool: &Pool, options: &Options) -> Note {
    Note {
        pool: pool.name.clone(),
        file_system: options.file_system,
        sectors: options.base_bytes / SECTOR,
        base: None,
    }
}

/// Makes the base, unless it is noted that there is one. An interrupted call begins anew. Durable on
/// return. Costs a run of mkfs, once.
pub(super) fn prepare(
    note: Note,
    home: &Folder,
    devices: &Devices,
    pairing: &Pairing,
) -> Result<Figures, Error> {
    if let Some(base) = note.base {
        return Ok(base);
    }
    devices.deactivate(BASE, PATIENCE)?;
    devices.create_thin(BASE)?;
    devices.activate(BASE, Access::Write)?;
    let path = devices.path(BASE);
    let made = devices.file_system.make(&path);
    made.map_err(|cause| Error::io("make a file system on", &path, cause))?;
    let top = devices.open(BASE, Access::Write)?;
    empty(&top).map_err(|cause| Error::io("empty the file system on", &path, cause))?;
    devices.write_back(BASE, &top)?;
    let figures = devices.figures(BASE, &top)?;
    drop(top);
    devices.deactivate(BASE, PATIENCE)?;
    pairing.advance(devices)?;
    let base = Some(figures);
    Note { base, ..note }.write(home)?;
    Ok(figures)
}

/// A layer is what its archive says: no folder of e2fsck's.
fn empty(top: &OwnedFd) -> io::Result<()> {
    match unlinkat(top, "lost+found", UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(cause) => return Err(cause.into()),
    }
    fchmod(top, LAYER_MODE).map_err(io::Error::from)?;
    let listed = nix::dir::Dir::openat(
        top,
        ".",
        layerd_mounts::folder::FLAGS,
        nix::sys::stat::Mode::empty(),
    )?;
    match listed.into_iter().filter_map(Result::ok).count() {
        // Itself and the one above.
        0..=2 => Ok(()),
        _ => Err(io::Error::new(
            ErrorKind::DirectoryNotEmpty,
            "mkfs made something in it",
        )),
    }
}
