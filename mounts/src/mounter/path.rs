//! Resolution of paths to descriptors: the file found is the file used, also if another process
//! exchanges names meanwhile.

use std::ffi::{CString, OsStr};
use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{AccessFlags, faccessat};

use super::{Handle, Made, MountError, NewSource, Symlinks, Want};
use crate::sys::{self, Identity};

/// Attempts while another process renames directories. Each takes microseconds; 1,000 exchanges a
/// millisecond were not seen to fail more than a few in a row.
const TRIES: u32 = 256;

const INSIDE: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// See [`super::Mounter::open_source`].
pub(crate) fn open_source(path: &Path, symlinks: Symlinks) -> Result<Handle, MountError> {
    absolute(path)?;
    let mut resolve = ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if symlinks == Symlinks::Refuse {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    let top = top()?;
    let fd = look_up(top.as_fd(), path, resolve).map_err(|cause| {
        let fails = |part: &Path| look_up(top.as_fd(), part, resolve).err();
        explain(cause, path, path, first_bad(path, fails))
    })?;
    Handle::new(fd, path)
}

/// See [`super::Mounter::resolve`].
pub(crate) fn resolve(root: &Handle, subpath: &Path, want: Want) -> Result<Handle, MountError> {
    let shown = root.path().join(subpath);
    let inner = if subpath.as_os_str().is_empty() {
        Path::new(".")
    } else {
        subpath
    };
    let fd = look_up(root.as_fd(), inner, INSIDE).map_err(|cause| {
        let escape = || MountError::Escape {
            root: root.path().to_owned(),
            subpath: subpath.to_owned(),
        };
        let fails = |part: &Path| look_up(root.as_fd(), part, INSIDE).err();
        match cause {
            Errno::EXDEV => escape(),
            cause => {
                let bad = first_bad(inner, fails).map(|bad| root.path().join(bad));
                explain(cause, &shown, subpath, bad)
            }
        }
    })?;
    let handle = Handle::new(fd, &shown)?;
    match (want, handle.is_dir()) {
        (Want::Directory, false) => Err(MountError::NotADirectory { path: shown }),
        (Want::File, true) => Err(MountError::IsADirectory { path: shown }),
        _ => Ok(handle),
    }
}

/// Opens an absolute path as a process with `root` as its root directory would, and makes what is
/// missing of it.
pub(super) fn create_in_root(
    root: &Handle,
    path: &Path,
    new: &NewSource,
) -> Result<Handle, MountError> {
    absolute(path)?;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(MountError::BadPath {
            path: path.to_owned(),
            problem: "has `..` in it",
        });
    }
    let names: Vec<&OsStr> = path
        .components()
        .skip(1)
        .map(Component::as_os_str)
        .collect();
    for there in (0..=names.len()).rev() {
        let (inner, missing) = names.split_at(there);
        let mut shown = root.path().to_owned();
        shown.extend(inner);
        let inner: PathBuf = match inner {
            [] => PathBuf::from("."),
            inner => inner.iter().collect(),
        };
        match look_up(root.as_fd(), &inner, resolve) {
            Ok(fd) => {
                return create_missing(Handle::new(fd, &shown)?, missing, new, &mut Vec::new());
            }
            Err(Errno::ENOENT) => {}
            Err(cause) => {
                let fails = |part: &Path| look_up(root.as_fd(), part, resolve).err();
                let bad = first_bad(&inner, fails).map(|bad| root.path().join(bad));
                return Err(explain(cause, &shown, path, bad));
            }
        }
    }
    Err(MountError::Missing {
        path: root.path().to_owned(),
    })
}

/// See [`super::Mounter::check_create`].
pub(crate) fn check_create(path: &Path, new: &NewSource) -> Result<Handle, MountError> {
    let (at, missing) = existing(path, new.symlinks)?;
    if !missing.is_empty() {
        check_open(&at, new)?;
    }
    Ok(at)
}

/// Magic number of the file system of an open file (statfs(2)).
fn file_system(at: &Handle) -> Result<u64, MountError> {
    let fail = |cause| MountError::io("look at", at.path(), cause);
    let kind = rustix::fs::fstatfs(at.as_fd()).map_err(fail)?.f_type;
    Ok(u64::try_from(kind).unwrap_or(0))
}

/// Refuses a mount point in a file system of the kernel's, such as procfs: a runtime writes there after
/// the hooks, and would write into what a container's author put in its place.
pub(super) fn refuse_kernels(at: &Handle) -> Result<(), MountError> {
    let kind = file_system(at)?;
    match KERNELS.iter().find(|(magic, _)| *magic == kind) {
        None => Ok(()),
        Some((_, problem)) => Err(MountError::BadPath {
            path: at.path().to_owned(),
            problem,
        }),
    }
}

