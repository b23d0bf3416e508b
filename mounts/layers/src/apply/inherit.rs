//! Completion of a layer that was unpacked before its parent was known.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, OFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::below::{Below, Merged, Seen};
use crate::apply::{implied, remove};
use crate::copy::Markers;
use crate::dir_stack;
use crate::error::Error;
use crate::node;

mod relocate;

/// Paths whose merged layers are remembered.
const REMEMBERED: usize = 4096;

/// A layer that was unpacked without knowing what lies below, and what unpacking found.
#[derive(Debug, Clone, Copy)]
pub struct Rebase<'a> {
    /// The layer.
    pub layer: BorrowedFd<'a>,
    /// Where opaque directories have their mark.
    pub markers: Markers,
    /// Directories that the archive only implied, as [`apply()`](super::apply()) listed them.
    pub implied: &'a [Vec<u8>],
    /// Whiteouts, as it listed them.
    pub whiteouts: Option<&'a [Vec<u8>]>,
    /// Set if the archive has an entry for the root directory.
    pub top: bool,
}

/// Changes made to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebased {
    /// Bytes of disk by which it grew.
    pub grown: i64,
    /// Whiteouts that were deleted.
    pub deleted: u64,
    /// Set if files were moved to other directories, or the whole lower stack is hidden. Then `grown`
    /// is incomplete.
    pub moved: bool,
}

/// Makes a layer what unpacking it over `lowers`, nearest first, would have made of it: directories
/// without an entry, and the top directory, take over the attributes that they have below;
/// what lies in one that is a symlink below moves to where that leads; whiteouts of what is not
/// there are deleted. Paths that are no directories, or no whiteouts, any more are passed over.
/// May be repeated. Changes are durable after the caller's next wait, as with
/// [`Durable::Content`](crate::Durable).
///
/// Costs a few system calls for each directory and whiteout, and each layer it is looked for in;
/// where whiteouts are not listed, a walk through the layer.
///
/// # Errors
/// [`Error::Io`]; a part may be done then.
pub fn inherit(rebase: &Rebase<'_>, lowers: &[BorrowedFd<'_>]) -> Result<Rebased, Error> {
    let mut adopter = Adopter {
        rebase,
        below: Below::new(lowers, rebase.markers),
        lowers,
        known: HashMap::new(),
        moved: HashMap::new(),
        rebased: Rebased::default(),
    };
    if adopter.hides(Path::new("."))? {
        relocate::dirs(rebase, lowers)?.hide_all()?;
        adopter.rebased.moved = true;
    }
    for path in rebase.implied {
        adopter.directory(as_path(path))?;
    }
    if !rebase.top {
        adopter.top()?;
    }
    each_whiteout(rebase.layer, rebase.whiteouts, |path| {
        adopter.whiteout(path)
    })?;
    Ok(adopter.rebased)
}

/// Deletes the whiteouts of a layer that turned out to have nothing below: looked at without
/// overlayfs they would be devices. See [`inherit`].
///
/// # Errors
/// [`Error::Io`]; some may be deleted then.
pub fn delete_whiteouts(rebase: &Rebase<'_>) -> Result<Rebased, Error> {
    let mut rebased = Rebased::default();
    each_whiteout(rebase.layer, rebase.whiteouts, |path| {
        delete(rebase, path, &mut rebased)
    })?;
    Ok(rebased)
}

struct Adopter<'a> {
    rebase: &'a Rebase<'a>,
    below: Below<'a>,
    lowers: &'a [BorrowedFd<'a>],
    /// Of directories of the layer, the layers below that are one with them.
    known: HashMap<PathBuf, Merged>,
    /// Directories whose content was moved, and where to.
    moved: HashMap<PathBuf, PathBuf>,
    rebased: Rebased,
}

