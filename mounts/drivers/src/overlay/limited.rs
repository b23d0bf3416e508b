//! Writable layers that are held to a size: by a quota of a project, or by an [image](layerd_mounts::limit)
//! of a file system each.
//!
//! ```text
//! <root>/c/<slot>         a symlink that notes a project (limited/project.rs), or a folder:
//! <root>/c/<slot>/image   the file system
//! <root>/c/<slot>/data    where it is mounted; made with the first mount
//! <root>/c/<slot>/data/u  the upper directory
//! <root>/c/<slot>/data/w  the work directory, which overlayfs wants on the same mount
//! <root>/c/<slot>/copy    the layer, while it is copied out of the image
//! <root>/t/<slot>.c       all of this, while it is being deleted
//! ```
//!
//! A layer in an image has no `l/<slot>` until it is committed: Commit copies what is in the image there, and
//! deletes the image once that is recorded. `w/<slot>` is there as beside other writable layers, and
//! stays empty. As long as there is no `data`, mounts of the layer were never answered. Without its mount
//! there is no `u`, so that overlayfs refuses, and nothing is written past the limit.
//!
//! | left behind | by a crash in | made good as |
//! |---|---|---|
//! | `c/<slot>` without a record | Prepare | deleted, as other layers without one |
//! | an image that is not mounted, or has no `u` | Prepare, or the end of the machine | mounted by Mounts |
//! | `c/<slot>/copy`, or `l/<slot>` of an active layer | Commit | copied again by the next Commit |
//! | `c/<slot>` of a committed layer | Commit, after the record | deleted, with the work directory |

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use layerd_layers::Durable;
use layerd_layers::copy::{self, copy_tree};
use layerd_mounts::folder::{FLAGS, Folder, c_name, move_over, rename_over};
use layerd_mounts::limit::project::{Project, Projects};
use layerd_mounts::limit::{self, DATA, Enforcement, Holder, Limit, Method};
use layerd_mounts::{Error, Slot, Space, Usage, sys, tree};
use nix::errno::Errno;
use nix::fcntl::{openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::fstatvfs;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::dirs::{LAYER_MODE, LayerDirs, Top, give, limited_name};
use crate::driver::{Found, SlotKind};

mod project;

/// Folder of the images, and of the notes of projects.
pub(super) const LIMITED: &str = "c";
/// The upper directory, in a mounted image.
pub(super) const UPPER: &str = "data/u";
/// The work directory, in a mounted image.
pub(super) const WORK: &str = "data/w";
/// An upper directory that is being made.
const NEW_UPPER: &str = "data/n";
/// A layer that is being copied out of its image.
const COPY: &str = "copy";

/// Locks that the slots share.
const LOCKS: usize = 16;

/// Means by which a layer is held to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// An image that it is in.
    Image,
    /// The quota of a project, to which its directories belong.
    Project(Project),
}

/// The layers of a root that are held to a size.
#[derive(Debug)]
pub(super) struct LimitedLayers {
    folder: Folder,
    projects: Projects,
    method: Method,
    enforcement: OnceLock<Enforcement>,
    known: RwLock<HashMap<Slot, Form>>,
    locks: [Mutex<()>; LOCKS],
}

impl LimitedLayers {
    /// Opens the folder of `root`, making it if it is missing, and reads which layers there are. Mounts
    /// are left as they are. New layers are held by `method`.
    pub(super) fn open(root: &Path, method: Method) -> Result<Self, Error> {
        let known = entries(root)?.into_iter().flatten().collect();
        let folder = Folder::open(root, c"c")?;
        Ok(Self {
            projects: Projects::new(&folder.path),
            method,
            folder,
            enforcement: OnceLock::new(),
            known: RwLock::new(known),
            locks: Default::default(),
        })
    }

    /// Way in which limits of new layers are enforced. Looked for once.
    pub(super) fn enforcement(&self) -> &Enforcement {
        let probe = || Enforcement::probe(&self.projects, self.method);
        self.enforcement.get_or_init(probe)
    }

