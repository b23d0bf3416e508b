//! The way to the directory of an entry.
//!
//! Symlinks are followed within the layer, whose directory is their root. Where the layer has
//! nothing by a name, but a layer below has a symlink, that is followed: the entry belongs where
//! it would lie if the layer were unpacked upon the others. Directories that are missing are made
//! as they are below.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Dirs, Found, Id, New, ROOT};
use crate::apply::below::Seen;
use crate::apply::implied;
use crate::apply::names::{c_name, clean};
use crate::error::Error;
use std::os::unix::ffi::OsStrExt;

/// Symlinks on the way to one file.
pub(in crate::apply) const MOST_LINKS: usize = 255;

/// Where a name leads.
enum Step {
    Into(Id),
    Follow(CString),
    Nowhere,
}

impl Dirs<'_> {
    /// Finds the directory of these names. What is missing is made if `make` says so; else the
    /// answer is `None`.
    pub(in crate::apply) fn resolve(
        &mut self,
        names: &[&[u8]],
        make: bool,
    ) -> Result<Option<Id>, Error> {
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = todo.pop() {
            if let Some(id) = self.child(at, &name) {
                at = id;
                continue;
            }
            let name = c_name(&name)?;
            at = match self.step(at, &name, make)? {
                Step::Into(id) => id,
                Step::Nowhere => return Ok(None),
                Step::Follow(target) => {
                    links += 1;
                    self.check_links(links, at, &name)?;
                    self.turn(at, target.as_bytes(), &mut todo);
                    ROOT
                }
            };
        }
        Ok(Some(at))
    }

    /// Directories made by [`resolve`](Self::resolve) so far.
    pub(in crate::apply) fn made(&self) -> u64 {
        self.made
    }

    fn step(&mut self, at: Id, name: &CStr, make: bool) -> Result<Step, Error> {
        if make && let Some(step) = self.imply(at, name, false)? {
            return Ok(step);
        }
        Ok(match self.enter(at, name)? {
            Found::Directory(id) => Step::Into(id),
            Found::Link(target) => Step::Follow(target),
            Found::Whiteout if make => {
                if !self.revoke_note(at, name)? {
                    self.revoke(at, name)?;
                }
                self.imply(at, name, true)?.unwrap_or(Step::Nowhere)
            }
            Found::Whiteout => Step::Nowhere,
            Found::Nothing => match self.look_below(at, name)? {
                Seen::Link(target) => Step::Follow(target),
                _ => Step::Nowhere,
            },
            Found::Other => {
                let path = self.join(at, name);
                let found = "no directory";
                return Err(Error::NotADirectory { path, found });
            }
        })
    }

    /// Makes a directory that has no entry: that which is below, or another one if the layer
    /// deletes it. `None` if something is there.
    fn imply(&mut self, parent: Id, name: &CStr, anew: bool) -> Result<Option<Step>, Error> {
        let anew = self.revoke_note(parent, name)? || anew;
        let here = self.open(parent)?;
        match rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => return Ok(None),
            other => {
                other.map_err(|cause| self.failed("create directory", parent, name, cause))?;
            }
        }
        let below = match anew {
            true => Seen::Nothing,
            false => self.look_below(parent, name)?,
        };
        if let Seen::Link(target) = below {
            let here = self.open(parent)?;
            let removed = rustix::fs::unlinkat(here, name, AtFlags::REMOVEDIR);
            removed.map_err(|cause| self.failed("replace", parent, name, cause))?;
            return Ok(Some(Step::Follow(target)));
        }
        let id = self.inherit(parent, name, below)?;
        if anew {
            self.hide(id)?;
        }
        self.made += 1;
        Ok(Some(Step::Into(id)))
    }

    /// Makes a directory known that was just made, with the attributes of the one below.
    fn inherit(&mut self, parent: Id, name: &CStr, below: Seen) -> Result<Id, Error> {
        let path = self.join(parent, name);
        let model = match below {
            Seen::Directory(model, _) => Some(implied::attributes(&model, &path)?),
            _ => None,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(self.open(parent)?, name, flags, Mode::empty())
            .map_err(|cause| Error::io("open directory", &path, cause))?;
        let mut plain = self.is_plain(parent);
        if !plain && model.is_none() {
            rustix::fs::fchmod(&open, Mode::from_raw_mode(0o755))
                .map_err(|cause| Error::io("change the mode of", &path, cause))?;
        }
        if let Some(attributes) = &model {
            attributes
                .but_times(open.as_fd())
                .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
            plain &= attributes.keeps_plain(self.setting.us);
        }
        let new = New {
            plain,
            implied: model.is_none(),
            times: model.map(|attributes| attributes.times),
        };
        self.add(parent, name, open, new)
    }

    fn check_links(&self, links: usize, at: Id, name: &CStr) -> Result<(), Error> {
        if links <= MOST_LINKS {
            return Ok(());
        }
        Err(self.failed("resolve", at, name, Errno::LOOP))
    }

    /// Names to resolve after a symlink in `at`, from the root on.
    fn turn(&self, at: Id, target: &[u8], todo: &mut Vec<Vec<u8>>) {
        let before = self.path(at);
        let mut path = Vec::new();
        if !target.starts_with(b"/") {
            path.extend_from_slice(before.as_os_str().as_bytes());
            path.push(b'/');
        }
        path.extend_from_slice(target);
        todo.extend(clean(&path).into_iter().rev().map(<[u8]>::to_vec));
    }
}
