//! Deletions: as overlayfs notes them, or executed.

use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::apply::Whiteouts;
use crate::apply::dirs::{Found, Id, c_name};
use crate::apply::give::{Give, refused};
use crate::apply::place::Placer;
use crate::apply::sweep;
use crate::error::Error;
use crate::tar::Entry;

/// Bytes that all names in the lists of the result may have.
const MOST_LISTED: usize = 16 << 20;

impl Placer<'_> {
    fn list(&mut self, name: &[u8]) -> Result<(), Error> {
        self.listed += name.len() + size_of::<Vec<u8>>();
        if self.listed > MOST_LISTED {
            let (what, limit) = ("bytes in the names of whiteouts", MOST_LISTED as u64);
            return Err(Error::Limit { what, limit });
        }
        Ok(())
    }

    pub(super) fn opaque(&mut self, dir: Id) -> Result<(), Error> {
        let Whiteouts::Devices(markers) = self.target.whiteouts else {
            return self.clear(dir);
        };
        let here = self.dirs.open(dir)?;
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::fsetxattr(here, markers.opaque(), b"y", flags);
        set.map_err(|cause| Error::io("mark as opaque", &self.dirs.path(dir), cause))
    }

    /// Deletes what this layer did not bring.
    fn clear(&mut self, dir: Id) -> Result<(), Error> {
        let Some(own) = &self.own else {
            return Ok(()); // there is nothing else
        };
        let path = self.dirs.path(dir);
        let failed = |cause| Error::io("read directory", &path, cause);
        let names = sweep::names(self.dirs.open(dir)?).map_err(failed)?;
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
            return self.remove(dir, &name);
        }
        let give = Give::all(entry)?;
        let owner = give
            .owner
            .filter(|owner| *owner != self.us || !self.dirs.is_plain(dir));
        let here = self.dirs.open(dir)?;
        let made = rustix::fs::mknodat(here, &*name, FileType::CharacterDevice, Mode::empty(), 0);
        match made {
            Err(Errno::EXIST) => {
                return Err(refused(
                    &entry.path,
                    "a whiteout of what is in the same layer",
                ));
            }
            other => other.map_err(|cause| self.failed("create whiteout", dir, &name, cause))?,
        }
        if let Some((uid, gid)) = owner {
            let here = self.dirs.open(dir)?;
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            rustix::fs::chownat(
                here,
                &*name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|cause| self.failed("change the owner of", dir, &name, cause))?;
        }
        self.shared.count(0);
        let path = self.dirs.join(dir, &name).into_os_string().into_vec();
        self.list(&path)?;
        self.whiteouts.push(path);
        Ok(())
    }
}
