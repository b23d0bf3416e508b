//! Directories that an archive only implies.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::Target;
use crate::apply::dirs::{Dirs, Id, New};
use crate::apply::give::{Give, Owner};
use crate::error::Error;
use crate::node::{self, Kind};

/// Makes the directory `name` in `parent`, like the nearest lower layer that has it. `None` if
/// something is there.
pub(super) fn make(
    dirs: &mut Dirs,
    parent: Id,
    name: &CStr,
    target: &Target<'_>,
    us: Owner,
) -> Result<Option<Id>, Error> {
    let here = dirs.open(parent)?;
    match rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => return Ok(None),
        other => {
            other.map_err(|cause| Error::io("create directory", &dirs.join(parent, name), cause))?
        }
    }
    let path = dirs.join(parent, name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(dirs.open(parent)?, name, flags, Mode::empty())
        .map_err(|cause| Error::io("open directory", &path, cause))?;
    let model = model(target.lowers, &path)?;
    let mut plain = dirs.is_plain(parent);
    if !plain && model.is_none() {
        rustix::fs::fchmod(&open, Mode::from_raw_mode(0o755))
            .map_err(|cause| Error::io("change the mode of", &path, cause))?;
    }
    if let Some(give) = &model {
        give.but_times(open.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        plain &= give.keeps_plain(us);
    }
    let new = New {
        plain,
        implied: model.is_none(),
        times: model.map(|give| give.times),
    };
    dirs.add(parent, name, open, new).map(Some)
}

/// The attributes of a directory in the nearest layer that has something of that path. `None` if
/// it is no directory there.
pub(super) fn model(lowers: &[BorrowedFd<'_>], path: &Path) -> Result<Option<Give>, Error> {
    for lower in lowers {
        match find(*lower, path) {
            Err(Errno::NOENT) => {}
            // Something else took its place, or the place of a directory on the way. Symlinks in
            // directories with the sticky bit the kernel may not follow (EACCES).
            Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
            other => {
                let found =
                    other.map_err(|cause| Error::io("look in a lower layer at", path, cause))?;
                return attributes(&found, path);
            }
        }
    }
    Ok(None)
}

/// Finds a path in a layer. Symlinks are followed within it.
fn find(lower: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(lower, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
}

fn attributes(found: &OwnedFd, path: &Path) -> Result<Option<Give>, Error> {
    let failed = |cause| Error::io("look in a lower layer at", path, cause);
    let stat = node::stat(found.as_fd()).map_err(failed)?;
    if stat.kind() != Kind::Directory {
        return Ok(None);
    }
    let mut xattrs = node::xattrs(found.as_fd()).map_err(failed)?;
    // Overlayfs' own notes are about that layer, not this one.
    xattrs.retain(|(name, _)| !name.to_bytes().starts_with(b"trusted."));
    Ok(Some(Give {
        owner: Some((stat.uid, stat.gid)),
        xattrs,
        mode: Some(stat.permissions()),
        times: Timestamps {
            last_access: stat.accessed,
            last_modification: stat.modified,
        },
    }))
}
