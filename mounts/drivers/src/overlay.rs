//! Layers as plain directories or images, stacked by overlayfs.
//!
//! ```text
//! <root>/l/<slot>     a layer's content; the upper directory while it is written
//! <root>/w/<slot>     its work directory; the kernel makes work/ in it
//! <root>/c/<slot>     a writable layer that is held to a size (limited.rs)
//! <root>/e            an empty directory, below layers whose parents are not known yet
//! ```
//!
//! See `dirs.rs` for the others, and for what they have in common. Layers that are unpacked may be
//! images instead of directories (`images.rs`); a root may hold both.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use layerd_mounts::folder::Folder;
use layerd_mounts::limit::{Limit, Method};
use layerd_mounts::{Error, IdMaps, Mount, Slot, Usage};
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dirs::{LAYERS, LayerDirs, Offline, Top, limited_name, prepare_root};
use crate::driver::{
    Base, CheckedImage, Content, Directories, Driver, Features, Found, Images, Info, LayerPool,
    Limits, Owner, SlotKind, Stack, Survey, WorkDirs,
};
use crate::finding::{FileSystem, Finding};
use crate::overlay::images::{LayerImages, recover};
use crate::overlay::limited::LimitedLayers;
use crate::overlay::offline::OfflineOverlay;
use crate::overlay::plan::Layout;

mod capabilities;
mod images;
mod limited;
mod offline;
pub mod plan;
pub mod probe;

/// Folder of the empty lower directory.
const EMPTY_LOWER: &str = "e";
const FOLDERS: &[&str] = &[
    "l",
    "w",
    "t",
    EMPTY_LOWER,
    images::IMAGES,
    images::MOUNT_POINTS,
    limited::LIMITED,
];

/// Form of layers that are unpacked. Others, and all that a client writes to, are directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LayerForm {
    /// Files in a directory.
    #[default]
    Directories,
    /// EROFS images; opening fails where they cannot be mounted.
    Images,
    /// Images where the kernel and the file system take them and SELinux is off, else directories.
    Auto,
}

impl LayerForm {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Directories, Self::Images, Self::Auto];

    /// Name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directories => "directories",
            Self::Images => "images",
            Self::Auto => "auto",
        }
    }
}

/// Settings of an [`Overlay`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Further options for every overlay mount, one to an element, as in `redirect_dir=on`. With
    /// an `index` or `userxattr` among them, layerd adds none of its own.
    pub mount_options: Vec<String>,
    /// Form of layers that are unpacked from now on.
    pub layers: LayerForm,
    /// Way in which layers are held to a size from now on.
    pub limits: Method,
}

/// Layers as directories below one root.
#[derive(Debug)]
pub struct Overlay {
    pub(crate) layout: Layout,
    pub(crate) dirs: LayerDirs,
    images: LayerImages,
    limited: LimitedLayers,
    empty_lower: Folder,
    findings: Vec<Finding>,
    file_system: FileSystem,
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
        let empty_lower = Folder::open(&root, c"e")?;
        let images = LayerImages::open(&root, checked.makes_images)?;
        let dirs = LayerDirs::open(&root)?;
        images.recover(&dirs)?;
        let limited = LimitedLayers::open(&root, options.limits)?;
        Ok(Self {
            dirs,
            images,
            limited,
            empty_lower,
            layout: checked.layout,
            findings: checked.findings,
            file_system: checked.file_system,
        })
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

