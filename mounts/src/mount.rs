//! Makes planned mounts, for `layerctl` and the tests, and mounts images of layers.

use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::openat;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::Error;
use crate::mountinfo::{self, Entry};
use crate::overlay_options::{data as mount_data, shorten};
use crate::sys;
use crate::types::Mount;

/// Result of an [`unmount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It was mounted and no longer is.
    Now,
    /// Nothing was mounted there.
    AlreadyGone,
}

/// Makes `mounts` on the existing directory `target`, in order. After an error none of them stays.
/// Needs CAP_SYS_ADMIN.
///
/// # Errors
/// [`Error::Io`]; [`Error::UnknownOption`] for types other than `bind`, `overlay`, `aufs`, `ext4`,
/// `xfs` and `zfs`, and for the id mappings, which only containerd carries out.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<(), Error> {
    let target = &target
        .canonicalize()
        .map_err(|cause| Error::io("resolve", target, cause))?;
    for (done, step) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(step, target) {
            let is_remount = |step: &&Mount| step.options.iter().any(|option| option == "remount");
            for _ in mounts[..done].iter().filter(|step| !is_remount(step)) {
                unmount(target)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Access of the kernel to an image of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageAccess {
    /// It reads the file itself (EROFS since Linux 6.12; not on tmpfs and overlayfs).
    File,
    /// It reads a loop device, which goes away with the mount.
    LoopDevice,
}

/// Mounts an EROFS image, whose file is open as `file`, read-only on the directory `target`; through a
/// loop device where the kernel does not take the file. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// [`Error::Io`] with the kernel's answer: ENODEV without EROFS.
pub fn mount_image(
    image: &Path,
    file: BorrowedFd<'_>,
    target: &Path,
) -> Result<ImageAccess, Error> {
    let mount = |source: &Path| {
        let kind = Some("erofs");
        nix::mount::mount(Some(source), target, kind, MsFlags::MS_RDONLY, None::<&str>)
    };
    let fail = |cause| Error::io("mount the image on", target, cause);
    match mount(image) {
        Ok(()) => Ok(ImageAccess::File),
        Err(Errno::ENOTBLK) => {
            let attached = sys::loop_device::attach(file);
            let attached =
                attached.map_err(|cause| Error::io("make a loop device of", image, cause));
            let (device, open) = attached?;
            mount(&device).map_err(fail)?;
            drop(open);
            Ok(ImageAccess::LoopDevice)
        }
        Err(cause) => Err(fail(cause)),
    }
}

/// Takes the mounts on `target` away that `is_own` knows, also while they are in use: what uses them goes on.
/// Nothing mounted is success. Costs two looks, and for each mount one at the mount table.
///
/// # Errors
/// [`Error::Busy`] for a mount of another program on `target`, or on something in it: that one stays, and
/// what is below it; [`Error::Io`].
pub fn let_go(target: &Path, is_own: &dyn Fn(&Entry) -> bool) -> Result<(), Error> {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    while let Some(id) = topmost(target)? {
        let table = mountinfo::read()?;
        let busy = |path: &Path| Error::Busy {
            path: path.to_owned(),
        };
        let is_it = |entry: &&Entry| id.map_or(entry.target == target, |id| entry.id == id);
        let found = table.iter().rev().find(is_it).filter(|entry| is_own(entry));
        let own = found.ok_or_else(|| busy(target))?;
        let mut others = table.iter().filter(|entry| entry.id != own.id);
        if let Some(inside) = others.find(|entry| entry.parent == own.id) {
            return Err(busy(&inside.target));
        }
        match umount2(target, flags) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()), // another call was faster
            Err(cause) => return Err(Error::io("unmount", target, cause)),
        }
    }
    Ok(())
}

/// Id of the topmost mount on a directory, if there is one; without its number before Linux 5.8.
fn topmost(target: &Path) -> Result<Option<Option<u64>>, Error> {
    let look = |path: &Path| {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        sys::stat(rustix::fs::CWD, &name)
    };
    let holder = target.parent().unwrap_or(target);
    match (look(target), look(holder)) {
        (Ok(found), Ok(outer)) => Ok((!found.same_mount(&outer)).then_some(found.mount)),
        (Err(Errno::ENOENT | Errno::ENOTDIR), _) | (_, Err(Errno::ENOENT | Errno::ENOTDIR)) => {
            Ok(None)
        }
        (Err(cause), _) | (_, Err(cause)) => Err(Error::io("look at", target, cause)),
    }
}

/// Takes away the topmost mount on `target`. Fails while it is in use; nothing is detached lazily.
///
/// # Errors
/// [`Error::Busy`] if it is in use, else [`Error::Io`].
pub fn unmount(target: &Path) -> Result<Unmounted, Error> {
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Now),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(Unmounted::AlreadyGone),
        Err(Errno::EBUSY) => Err(Error::Busy {
            path: target.to_owned(),
        }),
        Err(cause) => Err(Error::io("unmount", target, cause)),
    }
}

fn mount_one(mount: &Mount, target: &Path) -> Result<(), Error> {
    let unknown = |option: &str| Error::UnknownOption {
        target: target.to_owned(),
        option: option.to_owned(),
    };
    let maps = ["uidmap=", "gidmap="];
    let is_map = |option: &&String| maps.iter().any(|map| option.starts_with(map));
    if let Some(option) = mount.options.iter().find(is_map) {
        return Err(unknown(option));
    }
    match mount.kind.as_str() {
        "bind" => bind(mount, target),
        "overlay" => overlay(mount, target),
        "aufs" => aufs(mount, target),
        "ext4" | "xfs" | "zfs" => device(mount, target),
        other => Err(unknown(other)),
    }
}

