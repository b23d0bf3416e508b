//! Image views: a stack of layers as one mount that nobody can write.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::kernel::{KernelMounter, new_tree, said};
use super::{
    BindOptions, Effective, Handle, MountError, Mounter, Propagation, ReadOnly, Symlinks, Tree,
};
use crate::driver::Mount;

/// Longest value that fsconfig(2) takes.
const LONGEST: usize = 255;

/// See [`Mounter::view`].
pub(super) fn view(mounter: &KernelMounter, plan: &[Mount]) -> Result<Tree, MountError> {
    match plan {
        [one] if one.kind == "bind" => bind(mounter, one),
        [one] if one.kind == "overlay" => overlay(mounter, one),
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

fn overlay(mounter: &KernelMounter, mount: &Mount) -> Result<Tree, MountError> {
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
    let fd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(fail)?;
    new_tree(fd, &shown, Propagation::Private, Effective::Recursive)
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
    use std::os::fd::{AsFd, AsRawFd};
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
        advice: "the plan must be one bind, or one overlay without an upper directory",
        cause: None,
    }
}
