//! Deletions: as overlayfs notes them, or executed.

use std::ffi::CStr;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::AtFlags;

use crate::apply::Whiteouts;
use crate::apply::attributes::PendingAttributes;
use crate::apply::dirs::{Found, Id};
use crate::apply::extract::Extractor;
use crate::apply::names::c_name;
use crate::apply::remove;
use crate::copy::Note;
use crate::error::Error;
use crate::tar::Entry;

/// Bytes that all names in the list of the result may have.
pub(in crate::apply) const MOST_LISTED: usize = 16 << 20;

impl Extractor<'_> {
    /// Adds a whiteout to the list, or gives the list up.
    fn list(&mut self, path: Vec<u8>) {
        self.listed += path.len() + size_of::<Vec<u8>>();
        match &mut self.whiteouts {
            Some(list) if self.listed <= MOST_LISTED => list.push(path),
            _ => self.whiteouts = None,
        }
    }

    pub(super) fn opaque(&mut self, dir: Id) -> Result<(), Error> {
        match self.target.whiteouts {
            Whiteouts::Devices(_) => self.dirs.hide(dir),
            Whiteouts::Delete => self.clear(dir),
        }
    }

    /// Deletes what has a name, but for what this layer brought.
    fn delete(&mut self, dir: Id, name: &CStr) -> Result<(), Error> {
        let Some(own) = &self.own else {
            return Ok(()); // there is nothing else
        };
        if !own.has(&self.dirs.join(dir, name)) {
            return self.remove(dir, name);
        }
        match self.dirs.enter(dir, name)? {
            Found::Directory(id) => self.clear(id),
            _ => Ok(()),
        }
    }

    /// Deletes what this layer did not bring.
    fn clear(&mut self, dir: Id) -> Result<(), Error> {
        let Some(own) = &self.own else {
            return Ok(()); // there is nothing else
        };
        let path = self.dirs.path(dir);
        let failed = |cause| Error::io("read directory", &path, cause);
        let names = remove::names(self.dirs.open(dir)?).map_err(failed)?;
        let (keep, remove): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| own.has(&self.dirs.join(dir, name)));
        for name in remove {
            self.remove(dir, &name)?;
        }
        for name in keep {
            if let Found::Directory(below) = self.dirs.enter(dir, &name)? {
                self.clear(below)?;
            }
        }
        Ok(())
    }

    pub(super) fn whiteout(&mut self, dir: Id, hidden: &[u8], entry: &Entry) -> Result<(), Error> {
        let name = c_name(hidden)?;
        if self.target.whiteouts == Whiteouts::Delete {
            return self.delete(dir, &name);
        }
        // A name that AUFS keeps for itself is no file's.
        if self
            .markers
            .is_some_and(|markers| markers.note(&name) != Note::No)
            || !self.dirs.shows_below(dir, &name)?
        {
            return Ok(());
        }
        let attributes = PendingAttributes::all(entry)?;
        let owner = attributes
            .owner
            .filter(|owner| *owner != self.us || !self.dirs.is_plain(dir));
        if !self.dirs.make_whiteout(dir, &name)? {
            // What the layer brings is not what it deletes: only what is below is hidden.
            return match self.dirs.enter(dir, &name)? {
                Found::Directory(id) => self.dirs.hide(id),
                _ => Ok(()),
            };
        }
        let note = self.markers.and_then(|markers| markers.deletion(&name));
        if let Some((uid, gid)) = owner {
            let here = self.dirs.open(dir)?;
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            rustix::fs::chownat(
                here,
                note.as_deref().unwrap_or(&name),
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|cause| self.failed("change the owner of", dir, &name, cause))?;
        }
        self.dirs.note_whiteout(dir);
        self.shared.count(0);
        let path = self.dirs.join(dir, &name);
        self.list(path.into_os_string().into_vec());
        Ok(())
    }
}
