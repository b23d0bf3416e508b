//! Mounts that are not attached to a mount point yet, and their attributes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::idmap::UserNamespace;
use super::{
    Attached, BindOptions, Effective, Handle, MountError, MountId, Propagation, ReadOnly,
    TmpfsOptions, Tree, layout, table,
};
use crate::sys::{self, MountAttributes};
use crate::user_namespace;

/// Mounts for real, in the mount namespace of the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelMounter;

impl KernelMounter {
    /// Does nothing yet; what works is found when it is tried.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// One mount that was just made.
pub(super) fn new_tree(
    fd: OwnedFd,
    shown: &Path,
    propagation: Propagation,
    read_only: Effective,
) -> Result<Tree, MountError> {
    let seen = sys::mount_and_file(fd.as_fd(), c"", false);
    let (id, (device, inode)) = seen.map_err(|cause| MountError::io("look at", shown, cause))?;
    Ok(Tree {
        fd,
        shown: shown.to_owned(),
        propagation,
        read_only,
        attached: Attached {
            id,
            last_id: id,
            device,
            inode,
        },
        without: Vec::new(),
    })
}

pub(super) fn with_last_id(tree: Tree, last_id: MountId) -> Tree {
    Tree {
        attached: Attached {
            last_id: last_id.max(tree.attached.id),
            ..tree.attached
        },
        ..tree
    }
}

/// Checks that the source's mount is shared, which slave and shared binds need.
pub(super) fn check_propagation(source: &Handle, wanted: Propagation) -> Result<(), MountError> {
    let (word, needed) = match wanted {
        Propagation::Private => return Ok(()),
        Propagation::Slave => ("slave", "shared or slave"),
        Propagation::Shared => ("shared", "shared"),
    };
    let mount = table::mount_of(source)?;
    let good = match mount.propagation {
        Propagation::Shared => true,
        Propagation::Slave => wanted == Propagation::Slave,
        Propagation::Private => false,
    };
    if good {
        return Ok(());
    }
    let slave = mount.propagation == Propagation::Slave;
    Err(MountError::NotShared {
        path: source.path().to_owned(),
        mount: mount.target,
        actual: if slave { "slave" } else { "private" },
        wanted: word,
        needed,
    })
}

pub(super) fn clone(source: &Handle, recursive: bool) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(source.as_fd(), c"", flags).map_err(|cause| match cause {
        rustix::io::Errno::INVAL if !recursive && user_namespace::current().is_some() => {
            MountError::Unsupported {
                what: "a bind without the mounts below it",
                path: source.path().to_owned(),
                advice: "layerd runs in a user namespace, where the kernel uncovers nothing that another one \
                         has mounted over; bind it recursively",
                cause: Some(cause.into()),
            }
        }
        cause => MountError::io("bind", source.path(), cause),
    })
}

/// A clone of the mount of `source`, with those below where the kernel gives no other.
pub(super) fn clone_any(source: &Handle) -> Result<OwnedFd, MountError> {
    clone(source, false).or_else(|error| match error {
        MountError::Unsupported { .. } => clone(source, true),
        error => Err(error),
    })
}

/// See [`Attached::last_id`]. For unique numbers that of one more clone, which is higher than those
/// of the clone that was just made.
pub(super) fn last_id(
    tree: &OwnedFd,
    source: &Handle,
    options: &BindOptions,
) -> Result<MountId, MountError> {
    let number = |of: &OwnedFd| {
        sys::mount_id(of.as_fd(), c"", false)
            .map_err(|cause| MountError::io("find the mount of", source.path(), cause))
    };
    let top = number(tree)?;
    if table::is_unique(top) {
        return number(&clone_any(source)?);
    }
    let count = layout::copied(source, options)?.len();
    Ok(top.saturating_add(u64::try_from(count).unwrap_or(u64::MAX)))
}

/// Applies everything but the id mappings. Answers whether all of the tree is read-only for good.
pub(super) fn restrict(
    tree: BorrowedFd<'_>,
    shown: &Path,
    options: &BindOptions,
) -> Result<bool, MountError> {
    let set = |attributes: MountAttributes<'_>, recursive| {
        sys::mount_setattr(tree, recursive, &attributes)
            .map_err(|cause| MountError::io("change mount of", shown, cause))
    };
    let flags = [
        (options.nosuid, libc::MOUNT_ATTR_NOSUID),
        (options.nodev, libc::MOUNT_ATTR_NODEV),
        (options.noexec, libc::MOUNT_ATTR_NOEXEC),
    ];
    let flags = flags.iter().filter(|(wanted, _)| *wanted);
    let common = MountAttributes {
        set: flags.fold(0, |all, (_, flag)| all | flag),
        propagation: propagation_word(options.propagation),
        user_namespace: None,
    };
    set(common, options.recursive)?;
    let read_only = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttributes::default()
    };
    // What shows up below later, by propagation, is as writable as at its origin.
    let closed = options.propagation == Propagation::Private;
    match options.read_only {
        ReadOnly::Writable => Ok(false),
        ReadOnly::Top => set(read_only, false).map(|()| !options.recursive && closed),
        ReadOnly::RecursiveIfPossible => match set(read_only, options.recursive) {
            Ok(()) => Ok(closed),
            Err(_) => set(read_only, false).map(|()| false),
        },
        ReadOnly::RecursiveRequired if !closed => Err(MountError::Unsupported {
            what: "recursive read-only with slave or shared propagation",
            path: shown.to_owned(),
            advice: "mounts that propagate here later would be writable; use private propagation",
            cause: None,
        }),
        ReadOnly::RecursiveRequired => set(read_only, options.recursive).map(|()| true),
    }
}