    /// True if a layer is held to a size. Reads memory only.
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.known.read().contains_key(&slot)
    }

    /// True if an image holds a layer to a size. Reads memory only.
    pub(super) fn has_image(&self, slot: Slot) -> bool {
        self.known.read().get(&slot) == Some(&Form::Image)
    }

    /// Number of layers that are held to a size.
    pub(super) fn count(&self) -> usize {
        self.known.read().len()
    }

    /// Room in an image, as those see it who write to it; `None` if there is none or it is not mounted. One
    /// that is deleted meanwhile has none.
    pub(super) fn space_in_image(&self, slot: Slot) -> Result<Option<Space>, Error> {
        if !self.has_image(slot) || !self.is_ready(slot)? {
            return Ok(None);
        }
        match self.open_layer(slot) {
            Ok(upper) => {
                let disk = fstatvfs(upper);
                disk.map(|disk| Some(Space::from(disk)))
                    .map_err(|cause| Error::io("look at", &self.path(&slot.to_string()), cause))
            }
            Err(cause) if cause.errno() == Some(Errno::ENOENT as i32) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// True if the image of a layer is there.
    pub(super) fn is_there(&self, slot: Slot) -> Result<bool, Error> {
        limit::has_image(&self.folder, &slot.to_string())
    }

    /// True if mounts of a layer were answered, as far as that leaves a trace.
    pub(super) fn was_mounted(&self, slot: Slot) -> Result<bool, Error> {
        self.folder.has(&format!("{slot}/{DATA}"))
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, ()> {
        let index = usize::try_from(slot.0 % LOCKS as u64).unwrap_or(0);
        self.locks[index].lock()
    }

    fn holder(&self, slot: Slot) -> Holder {
        Holder::new(&self.folder, &slot.to_string())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path.join(below)
    }

    /// Makes the image of a new layer, which is not mounted. Costs a run of mkfs.
    pub(super) fn create(&self, slot: Slot, limit: Limit) -> Result<(), Error> {
        let name = slot.to_string();
        let made = mkdirat(&self.folder.fd, name.as_str(), Mode::S_IRWXU);
        made.map_err(|cause| Error::io("create directory", &self.path(&name), cause))?;
        self.known.write().insert(slot, Form::Image);
        self.holder(slot).make(limit, self.enforcement())
    }

    /// Has the image of a layer mounted, with an upper and a work directory in it; a new upper directory
    /// is like `top`, and without it none is made. Costs two looks where all is there.
    pub(super) fn make_mountable(
        &self,
        slot: Slot,
        top: Option<&dyn Fn() -> Result<Top, Error>>,
    ) -> Result<(), Error> {
        if self.is_ready(slot)? || top.is_none() && !self.was_mounted(slot)? {
            return Ok(());
        }
        let _lock = self.lock(slot);
        match self.is_ready(slot)? {
            true => Ok(()),
            false => self.mount(slot, top),
        }
    }

    /// True if the upper directory is there, in the mounted image.
    fn is_ready(&self, slot: Slot) -> Result<bool, Error> {
        let look = |name: &str| sys::stat(self.folder.fd.as_fd(), &c_name(name));
        let (upper, data) = (format!("{slot}/{UPPER}"), format!("{slot}/{DATA}"));
        match (look(&upper), look(&data)) {
            (Ok(upper), Ok(data)) if upper.same_mount(&data) => {
                limit::is_mounted(&self.folder, &slot.to_string())
            }
            (Ok(_), Ok(_)) => Err(Error::Busy {
                path: self.path(&upper),
            }),
            (Err(Errno::ENOENT), _) => Ok(false),
            (Err(cause), _) | (_, Err(cause)) => {
                Err(Error::io("look at", &self.path(&upper), cause))
            }
        }
    }

    /// With the lock of the slot held.
    fn mount(&self, slot: Slot, top: Option<&dyn Fn() -> Result<Top, Error>>) -> Result<(), Error> {
        let name = slot.to_string();
        let is_new = self.make_dir(&format!("{name}/{DATA}"))?;
        let holder = self.holder(slot);
        if !limit::is_mounted(&self.folder, &name)? {
            match is_new {
                true => holder.mount_new()?,
                false => holder.mount()?,
            }
        }
        let upper = format!("{name}/{UPPER}");
        let Some(top) = top.filter(|_| !self.folder.has(&upper).unwrap_or(false)) else {
            return Ok(());
        };
        holder.delete_lost_and_found()?;
        self.make_dir(&format!("{name}/{WORK}"))?;
        let new = format!("{name}/{NEW_UPPER}");
        self.make_dir(&new)?;
        let path = self.path(&new);
        give(&self.open_below(&new)?, top()?, &path)?;
        let renamed = renameat(
            &self.folder.fd,
            new.as_str(),
            &self.folder.fd,
            upper.as_str(),
        );
        renamed.map_err(|cause| Error::io("move", &path, cause))
    }

    /// Makes a directory; answers whether it was missing.
    fn make_dir(&self, name: &str) -> Result<bool, Error> {
        match mkdirat(&self.folder.fd, name, Mode::S_IRWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(cause) => Err(Error::io("create directory", &self.path(name), cause)),
        }
    }

    fn open_below(&self, name: &str) -> Result<OwnedFd, Error> {
        let opened = openat(&self.folder.fd, name, FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &self.path(name), cause))
    }

    /// Opens the upper directory of a layer, which is [mountable](Self::make_mountable).
    pub(super) fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.open_below(&format!("{slot}/{UPPER}"))
    }

    /// Measures what is in the upper directory of a layer, which is mountable.
    pub(super) fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        let path = self.path(&format!("{slot}/{UPPER}"));
        let upper = match self.open_layer(slot) {
            // Its mounts were never answered.
            Err(cause) if cause.errno() == Some(Errno::ENOENT as i32) && self.is_there(slot)? => {
                return Ok(Usage::default());
            }
            opened => opened?,
        };
        tree::usage(upper.as_fd(), c".", &path, keep_going)
    }

    /// Copies a layer, which is mountable, out of its image to its own directory, where an earlier call
    /// may have left a copy. The content of its files is on the disk on return, and the next barrier
    /// brings the rest there.
    pub(super) fn copy_out(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        let _lock = self.lock(slot);
        let (name, copy) = (slot.to_string(), format!("{slot}/{COPY}"));
        let source = self.open_layer(slot)?;
        let delete = |folder: &Folder, name: &str| {
            let (parent, name) = (folder.fd.as_fd(), c_name(name));
            tree::delete(parent, &name, &folder.path, &dirs.barrier, &|| true)
        };
        let inside = Folder {
            fd: self.open_below(&name)?,
            path: self.path(&name),
        };
        delete(&inside, COPY)?;
        delete(&dirs.layers, &name)?;
        let path = self.path(&copy);
        let made = mkdirat(&inside.fd, COPY, LAYER_MODE);
        made.map_err(|cause| Error::io("create directory", &path, cause))?;
        let to = self.open_below(&copy)?;
        let options = copy::Options {
            durable: Durable::Content,
            ..copy::Options::default()
        };
        match copy_tree(&[source.as_fd()], Path::new(""), to.as_fd(), &options) {
            Ok(_) => {}
            Err(layerd_layers::Error::Io {
                path: file, cause, ..
            }) => return Err(Error::io("copy to", &path.join(file), cause)),
            Err(cause) => {
                return Err(Error::io("copy to", &path, std::io::Error::other(cause)));
            }
        }
        dirs.barrier.filled()?;
        move_over(&dirs.barrier, &inside, COPY, &dirs.layers, &name)?;
        dirs.barrier.note();
        Ok(())
    }

    /// Deletes the image of a layer that was copied out of it, or ends its quota. None there is success.
    pub(super) fn remove(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        if !self.has_image(slot) || !dirs.layers.has(&slot.to_string())? {
            return self.free(slot);
        }
        let _lock = self.lock(slot);
        self.holder(slot).let_go()?;
        self.known.write().remove(&slot);
        let (parent, name) = (self.folder.fd.as_fd(), c_name(&slot.to_string()));
        let deleted = tree::delete(parent, &name, &self.folder.path, &dirs.barrier, &|| true);
        deleted.inspect_err(|_| {
            self.known.write().insert(slot, Form::Image);
        })
    }

    /// Moves an image to the trash, unmounted, or ends a quota. What has the layer mounted goes on. Mounts of
    /// other programs go with it, and keep it from being deleted.
    pub(super) fn discard(&self, slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        if !self.has_image(slot) {
            return self.free(slot);
        }
        let _lock = self.lock(slot);
        match self.holder(slot).let_go() {
            Ok(()) | Err(Error::Busy { .. }) => {}
            Err(cause) => return Err(cause),
        }
        rename_over(
            &self.folder,
            &slot.to_string(),
            &dirs.trash,
            &limited_name(slot),
        )?;
        dirs.barrier.note();
        self.known.write().remove(&slot);
        Ok(())
    }

    /// Unmounts an image in the trash. Nothing there is success; a mount of another program is an error.
    pub(super) fn rest(slot: Slot, dirs: &LayerDirs) -> Result<(), Error> {
        Holder::new(&dirs.trash, &limited_name(slot)).let_go()
    }

    /// Unmounts an unknown entry that is to be moved to another place, if it has an image.
    pub(super) fn release_unknown(path: &Path) -> Result<(), Error> {
        let holds_image = path.join(limit::IMAGE).is_file();
        holds_image.then(|| Holder::at(path).let_go()).transpose()?;
        Ok(())
    }

    /// Path of a layer that is to be moved to another place, unmounted.
    pub(super) fn release(&self, slot: Slot) -> Result<PathBuf, Error> {
        let _lock = self.lock(slot);
        self.holder(slot).let_go()?;
        self.known.write().remove(&slot);
        Ok(self.path(&slot.to_string()))
    }
}

