//! What this kernel can do, found by doing it.

use std::os::fd::AsFd;
use std::path::Path;

use super::kernel::{self, KernelMounter};
use super::{
    BindOptions, Feature, Handle, MountError, Mounter, Symlinks, TmpfsOptions, Want, table,
};
use crate::driver::{IdMap, IdMaps};
use crate::sys::{self, MountAttributes};

type Trial = fn(&KernelMounter) -> Result<(), MountError>;

const TRIALS: [(&str, Trial); 8] = [
    ("openat2", |mounter| {
        mounter
            .resolve(&top(mounter)?, Path::new("."), Want::Directory)
            .map(drop)
    }),
    ("open_tree", |mounter| {
        kernel::clone(&top(mounter)?, false).map(drop)
    }),
    ("fsopen", |mounter| {
        mounter.tmpfs(&TmpfsOptions::default()).map(drop)
    }),
    ("mount_setattr", |mounter| {
        let tree = kernel::clone(&top(mounter)?, false)?;
        let nothing = MountAttributes::default();
        let done = sys::mount_setattr(tree.as_fd(), true, &nothing);
        done.map_err(|cause| MountError::io("change a mount of", Path::new("/"), cause))
    }),
    ("unique mount ids", |mounter| {
        let id = top(mounter)?.mount_id()?;
        if table::is_unique(id) {
            return Ok(());
        }
        Err(MountError::Unsupported {
            what: "a number that is never used again",
            path: "/".into(),
            advice: "use Linux 6.8 or newer",
            cause: None,
        })
    }),
    ("statmount", |mounter| {
        let id = top(mounter)?.mount_id()?;
        let done = sys::stat_mount(id);
        done.map(drop)
            .map_err(|cause| MountError::io("look at the mount of", Path::new("/"), cause))
    }),
    ("listmount", |_| {
        let done = sys::list_mounts(sys::ALL_MOUNTS, 0, &mut [0; 1]);
        done.map(drop)
            .map_err(|cause| MountError::io("list the mounts of", Path::new("/"), cause))
    }),
    ("id-mapped mounts", |mounter| {
        let tree = mounter.tmpfs(&TmpfsOptions::default())?;
        let source = Handle::new(tree.fd, Path::new("tmpfs"))?;
        let range = IdMap {
            container: 0,
            host: 1,
            length: 1,
        };
        let options = BindOptions {
            ids: Some(IdMaps {
                uid: vec![range],
                gid: vec![range],
            }),
            ..BindOptions::default()
        };
        mounter.bind(&source, &options).map(drop)
    }),
];

/// See [`Mounter::features`].
pub(super) fn probe(mounter: &KernelMounter) -> Vec<Feature> {
    TRIALS
        .iter()
        .map(|(name, trial)| Feature {
            name,
            trouble: trial(mounter).err().map(|error| reason(&error)),
        })
        .collect()
}

/// An error with its causes, in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn top(mounter: &KernelMounter) -> Result<Handle, MountError> {
    mounter.open_source(Path::new("/"), Symlinks::Follow)
}