pub(super) fn shift(
    tree: BorrowedFd<'_>,
    shown: &Path,
    recursive: bool,
    namespace: &UserNamespace,
) -> Result<(), MountError> {
    let attributes = MountAttributes {
        user_namespace: Some(namespace.as_fd()),
        ..MountAttributes::default()
    };
    let unsupported = |advice, cause: Errno| MountError::Unsupported {
        what: "an id-mapped mount",
        path: shown.to_owned(),
        advice,
        cause: Some(cause.into()),
    };
    sys::mount_setattr(tree, recursive, &attributes).map_err(|cause| match cause {
        Errno::EINVAL => unsupported(
            "its file system (or, in a recursive bind, one below) cannot shift ids; ext4, xfs, \
             btrfs and, from Linux 6.3 on, tmpfs can, overlay cannot: map its layers, or change \
             the owners",
            cause,
        ),
        Errno::EPERM if user_namespace::current().is_some() => unsupported(
            "layerd runs in a user namespace, and the kernel shifts the ids of a file system for root of \
             the namespace that mounted it; change the owners",
            cause,
        ),
        Errno::EPERM => unsupported("it is id-mapped already; bind its origin", cause),
        cause => MountError::io("shift the ids of", shown, cause),
    })
}

/// The mode the kernel has, which is stricter than asked for where the source is.
pub(super) fn effective(
    tree: BorrowedFd<'_>,
    shown: &Path,
    whole: bool,
) -> Result<Effective, MountError> {
    let found = fstatvfs(tree).map_err(|cause| MountError::io("look at", shown, cause))?;
    Ok(match (found.flags().contains(FsFlags::ST_RDONLY), whole) {
        (false, _) => Effective::Writable,
        (true, false) => Effective::Top,
        (true, true) => Effective::Recursive,
    })
}

pub(super) fn propagation_word(propagation: Propagation) -> u64 {
    let flag = match propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::Slave => MsFlags::MS_SLAVE,
        Propagation::Shared => MsFlags::MS_SHARED,
    };
    flag.bits()
}

/// Sets the requested propagation again: the kernel makes a mount shared when it is attached to a
/// shared one.
pub(super) fn set_propagation(tree: &Tree, target: &Path) -> Result<(), MountError> {
    if tree.propagation != Propagation::Shared {
        let attributes = MountAttributes {
            propagation: propagation_word(tree.propagation),
            ..MountAttributes::default()
        };
        sys::mount_setattr(tree.fd.as_fd(), true, &attributes)
            .map_err(|cause| MountError::io("change mount on", target, cause))?;
    }
    Ok(())
}

/// The kernel only says EINVAL.
pub(super) fn check_kinds(tree: &Tree, target: &Handle) -> Result<(), MountError> {
    let top = sys::stat(tree.fd.as_fd(), c"")
        .map_err(|cause| MountError::io("look at", &tree.shown, cause))?;
    let path = target.path().to_owned();
    match (top.is_dir(), target.is_dir()) {
        (true, false) => Err(MountError::NotADirectory { path }),
        (false, true) => Err(MountError::IsADirectory { path }),
        _ => Ok(()),
    }
}

pub(super) fn refused(target: &Handle, cause: rustix::io::Errno) -> MountError {
    let path = target.path().to_owned();
    match cause {
        rustix::io::Errno::NOENT => MountError::Missing { path },
        cause => MountError::io("mount on", &path, cause),
    }
}

/// A private tmpfs with options of the file system and attributes of the mount.
pub(super) fn tmpfs(
    words: &[(&str, String)],
    attributes: MountAttrFlags,
) -> Result<Tree, MountError> {
    let shown = PathBuf::from("tmpfs");
    let fail = |cause: rustix::io::Errno| MountError::io("make a", &shown, cause);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
    for (key, value) in words {
        fsconfig_set_string(&context, *key, value.as_str())
            .map_err(|cause| said(&context, "set an option of", &shown, cause))?;
    }
    fsconfig_create(&context).map_err(|cause| said(&context, "make a", &shown, cause))?;
    let fd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(fail)?;
    let read_only = match attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        true => Effective::Recursive,
        false => Effective::Writable,
    };
    new_tree(fd, &shown, Propagation::Private, read_only)
}

pub(super) fn tmpfs_words(options: &TmpfsOptions) -> Vec<(&'static str, String)> {
    let mut words = vec![
        ("mode", format!("{:o}", options.mode)),
        ("uid", options.uid.to_string()),
        ("gid", options.gid.to_string()),
    ];
    words.extend(options.size.map(|bytes| ("size", bytes.to_string())));
    words.extend(options.inodes.map(|count| ("nr_inodes", count.to_string())));
    words
}

/// An error with what the kernel wrote into the log of the context.
pub(super) fn said(
    context: &OwnedFd,
    attempt: &'static str,
    path: &Path,
    cause: rustix::io::Errno,
) -> MountError {
    let mut log = Vec::new();
    let mut line = [0; 1024];
    while let Ok(length @ 1..) = nix::unistd::read(context, &mut line) {
        log.push(String::from_utf8_lossy(&line[..length]).trim().to_owned());
    }
    MountError::Io {
        attempt,
        path: path.to_owned(),
        log: log.join("; "),
        cause: cause.into(),
    }
}