/// Adds layers that are held to a size, and unknown entries beside them. An image beside a directory is
/// what Commit left of the layer, and a project is beside it as long as it is written: both are among what
/// is kept while a layer is written. A layer whose image cannot be used is missing, and its folder an unknown
/// entry.
pub(super) fn list(root: &Path, found: &mut Vec<Found>) -> Result<(), Error> {
    let there: HashSet<(SlotKind, Slot)> = found
        .iter()
        .filter_map(|entry| match entry {
            Found::Slot(kind, slot) => Some((*kind, *slot)),
            Found::UnknownEntry(_) => None,
        })
        .collect();
    for entry in entries(root)? {
        match entry {
            // Without answered mounts it is what an interrupted Prepare left, and beside the layer what an
            // interrupted deletion did.
            Ok((slot, Form::Image))
                if !there.contains(&(SlotKind::Layer, slot))
                    && was_mounted(root, slot)
                    && is_bad(root, slot) =>
            {
                found.push(Found::UnknownEntry(holder(root, slot)));
            }
            Ok((slot, form)) => {
                let is_layer = form == Form::Image && !there.contains(&(SlotKind::Layer, slot));
                let kind = match is_layer {
                    true => SlotKind::Layer,
                    false => SlotKind::Work,
                };
                if !there.contains(&(kind, slot)) {
                    found.push(Found::Slot(kind, slot));
                }
            }
            Err(path) => found.push(Found::UnknownEntry(path)),
        }
    }
    Ok(())
}

