//! Layers as plain directories, stacked by overlayfs.
//!
//! ```text
//! <root>/l/<slot>     a layer's content; the upper directory while it is written
//! <root>/w/<slot>     its work directory; the kernel makes work/ in it
//! <root>/t/<slot>     a layer that is being deleted, or what is left of it
//! <root>/t/<slot>.w   its work directory
//! <root>/e            an empty directory, below layers whose parents are not known yet
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
use layerd_mounts::{Error, Mount, Slot, Usage, sys, tree};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::driver::{Base, Driver, Found, Stack, Stamp};
use crate::overlay::plan::Layout;
use crate::overlay::probe::Finding;
use survey::{PLACES, holds_nothing, list_folder, work_name};

mod lost;
pub mod plan;
pub mod probe;
mod survey;

/// Settings of an [`Overlay`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Further options for every overlay mount, one to an element, as in `redirect_dir=on`. With
    /// an `index` or `userxattr` among them, layerd adds none of its own.
    pub mount_options: Vec<String>,
}

/// Layers as directories below one root.
#[derive(Debug)]
pub struct Overlay {
    layout: Layout,
    layers: Folder,
    work: Folder,
    trash: Folder,
    floor: Folder,
    findings: Vec<Finding>,
    root: PathBuf,
    barrier: Barrier,
}

