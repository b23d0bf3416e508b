//! Gives a tree to a group.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, fchownat};

use super::each::each_below;
use super::fd_path;
use crate::error::Error;
use crate::sys::{self, Stat};

const VERB: &str = "set the group of";
/// Mode bits of a directory: access of the group, and setgid, so that new files belong to the group.
const DIRECTORY: u32 = 0o2770;
/// Mode bits of any other file.
const FILE: u32 = 0o660;

/// Gives `top` and all below it to `group`, which may read and write it from then on; directories pass
/// the group on to what is made in them. Symlinks are not followed; mounts inside are left out, as is
/// what vanishes meanwhile. `top` comes last: where it is as wanted, nothing is looked at. `shown` is its
/// path, for errors. Cost: three calls a file.
///
/// # Errors
/// [`Error::Stopped`] when `keep_going`, asked before each entry, answers false. [`Error::Io`] for the
/// first failure, after everything else was tried; `top` is as it was then.
pub fn give_group(
    top: BorrowedFd<'_>,
    shown: &Path,
    group: u32,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let failed = |attempt, cause: Errno| Error::io(attempt, shown, cause);
    let stat = sys::stat(top, c"").map_err(|cause| failed("look at", cause))?;
    if stat.gid == group && stat.mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    let change = |file: BorrowedFd<'_>, stat: &Stat| give(file, stat, group);
    each_below(top, shown, VERB, &change, keep_going)?;
    give(top, &stat, group).map_err(|cause| failed(VERB, cause))
}

/// The owner's change first: it takes the set-group-id bit away.
fn give(file: BorrowedFd<'_>, stat: &Stat, group: u32) -> Result<(), Errno> {
    if stat.gid != group {
        let group = Some(Gid::from_raw(group));
        fchownat(file, "", None, group, AtFlags::AT_EMPTY_PATH)?;
    }
    let is_symlink = stat.mode & 0o170_000 == 0o120_000;
    let wanted = match stat.is_dir() {
        true => DIRECTORY,
        false => FILE,
    };
    if is_symlink || (stat.gid == group && stat.mode & wanted == wanted) {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate((stat.mode & 0o7777) | wanted);
    let path = fd_path(file);
    fchmodat(file, path.as_path(), mode, FchmodatFlags::FollowSymlink)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn root_a_tree_is_given_to_a_group_once() {
        crate::test_support::set_umask();
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(dir.path().join("outside"), "").unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        fs::set_permissions(top.join("a/file"), fs::Permissions::from_mode(0o4500)).unwrap();
        symlink(dir.path().join("outside"), top.join("a/link")).unwrap();
        let open = fs::File::open(&top).unwrap();
        let give = || give_group(open.as_fd(), &top, 4711, &|| true).unwrap();
        give();
        let of = |name: &str| {
            let found = fs::symlink_metadata(top.join(name)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(of(""), (4711, 0o2775));
        assert_eq!(of("a/b"), (4711, 0o2775));
        assert_eq!(of("a/file"), (4711, 0o4760), "set-user-id stays");
        assert_eq!(of("a/link").0, 4711);
        let outside = fs::metadata(dir.path().join("outside")).unwrap();
        assert_eq!(outside.gid(), 0, "no symlink is followed");
        // What comes from elsewhere later stays: the top folder is as wanted.
        std::os::unix::fs::chown(top.join("a/file"), None, Some(0)).unwrap();
        give();
        assert_eq!(of("a/file").0, 0);
    }

    #[test]
    fn root_a_failure_leaves_the_top_for_the_next_try() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let open = fs::File::open(dir.path()).unwrap();
        let stopped = give_group(open.as_fd(), dir.path(), 4711, &|| false);
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert_eq!(fs::metadata(dir.path()).unwrap().gid(), 0);
    }
}
