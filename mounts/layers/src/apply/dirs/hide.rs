//! Whiteouts and opaque directories of the layer.
//!
//! A whiteout is made only where overlayfs needs one. In a directory that is merged with nothing
//! below, overlayfs lists a whiteout's device although it cannot be opened.

use std::ffi::CStr;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::{Dirs, Found, Id, ROOT};
use crate::apply::below::{Merged, Seen};
use crate::apply::remove;
use crate::copy::{Markers, Note, is_there, make_note};
use crate::error::Error;
use crate::node;

impl Dirs<'_> {
    /// True if a lower layer would show this name, if this layer had nothing there.
    pub(in crate::apply) fn shows_below(&mut self, dir: Id, name: &CStr) -> Result<bool, Error> {
        if !self.setting.below.is_known() {
            return Ok(!self.is_hidden(dir));
        }
        let seen = self.look_below(dir, name)?;
        Ok(!matches!(seen, Seen::Nothing))
    }

    /// Has a directory hide all that is below it. Of use where deletions are noted.
    pub(in crate::apply) fn hide(&mut self, dir: Id) -> Result<(), Error> {
        if let Some(markers) = self.setting.markers
            && !self.all[dir].opaque
        {
            let here = self.open(dir)?;
            let made = markers.make_opaque(here);
            self.noted +=
                made.map_err(|cause| Error::io("mark as opaque", &self.path(dir), cause))?;
            self.all[dir].opaque = true;
        }
        Ok(())
    }

    /// Hides all that is below the layer, name by name: overlayfs merges root directories whatever
    /// their marks. Answers how many whiteouts that took.
    pub(in crate::apply) fn hide_all(&mut self) -> Result<u64, Error> {
        let mut made = 0;
        for name in self.setting.below.names()? {
            match self.make_whiteout(ROOT, &name)? {
                true => made += 1,
                false => {
                    if let Found::Directory(id) = self.enter(ROOT, &name)? {
                        self.hide(id)?;
                    }
                }
            }
        }
        Ok(made)
    }

    /// Notes that what has a name below is deleted; false if this layer has something of that name.
    pub(in crate::apply) fn make_whiteout(&mut self, dir: Id, name: &CStr) -> Result<bool, Error> {
        let note = self
            .setting
            .markers
            .and_then(|markers| markers.deletion(name));
        let here = self.open(dir)?;
        let made = match &note {
            Some(note) => match is_there(here, name) {
                Ok(true) => Ok(false),
                Ok(false) => make_note(here, note),
                Err(cause) => Err(cause),
            },
            None => {
                let kind = FileType::CharacterDevice;
                match rustix::fs::mknodat(here, name, kind, Mode::empty(), 0) {
                    Err(Errno::EXIST) => Ok(false),
                    made => made.map(|()| true),
                }
            }
        };
        made.map_err(|cause| self.failed("create whiteout", dir, name, cause))
    }

    /// Takes the note away that a name is deleted, where such notes have names of their own: something
    /// of its name comes. False if there is none.
    pub(in crate::apply) fn revoke_note(&mut self, dir: Id, name: &CStr) -> Result<bool, Error> {
        if !self.all[dir].has_whiteouts || !self.has_notes() {
            return Ok(false);
        }
        match self.revoke(dir, name) {
            Ok(()) => Ok(true),
            Err(cause) if cause.errno() == Some(libc::ENOENT) => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// True if deletions have names of their own.
    pub(super) fn has_notes(&self) -> bool {
        self.setting.markers.is_some_and(Markers::has_names)
    }

    /// Notes that a whiteout was made in a directory.
    pub(in crate::apply) fn note_whiteout(&mut self, dir: Id) {
        self.all[dir].has_whiteouts = true;
    }

    /// Takes a whiteout of this layer away: something of its name comes in the same layer.
    pub(in crate::apply) fn revoke(&mut self, dir: Id, name: &CStr) -> Result<(), Error> {
        let note = self
            .setting
            .markers
            .and_then(|markers| markers.deletion(name));
        let here = self.open(dir)?;
        let deleted = rustix::fs::unlinkat(here, note.as_deref().unwrap_or(name), AtFlags::empty());
        deleted.map_err(|cause| self.failed("replace", dir, name, cause))?;
        self.revoked += 1;
        Ok(())
    }

    /// Whiteouts that were taken away again.
    pub(in crate::apply) fn revoked(&self) -> u64 {
        self.revoked
    }

    /// Takes the whiteouts away that were made in a directory before it, or one on its way, was
    /// marked as opaque.
    pub(super) fn revoke_hidden(&mut self) -> Result<(), Error> {
        let suspects = self.all.iter().enumerate();
        let suspects: Vec<Id> = suspects
            .filter(|(_, dir)| dir.has_whiteouts && !dir.gone)
            .map(|(id, _)| id)
            .collect();
        for dir in suspects {
            if !self.is_hidden(dir) || self.is_gone(dir) {
                continue;
            }
            let path = self.path(dir);
            let failed = |cause| Error::io("read directory", &path, cause);
            for name in remove::names(self.open(dir)?).map_err(failed)? {
                if let Some(markers) = self.setting.markers.filter(|_| self.has_notes()) {
                    if let Note::Deletes(name) = markers.note(&name) {
                        self.revoke(dir, &name)?;
                    }
                    continue;
                }
                let (_, stat) = node::find(self.open(dir)?, &name)
                    .map_err(|cause| self.failed("look at", dir, &name, cause))?;
                if stat.is_whiteout() {
                    self.revoke(dir, &name)?;
                }
            }
        }
        Ok(())
    }

    fn is_gone(&self, dir: Id) -> bool {
        self.way_up(dir).any(|dir| self.all[dir].gone)
    }

    /// True if it or a directory above it is opaque.
    fn is_hidden(&self, dir: Id) -> bool {
        self.way_up(dir).any(|dir| self.all[dir].opaque)
    }

    /// A directory and those on its way, the root last.
    fn way_up(&self, dir: Id) -> impl Iterator<Item = Id> {
        let parent = |dir: &Id| (*dir != ROOT).then(|| self.all[*dir].parent);
        std::iter::successors(Some(dir), parent)
    }

    /// Looks a name up in the lower layers, regardless of this layer.
    pub(super) fn look_below(&mut self, dir: Id, name: &CStr) -> Result<Seen, Error> {
        let merged = self.merged(dir)?;
        if merged.is_empty() {
            return Ok(Seen::Nothing);
        }
        let path = self.join(dir, name);
        self.setting.below.look(&merged, &path)
    }

    /// The layers below that a directory is one with.
    fn merged(&mut self, dir: Id) -> Result<Merged, Error> {
        if !self.setting.below.is_known() || self.is_hidden(dir) {
            return Ok(Rc::new([]));
        }
        let unknown: Vec<Id> = self
            .way_up(dir)
            .take_while(|dir| *dir != ROOT && self.all[*dir].merged.is_none())
            .collect();
        let known = unknown.last().map_or(dir, |dir| self.all[*dir].parent);
        let mut merged = match &self.all[known].merged {
            Some(merged) => Rc::clone(merged),
            None => self.setting.below.root(),
        };
        for dir in unknown.into_iter().rev() {
            if !merged.is_empty() {
                merged = self.of_one(&merged, &self.path(dir))?;
            }
            self.all[dir].merged = Some(Rc::clone(&merged));
        }
        Ok(merged)
    }

    fn of_one(&self, merged: &[usize], path: &Path) -> Result<Merged, Error> {
        Ok(match self.setting.below.look(merged, path)? {
            Seen::Directory(_, merged) => merged,
            Seen::Nothing | Seen::Link(_) | Seen::Other => Rc::new([]),
        })
    }
}
