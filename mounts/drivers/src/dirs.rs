//! Layers as directories, for drivers that keep them so.
//!
//! ```text
//! <root>/l/<slot>     a layer's content
//! <root>/w/<slot>     what is kept beside it only while it is made or written
//! <root>/t/<slot>     a layer that is being deleted, or what is left of it
//! <root>/t/<slot>.w   what was kept beside it
//! <root>/t/<slot>.i   its image (overlay/images.rs)
//! <root>/t/<slot>.r   its whole tree (overlay1.rs)
//! <root>/t/<slot>.c   the image that held it to a size (overlay/limited.rs)
//! ```
//!
//! These folders have mode 0700: no user of the machine gets at a layer's set-user-id files
//! but through a mount that root made. A name in `l` is made once and never again. Everything is
//! done by descriptor, so that renaming the root under a running daemon misleads nothing but the
//! planned mounts.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use layerd_mounts::barrier::Barrier;
use layerd_mounts::folder::{FLAGS, Folder, c_name, move_over, rename_over, sync_path};
use layerd_mounts::{Error, Slot, Usage, sys, tree};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::driver::{Base, Content, Found, Stamp};
use survey::{FOLDERS, list_folder, work_name};
pub(crate) use survey::{LAYERS, holds_nothing, image_name, limited_name, tree_name};

mod lost;
mod survey;
#[cfg(test)]
mod tests;

pub(crate) use survey::Offline;

/// Mode of the top directory of a layer that starts empty.
pub(crate) const LAYER_MODE: Mode = Mode::from_bits_truncate(0o755);

/// Owner, group and mode of a top directory.
pub(crate) type Top = (u32, u32, Mode);

/// The folders of a root, open.
#[derive(Debug)]
pub struct LayerDirs {
    pub(crate) layers: Folder,
    pub(crate) work: Folder,
    pub(crate) trash: Folder,
    pub(crate) barrier: Barrier,
    root: PathBuf,
}