/// File systems whose names are the kernel's: making one fails, whatever the mode of the directory.
const KERNELS: [(u64, &str); 11] = [
    (0x9fa0, "it is in procfs"),
    (0x6265_6572, "it is in sysfs"),
    (0x1cd1, "it is in devpts"),
    (0x7363_6673, "it is in securityfs"),
    (0x6462_6720, "it is in debugfs"),
    (0x7472_6163, "it is in tracefs"),
    (0xf97c_ff8c, "it is in selinuxfs"),
    (0x4249_4e4d, "it is in binfmt_misc"),
    (0x6165_676c, "it is in pstore"),
    (0x6573_5543, "it is in fusectl"),
    (0x6e73_6673, "it is in nsfs"),
];
/// Control groups are directories; their files are the kernel's.
const CGROUPS: [u64; 2] = [0x27_e0eb, 0x6367_7270];

/// Refuses a directory in which the kernel would make nothing. What a quota, a full disk or a server
/// forbids shows only when it is tried.
pub(super) fn check_open(at: &Handle, new: &NewSource) -> Result<(), MountError> {
    let closed = |why| {
        let path = at.path().to_owned();
        Err(MountError::Closed { path, why })
    };
    let kind = file_system(at)?;
    if let Some((_, why)) = KERNELS.iter().find(|(magic, _)| *magic == kind) {
        return closed(why);
    }
    if new.file && CGROUPS.contains(&kind) {
        return closed("it is a control group");
    }
    let mode = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(at, ".", mode, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(()),
        Err(Errno::EROFS) => closed("it is read-only"),
        Err(Errno::EPERM) => closed("it is immutable (chattr +i)"),
        Err(Errno::EACCES) => closed("access is denied"),
        Err(cause) => Err(MountError::io("look at", at.path(), cause)),
    }
}

pub(super) fn create_missing(
    mut at: Handle,
    missing: &[&OsStr],
    new: &NewSource,
    made: &mut Vec<Made>,
) -> Result<Handle, MountError> {
    let last = missing.len().saturating_sub(1);
    for (index, name) in missing.iter().enumerate() {
        let shown = at.path().join(name);
        let (fd, is_new) = if new.file && index == last {
            make_file(at.as_fd(), name, &shown, new)?
        } else {
            make_dir(at.as_fd(), name, &shown, new)?
        };
        at = Handle::new(fd, &shown)?;
        if is_new {
            made.push(Made {
                path: shown,
                device: at.device(),
                inode: at.inode(),
            });
        }
    }
    Ok(at)
}

/// See [`super::Mounter::open_existing`].
pub(crate) fn open_existing(path: &Path, symlinks: Symlinks) -> Result<(Handle, bool), MountError> {
    existing(path, symlinks).map(|(handle, missing)| (handle, missing.is_empty()))
}

/// Opens as much of a path as there is. Answers the names that are missing below.
pub(super) fn existing(
    path: &Path,
    symlinks: Symlinks,
) -> Result<(Handle, Vec<&OsStr>), MountError> {
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut there = path;
    loop {
        match open_source(there, symlinks) {
            Ok(handle) => {
                missing.reverse();
                if let Some(first) = missing.first() {
                    refuse_dangling(&handle, first, symlinks)?;
                }
                return Ok((handle, missing));
            }
            Err(MountError::Missing { .. }) => {}
            Err(other) => return Err(other),
        }
        match (there.components().next_back(), there.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                missing.push(name);
                there = parent;
            }
            _ => {
                return Err(MountError::BadPath {
                    path: path.to_owned(),
                    problem: "has `..` after a part that does not exist",
                });
            }
        }
    }
}

/// A symlink to what is missing looks missing itself.
fn refuse_dangling(at: &Handle, name: &OsStr, symlinks: Symlinks) -> Result<(), MountError> {
    let path = at.path().join(name);
    let c_name = CString::new(name.as_bytes()).unwrap_or_default();
    match sys::stat(at.as_fd(), &c_name) {
        Ok(found) if found.is_symlink() => Err(match symlinks {
            Symlinks::Follow => MountError::Dangling { path },
            Symlinks::Refuse => MountError::Symlink { path },
        }),
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        Err(cause) => Err(MountError::io("look at", &path, cause)),
    }
}