    /// Layers of a root that no daemon serves.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<> {
        OfflineOverlay(Offline {
            root: root.to_owned(),
            layers: LAYERS,
            empty: Some(EMPTY_LOWER),
        })
    }

    /// Results of the checks at start.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Directory of a layer, as it stands in the mounts.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.layout.layer(slot))
    }

    /// Owner, group and mode of the top directory of a new layer.
    fn top(&self, base: &Base) -> Result<Top, Error> {
        match (base.owner, base.content) {
            (None, Content::Of(parent)) if self.images.has(parent) => self.images.top(parent),
            _ => self.dirs.top(base),
        }
    }

    /// Makes a writable layer that is held to a size. Its own directory is made by Commit.
    fn create_limited(&self, slot: Slot, base: &Base, limit: Limit) -> Result<(), Error> {
        let name = slot.to_string();
        let path = || self.dirs.layers.path.join(&name);
        if !self.needs_work(base) || base.content == Content::Deferred {
            let problem = "only a writable layer on another one can be held to a size";
            return Err(Error::NotAStack { problem });
        }
        if self.dirs.layers.has(&name)? {
            return Err(Error::io("create directory", &path(), Errno::EEXIST));
        }
        if self.limited.are_projects() {
            return self.create_in_project(slot, base, limit);
        }
        let work = &self.dirs.work;
        let made = mkdirat(&work.fd, name.as_str(), Mode::S_IRWXU);
        self.dirs.barrier.note();
        made.map_err(|cause| Error::io("create work directory", &work.path.join(&name), cause))?;
        self.limited.create(slot, limit)
    }

    /// Makes a writable layer that the quota of a project holds to a size.
    fn create_in_project(&self, slot: Slot, base: &Base, limit: Limit) -> Result<(), Error> {
        let top = self.top(base)?;
        self.limited.take_project(slot, limit)?;
        let made = self.dirs.make_layer(slot, top).map(drop);
        let made = made.and_then(|()| self.create_work(slot));
        if made.as_ref().is_err_and(is_taken) {
            self.limited.free(slot)?;
        }
        made?;
        self.limited.give_project(slot, &self.dirs)
    }

    /// Has the image of a layer that is held to a size mounted. Of a `stack` that is about to be mounted
    /// the upper directory is made, if it is missing.
    fn mount_limited(&self, slot: Slot, stack: Option<&Stack>) -> Result<(), Error> {
        let Some(stack) = stack else {
            return self.limited.make_mountable(slot, None);
        };
        let owner = stack.ids.as_ref().and_then(IdMaps::root);
        let base = Base {
            owner: owner.map(|(uid, gid)| Owner { uid, gid }),
            ..match stack.parents.first() {
                Some(parent) => Base::on(*parent),
                None => Base::empty(),
            }
        };
        self.limited.make_mountable(slot, Some(&|| self.top(&base)))
    }

    /// Makes the work directory of a layer that was made a moment ago. One that is there belongs to
    /// something else: the layer is taken away again.
    fn create_work(&self, slot: Slot) -> Result<(), Error> {
        let (layers, work) = (&self.dirs.layers, &self.dirs.work);
        let name = slot.to_string();
        let made = mkdirat(&work.fd, name.as_str(), Mode::S_IRWXU);
        if made == Err(Errno::EEXIST) {
            let gone = unlinkat(&layers.fd, name.as_str(), UnlinkatFlags::RemoveDir);
            gone.map_err(|cause| Error::io("delete directory", &layers.path.join(&name), cause))?;
        }
        made.map_err(|cause| Error::io("create work directory", &work.path.join(name), cause))
    }
}

