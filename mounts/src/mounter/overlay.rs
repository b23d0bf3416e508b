//! Image views: a stack of layers as one read-only mount.
//!
//! The options of a view are set one by one (Linux 6.8). Older kernels take them all at once by
//! mount(2), which needs a mount point; that is in a mount namespace that one thread has for itself,
//! from where the mount is cloned.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::detached::{self, KernelMounter, new_tree, said};
use super::{
    BindOptions, Effective, Handle, MountError, Mounter, Propagation, ReadOnly, Symlinks, Tree,
};
use crate::sys::{self, MountAttributes};
use crate::types::Mount;
use crate::{mount, overlay_options};

/// Longest value that fsconfig(2) takes.
const LONGEST: usize = 255;

/// See [`Mounter::view`].
pub(super) fn view(mounter: &KernelMounter, plan: &[Mount]) -> Result<Tree, MountError> {
    match plan {
        [one] if one.kind == "bind" => bind(mounter, one),
        [one] if one.kind == "overlay" => overlay(mounter, one),
        [one] if one.kind == "zfs" => dataset(one),
        other => Err(odd(Path::new(
            other.first().map_or("nothing", |mount| &mount.source),
        ))),
    }
}

fn bind(mounter: &KernelMounter, mount: &Mount) -> Result<Tree, MountError> {
    let source = mounter.open_source(Path::new(&mount.source), Symlinks::Follow)?;
    let options = BindOptions {
        read_only: ReadOnly::RecursiveRequired,
        ..BindOptions::default()
    };
    mounter.bind(&source, &options)
}

/// A snapshot of ZFS.
fn dataset(mount: &Mount) -> Result<Tree, MountError> {
    let shown = PathBuf::from(&mount.source);
    let fd = mount::mount_detached(&mount.kind, &shown, &["ro"], true)
        .map_err(|cause| MountError::io("mount", &shown, cause))?;
    new_tree(fd, &shown, Propagation::Private, Effective::Recursive)
}

fn overlay(mounter: &KernelMounter, mount: &Mount) -> Result<Tree, MountError> {
    let fd = if takes_single_layers() {
        by_fsconfig(mounter, mount)?
    } else {
        by_mount(mounter, mount)?
    };
    let shown = Path::new("overlay");
    new_tree(fd, shown, Propagation::Private, Effective::Recursive)
}

/// True if overlayfs takes its lower layers one by one. On older kernels the interface for
/// file systems without fsconfig(2) accepts any option silently, and refuses it
/// later. Tried once in a process.
pub(super) fn takes_single_layers() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let takes = |key: &str| {
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .and_then(|context| fsconfig_set_string(context, key, "/"))
            .is_ok()
    };
    *KNOWN.get_or_init(|| takes("lowerdir+") && !takes("no such option"))
}

/// Has mount(2) make the view.
fn by_mount(mounter: &KernelMounter, plan: &Mount) -> Result<OwnedFd, MountError> {
    let value = |option: &'static str| {
        let mut options = plan.options.iter();
        options.find_map(move |given| given.strip_prefix(option))
    };
    if let Some(option) = value("upperdir=").or(value("workdir=")) {
        return Err(odd(Path::new(option)));
    }
    let layers = value("lowerdir=").ok_or_else(|| odd(Path::new("overlay")))?;
    for layer in layers.split(':') {
        mounter.open_source(Path::new(layer), Symlinks::Follow)?; // mount(2) does not name it
    }
    check_length(plan)?;
    // Any directory will do as the mount point.
    let at = layers.split(':').next().unwrap_or_default();
    mount::on_thread(|| in_own_namespace(mounter, plan, Path::new(at)))
        .unwrap_or_else(|cause| Err(MountError::io("start a thread for", Path::new(at), cause)))
}

/// mount(2) copies one page, and drops the rest without a word.
fn check_length(plan: &Mount) -> Result<(), MountError> {
    let page = mount::page_size();
    let (_, options) = overlay_options::shorten(&plan.options, page);
    if overlay_options::data(&options).len() < page {
        return Ok(());
    }
    Err(MountError::Unsupported {
        what: "a view whose layers have paths longer than a page together",
        path: "overlay".into(),
        advice: "use Linux 6.8 or newer, or a data directory with a shorter path",
        cause: None,
    })
}

fn in_own_namespace(
    mounter: &KernelMounter,
    plan: &Mount,
    at: &Path,
) -> Result<OwnedFd, MountError> {
    mount::own_namespace()
        .map_err(|cause| MountError::io("make a mount namespace for", at, cause))?;
    mount::mount(std::slice::from_ref(plan), at).map_err(|cause| {
        let others = plan.options.iter();
        let others = others.filter(|option| !option.starts_with("lowerdir="));
        let others = others.map(String::as_str).collect::<Vec<_>>().join(",");
        let errno = cause.errno().unwrap_or_default();
        let cause = std::io::Error::from_raw_os_error(errno);
        MountError::io("make an overlay with options", Path::new(&others), cause)
    })?;
    let view = mounter.open_source(at, Symlinks::Follow)?;
    let fd = detached::clone(&view, false)?;
    let read_only = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttributes::default()
    };
    sys::mount_setattr(fd.as_fd(), false, &read_only)
        .map_err(|cause| MountError::io("change mount of", Path::new("overlay"), cause))?;
    Ok(fd)
}

/// Makes the view option by option.
fn by_fsconfig(mounter: &KernelMounter, mount: &Mount) -> Result<OwnedFd, MountError> {
    let shown = PathBuf::from("overlay");
    let fail = |cause: rustix::io::Errno| MountError::io("make an", &shown, cause);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
    let mut held = Vec::new();
    for option in &mount.options {
        set(mounter, &context, option, &mut held)?;
    }
    fsconfig_set_string(&context, "source", mount.source.as_str()).map_err(fail)?;
    fsconfig_create(&context).map_err(|cause| said(&context, "make an", &shown, cause))?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(fail)
}

/// Passes one option on. Layers go one by one, because their paths together are too long for one
/// value.
fn set(
    mounter: &KernelMounter,
    context: &OwnedFd,
    option: &str,
    held: &mut Vec<Handle>,
) -> Result<(), MountError> {
    let shown = Path::new(option);
    let fail = |cause| said(context, "set overlay option", shown, cause);
    match option.split_once('=') {
        None if matches!(option, "ro" | "rw") => Ok(()),
        None => fsconfig_set_flag(context, option).map_err(fail),
        Some(("upperdir" | "workdir", _)) => Err(odd(shown)),
        Some(("lowerdir", layers)) => {
            for layer in layers.split(':') {
                let value = short(mounter, layer, held)?;
                fsconfig_set_string(context, "lowerdir+", value.as_str())
                    .map_err(|cause| said(context, "add layer", Path::new(layer), cause))?;
            }
            Ok(())
        }
        Some((key, value)) => fsconfig_set_string(context, key, value).map_err(fail),
    }
}

/// A path that fsconfig(2) takes. `held` must live until the mount is made.
fn short(
    mounter: &KernelMounter,
    layer: &str,
    held: &mut Vec<Handle>,
) -> Result<String, MountError> {
    use std::os::fd::AsRawFd;
    if layer.len() <= LONGEST {
        return Ok(layer.to_owned());
    }
    let handle = mounter.open_source(Path::new(layer), Symlinks::Follow)?;
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    held.push(handle);
    Ok(path)
}

fn odd(path: &Path) -> MountError {
    MountError::Unsupported {
        what: "a read-only view",
        path: path.to_owned(),
        advice: "the plan must be one bind, one dataset, or one overlay without an upper directory",
        cause: None,
    }
}