fn bind(mount: &Mount, target: &Path) -> Result<(), Error> {
    let (flags, rest) = split_flags(&mount.options);
    if let Some(option) = rest.first() {
        return Err(Error::UnknownOption {
            target: target.to_owned(),
            option: option.clone(),
        });
    }
    let bind = MsFlags::MS_BIND | (flags & MsFlags::MS_REC);
    let source = Path::new(&mount.source);
    sys_mount(Some(source), target, None, bind, None)?;
    let others = flags - MsFlags::MS_REC - MsFlags::MS_BIND;
    if others.is_empty() {
        return Ok(());
    }
    // The kernel looks at other flags only when asked again.
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | others;
    sys_mount(None, target, None, again, None).inspect_err(|_| {
        let _ = unmount(target); // the first error counts
    })
}

fn overlay(mount: &Mount, target: &Path) -> Result<(), Error> {
    let (shared, options) = shorten(&mount.options, page_size());
    let (flags, rest) = split_flags(&options);
    let data = mount_data(&rest);
    let source = PathBuf::from(&mount.source);
    let act = || sys_mount(Some(&source), target, Some("overlay"), flags, Some(&data));
    match shared {
        Some(shared) => in_directory(&shared, act),
        None => act(),
    }
}

/// Mounts branches, or adds some to those that are mounted.
fn aufs(mount: &Mount, target: &Path) -> Result<(), Error> {
    let (flags, rest) = split_flags(&mount.options);
    let source = Some(Path::new(&mount.source));
    sys_mount(
        source,
        target,
        Some("aufs"),
        flags,
        Some(&mount_data(&rest)),
    )
}

/// Mounts the file system of a block device, or a dataset.
fn device(mount: &Mount, target: &Path) -> Result<(), Error> {
    let (flags, rest) = split_flags(&mount.options);
    let (source, kind) = (Path::new(&mount.source), Some(mount.kind.as_str()));
    sys_mount(Some(source), target, kind, flags, Some(&mount_data(&rest)))
}

/// Mounts the file system of a block device, or a dataset of ZFS, where no mount table shows it, and answers
/// its top directory: the mount goes with the last descriptor below it. `options` are words without a
/// value; with `is_read_only` nothing can be written through the mount, whatever the file system allows.
/// Access times stay as they are. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel's answer to fsopen(2), fsconfig(2) or fsmount(2); the log has what else it says.
pub fn detached(
    kind: &str,
    device: &Path,
    options: &[&str],
    is_read_only: bool,
) -> Result<OwnedFd, Errno> {
    let mount = mount_detached(kind, device, options, is_read_only)?;
    openat(&mount, ".", sys::FLAGS, Mode::empty())
}

/// As [`detached`]; answers the mount.
pub(crate) fn mount_detached(
    kind: &str,
    device: &Path,
    options: &[&str],
    is_read_only: bool,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno)?;
    let told = |cause| {
        let mut line = [0; 1024];
        while let Ok(length @ 1..) = nix::unistd::read(&context, &mut line) {
            let said = String::from_utf8_lossy(&line[..length]);
            tracing::info!(device = %device.display(), "{}", said.trim());
        }
        errno(cause)
    };
    fsconfig_set_string(&context, "source", device).map_err(told)?;
    for option in options {
        fsconfig_set_flag(&context, *option).map_err(told)?;
    }
    fsconfig_create(&context).map_err(told)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOATIME;
    if is_read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(told)
}

fn errno(cause: rustix::io::Errno) -> Errno {
    Errno::from_raw(cause.raw_os_error())
}

/// Runs `act` with `dir` as working directory, on a thread that shares it with no other.
fn in_directory<F>(dir: &Path, act: F) -> Result<(), Error>
where
    F: FnOnce() -> Result<(), Error> + Send,
{
    let run = || {
        let fail = |cause: Errno| Error::io("change directory to", dir, cause);
        unshare(CloneFlags::CLONE_FS).map_err(fail)?;
        nix::unistd::chdir(dir).map_err(fail)?;
        act()
    };
    on_thread(run).unwrap_or_else(|cause| Err(Error::io("start a thread for", dir, cause)))
}

/// Gives this thread a mount namespace of its own, of which no other one hears.
///
/// # Errors
/// The kernel's answer to unshare(2) or mount(2).
pub fn own_namespace() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
}

/// Runs `act` on a thread of its own, to the end.
///
/// # Errors
/// If the thread cannot be started.
pub fn on_thread<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mount".to_owned())
            .spawn_scoped(scope, act)?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

pub(crate) fn sys_mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Error> {
    nix::mount::mount(source, target, kind, flags, data)
        .map_err(|cause| Error::io("mount on", target, cause))
}

/// Bytes of a page of memory: what mount(2) copies of its options.
#[must_use]
pub fn page_size() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok());
    size.unwrap_or(4096) // POSIX requires an answer; no Linux has smaller pages
}

fn split_flags(options: &[String]) -> (MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    for option in options {
        match flag(option) {
            Some(flag) => flags |= flag,
            None => rest.push(option.clone()),
        }
    }
    (flags, rest)
}

fn flag(option: &str) -> Option<MsFlags> {
    Some(match option {
        "rw" => MsFlags::empty(),
        "ro" => MsFlags::MS_RDONLY,
        "remount" => MsFlags::MS_REMOUNT,
        "bind" => MsFlags::MS_BIND,
        "rbind" => MsFlags::MS_BIND | MsFlags::MS_REC,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "strictatime" => MsFlags::MS_STRICTATIME,
        _ => return None,
    })
}
