//! Start: images and their mounts are listed, and what a crash left of both is made good.
//!
//! | left behind | by a crash in | made good as |
//! |---|---|---|
//! | `i/<slot>.part` | Apply | deleted |
//! | `i/<slot>.dir` | the turning of an image into a directory | deleted; the image is whole |
//! | `i/<slot>.whole` | the same, after all was copied | put in its place, and the image is deleted |
//! | `i/<slot>.old` | the same, when the image had made room | deleted if the directory is in its place, else the layer again |
//! | `x/<slot>` without an image | Remove, after the image was moved | unmounted and deleted |
//! | `x/<slot>` without a mount | the end of the machine, or a copy of the data directory that followed mounts | deleted, with the copy |

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use layerd_mounts::folder::{Folder, c_name};
use layerd_mounts::{Error, Slot, tree};
use tracing::warn;

use super::{IMAGES, LayerImages, MOUNT_POINTS, unlink};
use crate::dirs::{LayerDirs, image_name};
use crate::driver::{Found, SlotKind};

impl LayerImages {
    /// Reads which images there are, and makes good what a crash left.
    pub(in crate::overlay) fn recover(&self, dirs: &LayerDirs) -> Result<(), Error> {
        let (mut whole, mut old) = (Vec::new(), Vec::new());
        for name in names(&self.images.path)? {
            match Name::of(&name) {
                Some((slot, Name::Image)) => self.set_known(slot, true),
                Some((slot, Name::Whole)) => whole.push(slot),
                Some((slot, Name::Old)) => old.push(slot),
                Some((slot, Name::Part)) => unlink(&self.images, &format!("{slot}.part"))?,
                Some((slot, Name::Copy)) => delete(&self.images, &format!("{slot}.dir"), dirs)?,
                None => {}
            }
        }
        for name in names(&self.points.path)? {
            let Some((slot, Name::Image)) = Name::of(&name) else {
                continue;
            };
            match self.access(slot)? {
                Some(access) if self.has(slot) => {
                    self.accesses().insert(slot, access);
                }
                _ => {
                    let gone = self.let_go(slot);
                    match gone.and_then(|()| delete(&self.points, &slot.to_string(), dirs)) {
                        Err(cause @ Error::Busy { .. }) => {
                            warn!("{cause}; it was left alone");
                        }
                        done => done?,
                    }
                }
            }
        }
        for slot in whole {
            self.unmount(slot)?;
            self.put_whole(slot, dirs)?;
            self.set_known(slot, false);
        }
        for slot in old {
            self.recover_old(slot, dirs)?;
        }
        Ok(())
    }
}

/// An entry beside the images, by its name.
enum Name {
    Image,
    Part,
    Copy,
    Whole,
    Old,
}

impl Name {
    fn of(name: &OsStr) -> Option<(Slot, Self)> {
        let name = name.to_str()?;
        let (slot, kind) = match name.split_once('.') {
            None => (name, Self::Image),
            Some((slot, "part")) => (slot, Self::Part),
            Some((slot, "dir")) => (slot, Self::Copy),
            Some((slot, "whole")) => (slot, Self::Whole),
            Some((slot, "old")) => (slot, Self::Old),
            Some(_) => return None,
        };
        Some((slot.parse().ok()?, kind))
    }
}

/// Lists the images of a root, and unknown entries beside them and their mount points. Folders that
/// are not there hold nothing.
pub(in crate::overlay) fn list(root: &Path, found: &mut Vec<Found>) -> Result<(), Error> {
    let layers = found.iter().filter_map(|entry| match entry {
        Found::Slot(SlotKind::Layer, slot) => Some(*slot),
        _ => None,
    });
    let mut layers: HashSet<Slot> = layers.collect();
    let folder = root.join(IMAGES);
    for name in names(&folder)? {
        let path = folder.join(&name);
        match Name::of(&name) {
            Some((slot, Name::Image | Name::Old)) if is_file(&path) => {
                if layers.insert(slot) {
                    found.push(Found::Slot(SlotKind::Layer, slot));
                }
            }
            Some((_, Name::Part | Name::Copy | Name::Whole)) => {}
            _ => found.push(Found::UnknownEntry(path)),
        }
    }
    let folder = root.join(MOUNT_POINTS);
    for name in names(&folder)? {
        if !matches!(Name::of(&name), Some((_, Name::Image))) {
            found.push(Found::UnknownEntry(folder.join(name)));
        }
    }
    Ok(())
}

/// True if the image of a layer is there, or with `or_trash` in the trash.
pub(in crate::overlay) fn holds_image(root: &Path, slot: Slot, or_trash: bool) -> bool {
    let image = root.join(IMAGES).join(slot.to_string());
    image.exists() || or_trash && root.join("t").join(image_name(slot)).exists()
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

fn delete(folder: &Folder, name: &str, dirs: &LayerDirs) -> Result<(), Error> {
    let (barrier, name) = (&dirs.barrier, c_name(name));
    tree::delete(folder.fd.as_fd(), &name, &folder.path, barrier, &|| true)
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    let fail = |cause| Error::io("read directory", folder, cause);
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    entries
        .map(|entry| Ok(entry.map_err(fail)?.file_name()))
        .collect()
}