impl Survey for Overlay {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.dirs.list()?;
        LayerDirs::list_unknown_entries(&self.empty_lower, &mut found)?;
        recover::list(self.dirs.root(), &mut found)?;
        limited::list(self.dirs.root(), &mut found)?;
        Ok(found)
    }

    fn needs_work(&self, base: &Base) -> bool {
        needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(!self.images.has(slot)
            && !self.limited.was_mounted(slot)?
            && self.dirs.holds_nothing(slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        Ok(!recover::holds_image(self.dirs.root(), slot, true)
            && !self.limited.was_mounted(slot)?
            && !self.dirs.trash.has(&limited_name(slot))?
            && self.dirs.holds_nothing(slot)?
            && self.dirs.trash_holds_nothing(slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        if self.limited.has_image(slot) {
            self.mount_limited(slot, None)?;
            return self.limited.open_layer(slot);
        }
        if self.images.has(slot) {
            let opened = self.images.open_layer(slot);
            // Unless it was turned into a directory meanwhile.
            if opened.is_ok() || self.images.has(slot) {
                return opened;
            }
        }
        self.dirs.open_layer(slot)
    }

    fn check_image(
        &self,
        slot: Slot,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<Option<CheckedImage>, Error> {
        let is_image = self.images.has(slot);
        is_image
            .then(|| self.images.check(slot, keep_going))
            .transpose()
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn info(&self) -> Info {
        let findings = self.findings.iter();
        let facts = findings.map(|finding| (finding.name.to_owned(), finding.detail.clone()));
        let options = ("mount options".to_owned(), self.layout.options().join(","));
        Info {
            backing_filesystem: self.file_system.0.clone(),
            facts: facts.chain([options, self.dirs.durability()]).collect(),
        }
    }

    fn features(&self) -> Features {
        Features {
            deferred_parents: true,
            id_mapping: true,
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        if let Some(limit) = base.limit {
            return self.create_limited(slot, base, limit);
        }
        self.dirs.make_layer(slot, self.top(base)?)?;
        if self.needs_work(base) {
            self.create_work(slot)?;
        }
        Ok(())
    }

    /// Of a layer that is held to a size nothing is written, since `freeze` copies it.
    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        if self.limited.has_image(slot) {
            return self.usage(slot, &|| true);
        }
        match self.images.has(slot) {
            true => self.images.write_back(slot, &self.dirs),
            false => self.dirs.write_back(slot),
        }
    }

    /// Of an image the directory beside it goes, which shows that nothing was written to it. A layer that
    /// is held to a size is copied.
    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        let slot = stack.writable_layer()?;
        if self.limited.has_image(slot) {
            self.mount_limited(slot, Some(stack))?;
            return self.limited.copy_out(slot, &self.dirs);
        }
        match self.images.has(slot) {
            true => self.images.freeze(slot, &self.dirs),
            false => Ok(()),
        }
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        match stack.own {
            Some(own) if self.limited.has_image(own) => self.mount_limited(own, Some(stack))?,
            Some(own) => {
                self.limited.check_enforced(own)?;
                self.images.expand(own, &self.dirs)?;
            }
            None => {}
        }
        let mut parents = stack.parents.iter();
        match needs_directories(stack) {
            true => parents.try_for_each(|parent| self.images.expand(*parent, &self.dirs)),
            false => parents.try_for_each(|parent| self.images.make_mountable(*parent)),
        }
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        let needs_directories = needs_directories(stack);
        let is_image = |slot| !needs_directories && self.images.has(slot);
        let is_new = stack.limit.is_some() && !self.limited.are_projects();
        let is_limited = is_new || stack.own.is_some_and(|own| self.limited.has_image(own));
        self.layout.plan(stack, &is_image, is_limited)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.layout.top_of(mount)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        if self.limited.has_image(slot) {
            return self.limited.is_there(slot);
        }
        match self.images.has(slot) {
            true => self.images.is_there(slot),
            false => self.dirs.layers.has(&slot.to_string()),
        }
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        if self.limited.has_image(slot) {
            self.mount_limited(slot, None)?;
            return self.limited.usage(slot, keep_going);
        }
        match self.images.has(slot) {
            true if !keep_going() => Err(Error::Stopped),
            true => self.images.usage(slot),
            false => self.dirs.usage(slot, keep_going),
        }
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.images.discard(slot, &self.dirs)?;
        self.limited.discard(slot, &self.dirs)?;
        self.dirs.discard(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        LimitedLayers::rest(slot, &self.dirs)?;
        self.dirs.delete(slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.dirs.barrier.pass()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        let Found::Slot(SlotKind::Layer, slot) = found else {
            if let Found::UnknownEntry(path) = found {
                LimitedLayers::release_unknown(path)?;
            }
            return self.dirs.move_to_lost_found(found);
        };
        if self.limited.has_image(*slot) && !self.dirs.layers.has(&slot.to_string())? {
            let image = Found::UnknownEntry(self.limited.release(*slot)?);
            return self.dirs.move_to_lost_found(&image);
        }
        self.limited.free(*slot)?;
        if !self.images.has(*slot) {
            return self.dirs.move_to_lost_found(found);
        }
        if self.dirs.layers.has(&slot.to_string())? {
            self.dirs.move_to_lost_found(found)?;
        }
        let image = Found::UnknownEntry(self.images.release(*slot)?);
        self.dirs.move_to_lost_found(&image)
    }

    fn pool(&self) -> Option<&dyn LayerPool> {
        Some(self)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        Some(self)
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        Some(self)
    }

    fn limits(&self) -> Option<&dyn Limits> {
        Some(self)
    }

    fn shared_journal_device(&self) -> Option<u64> {
        self.dirs.barrier.journal()
    }
}

/// True if something of a slot was there that a call did not make.
fn is_taken(cause: &Error) -> bool {
    cause.io_kind() == Some(ErrorKind::AlreadyExists)
}

/// True if clients map the ids of the layers of a stack: containerd from 2.1 on clones the folder that
/// all of them lie in, without the mounts below it, and maps the ids of that.
fn needs_directories(stack: &Stack) -> bool {
    stack.ids.is_some()
}

/// overlayfs wants a work directory for an upper directory over others.
pub(crate) fn needs_work(base: &Base) -> bool {
    base.writable && base.content != Content::Empty
}

#[cfg(test)]
mod mount_tests;
#[cfg(test)]
mod tests;
