//! Directories that an archive only implies.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::Target;
use crate::apply::dirs::{Dirs, Id, MOST_LINKS, New};
use crate::apply::give::{Give, Owner};
use crate::error::Error;
use crate::node::{self, Kind};
use crate::trail;

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
            // Something else took its place, or the place of a directory on the way.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
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
            // `fs.protected_symlinks` forbids to follow one that another user owns, in a
            // directory with the sticky bit. What a layer holds must not depend on that setting.
            Err(Errno::ACCESS) => return follow(lower, path),
            other => return other,
        }
    }
}

/// Finds a path as [`find`] does, reading the symlinks instead of having the kernel follow them.
fn follow(lower: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut todo = names(path);
    let (mut at, mut links) = (PathBuf::new(), 0);
    let mut found = rustix::io::fcntl_dupfd_cloexec(lower, 0)?;
    while let Some(name) = todo.pop() {
        if name == ".." {
            at.pop();
        } else {
            at.push(name);
        }
        let path = if at.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &at
        };
        found = trail::open_below(lower, path, OFlags::PATH)?;
        if node::stat(found.as_fd())?.kind() != Kind::Symlink {
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&found, c"", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        at.pop();
        if target.is_absolute() {
            at.clear();
        }
        todo.extend(names(target));
    }
    Ok(found)
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path
        .components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        });
    names.collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::{File, create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    /// Inode or error number.
    fn seen(found: Result<OwnedFd, Errno>) -> Result<u64, i32> {
        let stat = found.map(|found| rustix::fs::fstat(found).unwrap());
        stat.map(|stat| stat.st_ino)
            .map_err(|cause| cause.raw_os_error())
    }

    #[test]
    fn follow_finds_what_the_kernel_finds() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        create_dir_all(path("usr/lib/deep")).unwrap();
        write(path("usr/file"), "").unwrap();
        for (name, target) in [
            ("lib", "usr/lib"),
            ("root", "/"),
            ("absolute", "/usr/lib"),
            ("above", "../../../usr"),
            ("usr/lib/up", "../../lib/deep"),
            ("usr/lib/deep/far", "../../../absolute/./deep/.."),
            ("loop", "loop"),
            ("one", "two"),
            ("two", "/one"),
            ("dangling", "nowhere"),
            ("slash", "usr/lib/"),
        ] {
            symlink(target, path(name)).unwrap();
        }
        let lower = File::open(home.path()).unwrap();
        let tried = [
            "usr/lib",
            "lib",
            "lib/deep",
            "root/lib/up",
            "absolute/deep",
            "above/lib",
            "lib/up/far/deep",
            "loop",
            "loop/a",
            "one/a",
            "dangling",
            "dangling/a",
            "usr/file",
            "usr/file/a",
            "lib/missing",
            "slash/deep",
            "root/root/above/file",
            "lib/up",
        ];
        for name in tried {
            let [ours, theirs] =
                [follow, find].map(|way| seen(way(lower.as_fd(), Path::new(name))));
            assert_eq!(ours, theirs, "{name}");
        }
    }
}