impl Overlay {
    /// Opens `root`, making it and its folders if they are missing, and checks that layers can be
    /// kept there. Durable on return. Mounts a small overlay in a mount namespace of its own for
    /// the check, where the process may do that.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] says what to change; [`Error::Io`].
    pub fn open(root: &Path, options: &Options) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let checked = probe::run(&root, options)?;
        if let Some(fatal) = checked.findings.iter().find(|finding| finding.refuses()) {
            return Err(fatal.to_error(&root));
        }
        let folder = |name: &CStr| Folder::open(&root, name);
        let overlay = Self {
            layers: folder(c"l")?,
            work: folder(c"w")?,
            trash: folder(c"t")?,
            floor: folder(c"e")?,
            layout: checked.layout,
            findings: checked.findings,
            barrier: Barrier::open(&root)?,
            root: root.clone(),
        };
        sync_path(&root)?;
        Ok(overlay)
    }

    /// Checks `root` as [`open`](Self::open) does, but goes on after a failure. Makes the root if
    /// it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be made or opened, [`Error::Unsuitable`] if its path or
    /// the options cannot be used at all.
    pub fn check(root: &Path, options: &Options) -> Result<Vec<Finding>, Error> {
        let root = prepare_root(root)?;
        Ok(probe::run(&root, options)?.findings)
    }

    /// What the checks at start found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Directory of a layer, as it stands in the mounts.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.layout.layer(slot))
    }

    /// Makes a layer's own directory: owned and with the mode as `base` says, whatever the umask.
    fn create_layer(&self, slot: Slot, base: Base) -> Result<(), Error> {
        let name = slot.to_string();
        let path = || self.layers.path.join(&name);
        let top = self.top(base)?;
        let made = mkdirat(&self.layers.fd, name.as_str(), LAYER_MODE);
        made.map_err(|cause| Error::io("create directory", &path(), cause))?;
        self.correct(&name, top).map(drop)
    }

    /// Opens the top directory of a layer, and gives it its owner and mode.
    fn correct(&self, name: &str, (uid, gid, mode): (u32, u32, Mode)) -> Result<OwnedFd, Error> {
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

    /// Owner and mode of the top directory of a new layer. overlayfs shows that of the topmost
    /// layer, so it is like the one below.
    fn top(&self, base: Base) -> Result<(u32, u32, Mode), Error> {
        match base {
            Base::Empty => {
                let (uid, gid) = own_ids();
                Ok((uid, gid, LAYER_MODE))
            }
            Base::Owned { uid, gid } => Ok((uid, gid, LAYER_MODE)),
            Base::On(parent) => {
                let top = self.stat(&self.layers, &c_name(&parent.to_string()))?;
                let mode = Mode::from_bits_truncate(top.mode & 0o7777);
                Ok((top.uid, top.gid, mode))
            }
        }
    }

    fn stat(&self, folder: &Folder, name: &CStr) -> Result<sys::Stat, Error> {
        let path = folder.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = sys::stat(folder.fd.as_fd(), name);
        stat.map_err(|cause| Error::io("look at", &path, cause))
    }

    /// Makes the work directory of a layer that was made a moment ago. One that is there belongs to
    /// something else: the layer is taken away again.
    fn create_work(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        let made = mkdirat(&self.work.fd, name.as_str(), Mode::S_IRWXU);
        if made == Err(Errno::EEXIST) {
            let layers = &self.layers;
            let gone = unlinkat(&layers.fd, name.as_str(), UnlinkatFlags::RemoveDir);
            gone.map_err(|cause| Error::io("delete directory", &layers.path.join(&name), cause))?;
        }
        made.map_err(|cause| Error::io("create work directory", &self.work.path.join(name), cause))
    }

    fn touched(&self) {
        self.barrier.note();
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn create(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        let made = self.create_layer(slot, base);
        self.touched();
        made?;
        if writable {
            self.create_work(slot)?;
        }
        Ok(())
    }

    fn take_spare(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        let name = slot.to_string();
        let top = self.top(base)?;
        let made = self.stat(&self.layers, &c_name(&name))?;
        if !writable {
            self.seal(slot)?;
        }
        if top
            == (
                made.uid,
                made.gid,
                Mode::from_bits_truncate(made.mode & 0o7777),
            )
        {
            return Ok(());
        }
        // The record does not wait: that the layer is there is durable already.
        let dir = self.correct(&name, top)?;
        let path = self.layers.path.join(name);
        self.barrier.changed_inode(dir.as_fd(), &path)
    }

    fn settle(&self, slot: Slot) -> Result<Usage, Error> {
        let layers = &self.layers;
        let name = c_name(&slot.to_string());
        let usage = tree::settle(layers.fd.as_fd(), &name, &layers.path);
        let filled = self.barrier.filled();
        usage.and_then(|usage| filled.map(|()| usage))
    }

    fn sync(&self) -> Result<(), Error> {
        self.barrier.pass()
    }

    fn journal(&self) -> Option<u64> {
        self.barrier.journal()
    }

    fn seal(&self, slot: Slot) -> Result<(), Error> {
        // In its place: something of a layer that was not removed is a fault in the trash.
        let (name, work) = (c_name(&slot.to_string()), &self.work);
        match unlinkat(&work.fd, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // The kernel has worked in it, or something else is wrong.
            Err(_) => tree::delete(work.fd.as_fd(), &name, &work.path, &|| true),
        }
    }

    fn set_aside(&self, found: &Found) -> Result<PathBuf, Error> {
        lost::set_aside(&self.root, found)
    }

    fn ensure_work(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        self.stat(&self.layers, &c_name(&name))?;
        match mkdirat(&self.work.fd, name.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(cause) => {
                let path = self.work.path.join(name);
                Err(Error::io("create work directory", &path, cause))
            }
        }
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        self.layout.plan(stack)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.layers.has(&slot.to_string())
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(holds_nothing(&self.layers, slot)? && holds_nothing(&self.work, slot)?)
    }

    fn retire(&self, slot: Slot) -> Result<(), Error> {
        let (name, work) = (slot.to_string(), work_name(slot));
        let mut moved = move_over(&self.barrier, &self.layers, &name, &self.trash, &name);
        // A rename of nothing, too, takes the lock that all renames of the file system share.
        if self.work.has(&name).unwrap_or(true) {
            moved =
                moved.and_then(|()| rename_over(&self.work, &name, &self.trash, &work).map(drop));
        }
        self.touched();
        moved
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        let trash = &self.trash;
        let keep_going = || {
            self.touched();
            keep_going()
        };
        let delete =
            |name: String| tree::delete(trash.fd.as_fd(), &c_name(&name), &trash.path, &keep_going);
        if !keep_going() {
            return Err(Error::Stopped);
        }
        let layer = delete(slot.to_string());
        if matches!(layer, Err(Error::Stopped)) {
            return layer;
        }
        let work = delete(work_name(slot));
        layer.and(work)
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        let layers = &self.layers;
        let name = c_name(&slot.to_string());
        tree::usage(layers.fd.as_fd(), &name, &layers.path, keep_going)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.layout.top_of(mount)
    }

    fn filled(&self) -> Result<(), Error> {
        self.barrier.filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let name = slot.to_string();
        let top = self.stat(&self.layers, &c_name(&name))?;
        // The kernel makes it with the first mount to be written, and leaves it there.
        let path = c_name(&format!("{name}/work"));
        match sys::stat(self.work.fd.as_fd(), &path) {
            Ok(_) => return Ok(None),
            Err(Errno::ENOENT) => {}
            Err(cause) => {
                let path = self.work.path.join(name);
                return Err(Error::io("look into", &path, cause));
            }
        }
        Ok(Some(Stamp {
            inode: top.inode,
            changed: top.changed,
        }))
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let name = slot.to_string();
        let opened = openat(&self.layers.fd, name.as_str(), FLAGS, Mode::empty());
        opened.map_err(|cause| Error::io("open directory", &self.layers.path.join(name), cause))
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let folders = [&self.layers, &self.work, &self.trash, &self.floor];
        for ((place, _), folder) in PLACES.into_iter().zip(folders) {
            list_folder(place, folder, &mut found)?;
        }
        Ok(found)
    }

    fn describe(&self) -> Vec<(String, String)> {
        let options = ("mount options".to_owned(), self.layout.options().join(","));
        let synced = match self.barrier.journal() {
            Some(_) => "all files at once, by the journal of the file system",
            None => "all files of the file system at once, other programs' included, by syncfs",
        };
        let findings = self.findings.iter();
        findings
            .map(|finding| (finding.name.to_owned(), finding.detail.clone()))
            .chain([options, ("made durable".to_owned(), synced.to_owned())])
            .collect()
    }
}

/// Mode of a layer's top directory.
const LAYER_MODE: Mode = Mode::from_bits_truncate(0o755);

fn own_ids() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}

fn prepare_root(root: &Path) -> Result<PathBuf, Error> {
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
    // The client's mounts must not hang on a symlink that somebody turns elsewhere.
    root.canonicalize()
        .map_err(|cause| Error::io("resolve", root, cause))
}

#[cfg(test)]
mod mount_tests;
#[cfg(test)]
mod tests;