/// True if mounts of a layer of a root were answered; `false` for one that has no limit.
pub(super) fn was_mounted(root: &Path, slot: Slot) -> bool {
    holder(root, slot).join(DATA).exists()
}

/// True if the image of a layer shows a fault without a mount.
fn is_bad(root: &Path, slot: Slot) -> bool {
    limit::image_problem(&holder(root, slot)).is_some()
}

fn holder(root: &Path, slot: Slot) -> PathBuf {
    root.join(LIMITED).join(slot.to_string())
}

/// A layer that is held to a size, or the path of an unknown entry.
type Entry = Result<(Slot, Form), PathBuf>;

/// All that is in the folder of a root.
fn entries(root: &Path) -> Result<Vec<Entry>, Error> {
    let folder = root.join(LIMITED);
    let fail = |cause| Error::io("read directory", &folder, cause);
    let entries = match fs::read_dir(&folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let opened = fs::File::open(&folder).map_err(fail)?;
    let known = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.map_err(fail)?;
        let (path, name) = (entry.path(), entry.file_name());
        let slot = name.to_str().and_then(|name| name.parse().ok());
        let form = match entry.file_type() {
            Ok(kind) if kind.is_dir() => Some(Form::Image),
            Ok(kind) if kind.is_symlink() => {
                let noted = Project::noted(opened.as_fd(), name.to_str().unwrap_or_default());
                let noted = noted.map_err(|cause| Error::io("read", &path, cause))?;
                noted.map(Form::Project)
            }
            _ => None,
        };
        Ok(slot.zip(form).ok_or(path))
    };
    entries.map(known).collect()
}

#[cfg(test)]
mod project_tests;
#[cfg(test)]
mod tests;