impl Handle {
    /// Device and inode of it and of each directory it lies in, itself first, the root last. Goes
    /// by `..`, so mounts are left upwards as `cd ..` leaves them. One look at each.
    ///
    /// # Errors
    /// [`MountError::Io`]; [`MountError::Missing`] for a file that was moved meanwhile.
    pub fn lineage(&self) -> Result<Vec<Identity>, MountError> {
        let fail = |cause| MountError::io("look above", self.path(), cause);
        let mut all = Vec::new();
        let mut at = if self.is_dir() {
            self.fd
                .try_clone()
                .map_err(|cause| MountError::io("look above", self.path(), cause))?
        } else {
            all.push((self.device(), self.inode()));
            let path = self.real_path()?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            open_source(parent, Symlinks::Refuse)?.fd
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut here = sys::mount_and_file(at.as_fd(), c"", false).map_err(fail)?;
        loop {
            all.push(here.1);
            at = openat(&at, "..", flags, Mode::empty()).map_err(fail)?;
            let above = sys::mount_and_file(at.as_fd(), c"", false).map_err(fail)?;
            if above == here {
                return Ok(all); // the root is its own parent
            }
            here = above;
        }
    }
}

/// Answers whether it was made by this call.
fn make_dir(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    new: &NewSource,
) -> Result<(OwnedFd, bool), MountError> {
    let fail = |cause| MountError::io("create directory", shown, cause);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = match mkdirat(dir, name, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false, // made by another process; fine if it is a directory
        Err(cause) => return Err(fail(cause)),
    };
    let fd = openat(dir, name, flags, Mode::empty()).map_err(|cause| match cause {
        Errno::ELOOP | Errno::ENOTDIR => planted(dir, name, shown),
        cause => fail(cause),
    })?;
    if made {
        give(&fd, shown, new.mode, new)?;
    }
    let held = openat(&fd, ".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    Ok((held.map_err(fail)?, made))
}

/// Answers whether it was made by this call.
fn make_file(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    new: &NewSource,
) -> Result<(OwnedFd, bool), MountError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let fail = |cause| MountError::io("create file", shown, cause);
    match openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(fd) => {
            give(&fd, shown, new.mode & !0o111, new)?;
            Ok((fd, true))
        }
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(dir, name, flags, Mode::empty()).map_err(fail)?;
            let found = Handle::new(fd, shown)?;
            if found.is_symlink() {
                return Err(planted(dir, name, shown));
            }
            Ok((found.fd, false))
        }
        Err(cause) => Err(fail(cause)),
    }
}

/// Sets owner and mode, in this order, because a change of owner takes bits of the mode away.
fn give(fd: &OwnedFd, shown: &Path, mode: u32, new: &NewSource) -> Result<(), MountError> {
    std::os::unix::fs::fchown(fd, Some(new.uid), Some(new.gid))
        .map_err(|cause| MountError::io("change owner of", shown, cause))?;
    let copy = fd.try_clone();
    let set = |fd: OwnedFd| std::fs::File::from(fd).set_permissions(Permissions::from_mode(mode));
    copy.and_then(set)
        .map_err(|cause| MountError::io("change mode of", shown, cause))
}

/// Tells a symlink from another thing that was in the way.
fn planted(dir: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> MountError {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = openat(dir, name, flags, Mode::empty())
        .map_err(|cause| MountError::io("open", shown, cause))
        .and_then(|fd| Handle::new(fd, shown));
    let path = shown.to_owned();
    match found {
        Ok(found) if found.is_symlink() => MountError::Symlink { path },
        Ok(_) => MountError::NotADirectory { path },
        Err(error) => error,
    }
}

/// openat2(2) with O_PATH, again and again while a rename gets in its way.
fn look_up(dir: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(resolve);
    for _ in 0..TRIES {
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

/// `bad` is the part of `shown` that fails already, if it is only a part.
fn explain(cause: Errno, shown: &Path, asked: &Path, bad: Option<PathBuf>) -> MountError {
    let whole = bad.is_none();
    let path = bad.unwrap_or_else(|| shown.to_owned());
    match cause {
        Errno::ENOENT => MountError::Missing { path },
        Errno::ENOTDIR if whole => MountError::NotADirectory { path }, // it ends in a slash
        // The component after it cannot be looked up in it.
        Errno::ENOTDIR => MountError::NotADirectory {
            path: path.parent().unwrap_or(&path).to_owned(),
        },
        Errno::ELOOP => MountError::Symlink { path },
        Errno::EAGAIN => MountError::Raced {
            path: shown.to_owned(),
        },
        Errno::ENOSYS => MountError::Unsupported {
            what: "safe resolution of a path (openat2)",
            path: shown.to_owned(),
            advice: "use Linux 5.6 or newer, and let the seccomp filter pass openat2",
            cause: Some(cause.into()),
        },
        Errno::EINVAL if asked.as_os_str().as_bytes().contains(&0) => MountError::BadPath {
            path: asked.to_owned(),
            problem: "holds a zero byte",
        },
        cause => MountError::io("open", shown, cause),
    }
}

/// The shortest part of a path that fails too; for messages, so a race does no harm.
fn first_bad(path: &Path, fails: impl Fn(&Path) -> Option<Errno>) -> Option<PathBuf> {
    let mut part = PathBuf::new();
    for component in path.components() {
        part.push(component);
        if fails(&part).is_some() {
            return Some(part);
        }
    }
    None
}

fn absolute(path: &Path) -> Result<(), MountError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(MountError::BadPath {
        path: path.to_owned(),
        problem: "is not an absolute path",
    })
}

fn top() -> Result<OwnedFd, MountError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open("/", flags, Mode::empty()).map_err(|cause| MountError::io("open", Path::new("/"), cause))
}

#[cfg(test)]
mod tests;
