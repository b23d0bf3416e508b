//! The layers below, as overlayfs shows them through a directory of the layer that is unpacked.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::apply::remove;
use crate::copy::{Markers, Note};
use crate::dir_stack;
use crate::error::Error;
use crate::node::{self, Kind, Stat};

/// The lower layers, by number, whose directories are one with a directory; nearest first.
pub(super) type Merged = Rc<[usize]>;

/// Result of a lookup in a stack of layers.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nothing, or it is deleted.
    Nothing,
    /// A directory: that of the nearest layer, and all that are merged in it.
    Directory(OwnedFd, Merged),
    /// A symlink, and its target.
    Link(CString),
    /// Anything else.
    Other,
}

/// Layers, nearest first. They are only read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Below<'a> {
    lowers: &'a [BorrowedFd<'a>],
    markers: Markers,
}

impl<'a> Below<'a> {
    pub(super) fn new(lowers: &'a [BorrowedFd<'a>], markers: Markers) -> Self {
        Self { lowers, markers }
    }

    /// False without lower layers: for the lowest layer, or one whose parent is deferred to Commit.
    pub(super) fn is_known(&self) -> bool {
        !self.lowers.is_empty()
    }

    /// The layers that are merged in the root directory.
    pub(super) fn root(&self) -> Merged {
        (0..self.lowers.len()).collect()
    }

    /// Looks up `path`, whose parent is a directory in all of `merged` and leads through no
    /// symlink. Costs one to three system calls for each of them, up to the one that decides.
    pub(super) fn look(&self, merged: &[usize], path: &Path) -> Result<Seen, Error> {
        let failed = |cause| Error::io("look in a lower layer at", path, cause);
        let mut top = None;
        let mut numbers = Vec::new();
        for number in merged {
            let Some((found, stat)) = find(self.lowers[*number], path).map_err(failed)? else {
                if self.deletes(*number, path).map_err(failed)? {
                    break;
                }
                continue;
            };
            if stat.kind() != Kind::Directory {
                if top.is_none() {
                    return self.no_directory(&found, &stat).map_err(failed);
                }
                break;
            }
            let is_opaque = self.is_opaque(found.as_fd()).map_err(failed)?;
            numbers.push(*number);
            top.get_or_insert(found);
            if is_opaque {
                break;
            }
        }
        Ok(top.map_or(Seen::Nothing, |top| Seen::Directory(top, numbers.into())))
    }

    /// The names in the root directory, as far as any layer has them.
    pub(super) fn names(&self) -> Result<BTreeSet<CString>, Error> {
        let failed = |cause| Error::io("read a lower layer", Path::new(""), cause);
        let mut all = BTreeSet::new();
        for lower in self.lowers {
            let names = remove::names(*lower).map_err(failed)?;
            all.extend(
                names
                    .into_iter()
                    .filter(|name| self.markers.note(name) == Note::No),
            );
        }
        Ok(all)
    }

    /// True if a directory of a layer is opaque.
    pub(super) fn is_opaque(&self, dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        self.markers.is_opaque(dir)
    }

    /// True if a layer has a note of its own name that what is at a path below is deleted.
    fn deletes(&self, number: usize, path: &Path) -> Result<bool, Errno> {
        let name = path.file_name().unwrap_or_default();
        let name = CString::new(name.as_bytes()).unwrap_or_default();
        let Some(note) = self.markers.deletion(&name) else {
            return Ok(false);
        };
        let note = path.with_file_name(OsStr::from_bytes(note.to_bytes()));
        find(self.lowers[number], &note).map(|found| found.is_some())
    }

    fn no_directory(&self, found: &OwnedFd, stat: &Stat) -> Result<Seen, Errno> {
        Ok(match stat.kind() {
            _ if self.markers.is_whiteout(stat) => Seen::Nothing,
            Kind::Symlink => Seen::Link(rustix::fs::readlinkat(found, c"", Vec::new())?),
            _ => Seen::Other,
        })
    }
}

/// A file of one layer. What is below a symlink there, or below a file, is nothing of this path.
fn find(layer: BorrowedFd<'_>, path: &Path) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    match dir_stack::open_below(layer, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        found => {
            let found = found?;
            let stat = node::stat(found.as_fd())?;
            Ok(Some((found, stat)))
        }
    }
}