impl Adopter<'_> {
    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        let path = &self.now(path);
        match self.seen(path)? {
            Seen::Directory(model, _) => self.attributes(path, &model),
            Seen::Link(target) => {
                let into = relocate::relocate(self.rebase, self.lowers, path, &target)?;
                if let Some(into) = into {
                    self.moved.insert(path.clone(), into);
                    self.rebased.moved = true;
                }
                Ok(())
            }
            Seen::Nothing | Seen::Other => Ok(()),
        }
    }

    fn top(&mut self) -> Result<(), Error> {
        let Some(nearest) = self.lowers.first() else {
            return Ok(());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let model = dir_stack::open_below(*nearest, Path::new("."), flags)
            .map_err(|cause| Error::io("look in a lower layer at", Path::new(""), cause))?;
        self.attributes(Path::new("."), &model)
    }

    fn attributes(&mut self, path: &Path, model: &OwnedFd) -> Result<(), Error> {
        let Some(dir) = open(self.rebase.layer, path)? else {
            return Ok(());
        };
        let before = blocks(&dir, path)?;
        let given = implied::attributes(model, path)?.to(dir.as_fd());
        given.map_err(|(attempt, cause)| Error::io(attempt, path, cause))?;
        self.rebased.grown += (blocks(&dir, path)? - before) * 512;
        Ok(())
    }

    /// Where a file lies by now that was unpacked at `path`.
    fn now(&self, path: &Path) -> PathBuf {
        let mut path = path.to_owned();
        for _ in 0..=self.moved.len() {
            let mut way = path.ancestors();
            let moved = way.find_map(|dir| Some((dir, self.moved.get(dir)?)));
            let Some((dir, into)) = moved else { break };
            let rest = path.strip_prefix(dir).unwrap_or(Path::new(""));
            path = match rest.as_os_str().is_empty() {
                true => into.clone(),
                false => into.join(rest),
            };
        }
        path
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let path = &self.now(path);
        match self.seen(path)? {
            Seen::Nothing => delete(self.rebase, path, &mut self.rebased),
            _ => Ok(()),
        }
    }

    /// Looks up a path in the lower layers, unless an opaque directory of this layer hides it.
    fn seen(&mut self, path: &Path) -> Result<Seen, Error> {
        let merged = self.merged(path.parent().unwrap_or(Path::new("")))?;
        match merged.is_empty() || path.file_name().is_none() || self.hides(path)? {
            true => Ok(Seen::Nothing),
            false => self.below.look(&merged, path),
        }
    }

    fn merged(&mut self, dir: &Path) -> Result<Merged, Error> {
        if dir.as_os_str().is_empty() {
            return Ok(self.below.root());
        }
        if let Some(merged) = self.known.get(dir) {
            return Ok(Rc::clone(merged));
        }
        let merged = match self.seen(dir)? {
            Seen::Directory(_, merged) => merged,
            _ => Rc::new([]),
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(dir.to_owned(), Rc::clone(&merged));
        Ok(merged)
    }

    /// True if this layer has an opaque directory at `path`.
    fn hides(&self, path: &Path) -> Result<bool, Error> {
        let Some(dir) = open(self.rebase.layer, path)? else {
            return Ok(false);
        };
        let opaque = self.below.is_opaque(dir.as_fd());
        opaque.map_err(|cause| Error::io("read the attributes of", path, cause))
    }
}

fn blocks(dir: &OwnedFd, path: &Path) -> Result<i64, Error> {
    let stat = node::stat(dir.as_fd()).map_err(|cause| Error::io("look at", path, cause))?;
    Ok(i64::try_from(stat.blocks).unwrap_or(0))
}

/// Calls `act` for each whiteout that is listed, or for each device in the layer if none are.
fn each_whiteout(
    layer: BorrowedFd<'_>,
    listed: Option<&[Vec<u8>]>,
    mut act: impl FnMut(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    match listed {
        Some(listed) => listed.iter().try_for_each(|path| act(as_path(path))),
        None => remove::walk(layer, &mut |path, stat| match stat.is_whiteout() {
            true => act(path),
            false => Ok(()),
        }),
    }
}

/// Deletes a whiteout; the times of its directory stay.
fn delete(rebase: &Rebase<'_>, path: &Path, rebased: &mut Rebased) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let Some(dir) = open(rebase.layer, parent)? else {
        return Ok(());
    };
    let failed = |cause| Error::io("delete", path, cause);
    let name = super::names::c_name(name.as_encoded_bytes())?;
    match node::find(dir.as_fd(), &name) {
        Ok((_, stat)) if stat.is_whiteout() => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(cause) => return Err(failed(cause)),
    }
    let before = node::stat(dir.as_fd()).map_err(failed)?;
    rustix::fs::unlinkat(&dir, &*name, AtFlags::empty()).map_err(failed)?;
    let times = Timestamps {
        last_access: before.accessed,
        last_modification: before.modified,
    };
    rustix::fs::futimens(&dir, &times).map_err(failed)?;
    let shrunk = i64::try_from(before.blocks).unwrap_or(0) - blocks(&dir, parent)?;
    rebased.grown -= shrunk * 512;
    rebased.deleted += 1;
    Ok(())
}

/// A directory of a layer, if it is one.
fn open(layer: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match dir_stack::open_below(layer, path, flags) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(cause) => Err(Error::io("open directory", path, cause)),
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests;
