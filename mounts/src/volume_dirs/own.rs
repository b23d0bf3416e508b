//! The folders below `volumes` that are no volumes. A disk of its own may be mounted there, and may be
//! read-only: they are made when they are needed first.

use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;

use super::VolumeDirs;
use crate::error::Error;
use crate::folder::{Folder, sync_path};
use crate::sys;

#[derive(Debug)]
pub(super) struct Own {
    staging: Folder,
    trash: Folder,
    names: Folder,
}

impl VolumeDirs {
    /// Opens `<root>/volumes`, making it if it is missing. On a read-only disk only its owner and mode
    /// stay what they are.
    pub(super) fn open_live(root: &Path) -> Result<Folder, Error> {
        let live = Folder::make(root, c"volumes")?;
        on_read_only(live.protect())?;
        sync_path(root)?;
        Ok(live)
    }

    /// Makes what is missing, unless the disk is read-only.
    pub(super) fn make_own(&self) -> Result<(), Error> {
        on_read_only(self.own().map(|_| ()))
    }

    /// Where content is made and deleted. Errors as for [`own`](Self::own).
    pub(super) fn staging(&self) -> Result<&Folder, Error> {
        Ok(&self.own()?.staging)
    }

    /// Deleted volumes. Errors as for [`own`](Self::own).
    pub(super) fn trash(&self) -> Result<&Folder, Error> {
        Ok(&self.own()?.trash)
    }

    /// Links for people. Errors as for [`own`](Self::own).
    pub(super) fn names(&self) -> Result<&Folder, Error> {
        Ok(&self.own()?.names)
    }

    /// The folders; makes those that are missing.
    ///
    /// # Errors
    /// [`Error::Io`], with EROFS on a read-only disk that lacks one, with EXDEV if another disk was mounted
    /// on `volumes` since it was opened.
    fn own(&self) -> Result<&Own, Error> {
        if let Some(own) = self.own.get() {
            return Ok(own);
        }
        self.live.protect()?;
        let path = &self.live.path;
        let own = Own {
            staging: Folder::open(path, c".staging")?,
            trash: Folder::open(path, c".trash")?,
            names: Folder::open(path, c"by-name")?,
        };
        let device = |folder: &Folder| {
            let stat = sys::stat(folder.fd.as_fd(), c"");
            stat.map_or_else(
                |cause| Err(Error::io("look at", &folder.path, cause)),
                |stat| Ok(stat.device),
            )
        };
        if device(&own.staging)? != device(&self.live)? {
            return Err(Error::io("open directory", &own.staging.path, Errno::EXDEV));
        }
        sync_path(path)?;
        Ok(self.own.get_or_init(|| own))
    }
}

fn on_read_only(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(cause) if cause.errno() == Some(Errno::EROFS as i32) => Ok(()),
        done => done,
    }
}