impl LayerDirs {
    /// Opens the folders of `root`, an existing directory; makes those that are missing. Durable on
    /// return.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, c"l")
    }

    /// The same, with layers in a folder of another name, which lies in one that is there.
    pub(crate) fn open_with(root: &Path, layers: &CStr) -> Result<Self, Error> {
        let folder = |name: &CStr| Folder::open(root, name);
        let dirs = Self {
            layers: folder(layers)?,
            work: folder(c"w")?,
            trash: folder(c"t")?,
            barrier: Barrier::open(root)?,
            root: root.to_owned(),
        };
        sync_path(root)?;
        Ok(dirs)
    }

    /// Makes a layer's own directory, with the owner and mode of `top`, whatever the umask.
    pub(crate) fn make_layer(&self, slot: Slot, top: Top) -> Result<OwnedFd, Error> {
        let name = slot.to_string();
        let path = || self.layers.path.join(&name);
        let made = mkdirat(&self.layers.fd, name.as_str(), LAYER_MODE);
        self.barrier.note();
        made.map_err(|cause| Error::io("create directory", &path(), cause))?;
        self.correct(&name, top)
    }

    /// Marks a layer that is being made, beside it.
    pub(crate) fn mark(&self, slot: Slot) -> Result<(), Error> {
        let (name, work) = (slot.to_string(), &self.work);
        let made = mkdirat(&work.fd, name.as_str(), Mode::S_IRWXU);
        made.map_err(|cause| Error::io("create directory", &work.path.join(name), cause))
    }

    /// Opens the top directory of a layer, and gives it its owner and mode.
    pub(crate) fn correct(&self, name: &str, (uid, gid, mode): Top) -> Result<OwnedFd, Error> {
        let path = self.layers.path.join(name);
        let fail = |cause: Errno| Error::io("open directory", &path, cause);
        let dir = openat(&self.layers.fd, name, FLAGS, Mode::empty()).map_err(fail)?;
        let made = sys::stat(dir.as_fd(), c"").map_err(fail)?;
        if (made.uid, made.gid) != (uid, gid) {
            fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|cause| Error::io("change the owner of", &path, cause))?;
        }
        if made.mode & 0o7777 != mode.bits() {
            fchmod(&dir, mode).map_err(|cause| Error::io("change the mode of", &path, cause))?;
        }
        Ok(dir)
    }

    /// Owner and mode of the top directory of a new layer: like that of its content.
    pub(crate) fn top(&self, base: &Base) -> Result<Top, Error> {
        let own = (Uid::effective().as_raw(), Gid::effective().as_raw());
        match (base.owner, base.content) {
            (Some(owner), _) => Ok((owner.uid, owner.gid, LAYER_MODE)),
            (None, Content::Empty | Content::Deferred) => Ok((own.0, own.1, LAYER_MODE)),
            (None, Content::Of(parent)) => {
                let top = self.stat(&self.layers, &c_name(&parent.to_string()))?;
                let mode = Mode::from_bits_truncate(top.mode & 0o7777);
                Ok((top.uid, top.gid, mode))
            }
        }
    }

    pub(crate) fn stat(&self, folder: &Folder, name: &CStr) -> Result<sys::Stat, Error> {
        let path = folder.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = sys::stat(folder.fd.as_fd(), name);
        stat.map_err(|cause| Error::io("look at", &path, cause))
    }

    pub(crate) fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        let layers = &self.layers;
        let name = c_name(&slot.to_string());
        let usage = tree::write_back(layers.fd.as_fd(), &name, &layers.path);
        let filled = self.barrier.filled();
        usage.and_then(|usage| filled.map(|()| usage))
    }

    pub(crate) fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        let layers = &self.layers;
        let name = c_name(&slot.to_string());
        tree::usage(layers.fd.as_fd(), &name, &layers.path, keep_going)
    }

    pub(crate) fn stamp(&self, slot: Slot) -> Result<Stamp, Error> {
        let top = self.stat(&self.layers, &c_name(&slot.to_string()))?;
        Ok(Stamp {
            inode: top.inode,
            changed: top.changed,
        })
    }

    /// Drops what is kept beside a layer. Nothing there is success.
    pub(crate) fn remove_work(&self, slot: Slot) -> Result<(), Error> {
        // In its place: something of a layer that was not removed is a fault in the trash.
        let (name, work) = (c_name(&slot.to_string()), &self.work);
        match unlinkat(&work.fd, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // The kernel has worked in it, or something else is wrong.
            Err(_) => tree::delete(work.fd.as_fd(), &name, &work.path, &self.barrier, &|| true),
        }
    }

    pub(crate) fn discard(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        let moved = move_over(&self.barrier, &self.layers, &name, &self.trash, &name);
        let moved = moved.and_then(|()| self.discard_work(slot));
        self.barrier.note();
        moved
    }

    /// Moves what is kept beside a layer to the trash. Nothing there is success.
    pub(crate) fn discard_work(&self, slot: Slot) -> Result<(), Error> {
        let (name, work) = (slot.to_string(), work_name(slot));
        // A rename of nothing, too, takes the lock that all renames of the file system share.
        if self.work.has(&name).unwrap_or(true) {
            rename_over(&self.work, &name, &self.trash, &work)?;
        }
        self.barrier.note();
        Ok(())
    }

    pub(crate) fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        let trash = &self.trash;
        let keep_going = || {
            self.barrier.note();
            keep_going()
        };
        let delete = |name: String| {
            let (parent, name) = (trash.fd.as_fd(), c_name(&name));
            tree::delete(parent, &name, &trash.path, &self.barrier, &keep_going)
        };
        if !keep_going() {
            return Err(Error::Stopped);
        }
        let layer = delete(slot.to_string());
        if matches!(layer, Err(Error::Stopped)) {
            return layer;
        }
        let work = delete(work_name(slot));
        let image = delete(image_name(slot));
        let tree = delete(tree_name(slot));
        let limited = delete(limited_name(slot));
        layer.and(work).and(image).and(tree).and(limited)
    }

    pub(crate) fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let name = slot.to_string();
        let opened = openat(&self.layers.fd, name.as_str(), FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &self.layers.path.join(name), cause))
    }

    pub(crate) fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for ((kind, _), folder) in FOLDERS
            .into_iter()
            .zip([&self.layers, &self.work, &self.trash])
        {
            list_folder(Some(kind), folder, &mut found)?;
        }
        Ok(found)
    }

    /// Lists what is in a further folder of the driver, where nothing belongs.
    pub(crate) fn list_unknown_entries(
        folder: &Folder,
        found: &mut Vec<Found>,
    ) -> Result<(), Error> {
        list_folder(None, folder, found)
    }

    /// True if the directory of a layer and those beside it are empty or missing.
    pub(crate) fn holds_nothing(&self, slot: Slot) -> Result<bool, Error> {
        Ok(holds_nothing(&self.layers, slot)? && holds_nothing(&self.work, slot)?)
    }

    /// True if the directory of a slot in the trash is empty or missing.
    pub(crate) fn trash_holds_nothing(&self, slot: Slot) -> Result<bool, Error> {
        holds_nothing(&self.trash, slot)
    }

    /// The root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Method of [`sync`](crate::Driver::sync), as a fact for people.
    pub(crate) fn durability(&self) -> (String, String) {
        let synced = match self.barrier.journal() {
            Some(_) => "all files at once, by the journal of the file system",
            None => "all files of the file system at once, other programs' included, by syncfs",
        };
        ("made durable".to_owned(), synced.to_owned())
    }

    pub(crate) fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        lost::move_to_lost_found(&self.root, &self.layers.path, found)
    }
}

/// Gives an open top directory owner, group and mode.
pub(crate) fn give(dir: &OwnedFd, (uid, gid, mode): Top, path: &Path) -> Result<(), Error> {
    fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|cause| Error::io("change the owner of", path, cause))?;
    fchmod(dir, mode).map_err(|cause| Error::io("change the mode of", path, cause))
}

/// Makes `root` if it is missing, durably, and answers its path without symlinks.
pub(crate) fn prepare_root(root: &Path) -> Result<PathBuf, Error> {
    let missing = root.ancestors().take_while(|path| !path.exists());
    let holders: Vec<&Path> = missing.filter_map(Path::parent).collect();
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(root);
    made.map_err(|cause| Error::io("create directory", root, cause))?;
    for holder in holders {
        let relative_to_here = holder.as_os_str().is_empty();
        sync_path(if relative_to_here {
            Path::new(".")
        } else {
            holder
        })?;
    }
    // The client's mounts must not depend on a symlink that may be changed.
    root.canonicalize()
        .map_err(|cause| Error::io("resolve", root, cause))
}
