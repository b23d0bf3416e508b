//! The private mount root: a directory bound on itself, so that no other mount namespace hears of
//! what is mounted below, and no recursive bind takes it along. A bind into a group of peers costs
//! several times as much.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::detached::KernelMounter;
use super::{
    BindOptions, Detached, Handle, Holders, MountEntry, MountError, Mounter, PrivateRoot, Symlinks,
    path, table, unmount,
};
use crate::sys::{self, MountAttributes};

/// See [`Mounter::private_root`].
pub(super) fn make(mounter: &KernelMounter, path: &Path) -> Result<PrivateRoot, MountError> {
    let root = path::open_source(path, Symlinks::Follow)?;
    if let Some(own) = bound_on_itself(&root)? {
        if !own.unbindable {
            make_unbindable(&root, path)?;
        }
        return Ok(PrivateRoot::Already);
    }
    if !table::below(path)?.is_empty() {
        return Ok(PrivateRoot::InUse);
    }
    let tree = mounter.bind(&root, &BindOptions::default())?;
    mounter.attach(tree, &root)?;
    make_unbindable(&path::open_source(path, Symlinks::Follow)?, path)?;
    Ok(PrivateRoot::Made)
}

fn make_unbindable(root: &Handle, shown: &Path) -> Result<(), MountError> {
    let attributes = MountAttributes {
        propagation: MsFlags::MS_UNBINDABLE.bits(),
        ..MountAttributes::default()
    };
    sys::mount_setattr(root.as_fd(), false, &attributes)
        .map_err(|cause| MountError::io("make unbindable", shown, cause))
}

/// See [`Mounter::release_private_root`].
pub(super) fn release(path: &Path) -> Result<Detached, MountError> {
    let root = path::open_source(path, Symlinks::Follow)?;
    let Some(own) = bound_on_itself(&root)? else {
        return Ok(Detached::AlreadyGone);
    };
    drop(root); // it would keep the mount busy
    if !table::below(path)?.is_empty() {
        return Err(MountError::Busy {
            path: path.to_owned(),
            holders: Holders::default(),
        });
    }
    unmount::take_at(&own.target, own.id)
}

/// The mount on `root`, if it shows what would be there without it.
fn bound_on_itself(root: &Handle) -> Result<Option<MountEntry>, MountError> {
    let own = table::mount_of(root)?;
    if own.target != root.real_path()? {
        return Ok(None);
    }
    let Some(below) = table::by_id(own.parent)? else {
        return Ok(None);
    };
    let inner = own.target.strip_prefix(&below.target).ok();
    let same = inner.is_some_and(|inner| own.root == join(&below.root, inner));
    Ok((same && own.device == below.device).then_some(own))
}

/// Without the slash that joining an empty path leaves.
fn join(root: &Path, inner: &Path) -> PathBuf {
    root.components().chain(inner.components()).collect()
}
