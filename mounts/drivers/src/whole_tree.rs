//! Drivers whose layers are whole trees, shown by bind mounts: they differ in how a new layer gets the
//! content of its parent.
//!
//! `w/<slot>` is a mark here: the layer is being made and was not acknowledged yet. Without it nothing
//! would tell a layer that an interrupted call left from one that a client has written to. It is
//! made before the layer, and removed once its record is durable.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use layerd_layers::Layering;
use layerd_mounts::folder::c_name;
use layerd_mounts::{Error, Mount, Slot, Usage};

use crate::dirs::{LAYERS, LayerDirs, Offline, Top, prepare_root};
use crate::driver::{
    Base, Content, Directories, Driver, Found, Info, Stack, Stamp, Survey, WorkDirs,
};
use crate::finding::Finding;

/// Way of one driver to make, finish and delete whole trees.
pub trait Trees: fmt::Debug + Send + Sync + Sized {
    /// Name of the driver.
    const NAME: &'static str;
    /// Its folders below the root.
    const FOLDERS: &'static [&'static str];

    /// Checks a root that is there, and answers the type of its file system too.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be read.
    fn look(root: &Path) -> Result<(Vec<Finding>, String), Error>;

    /// Opens what it keeps below the root beside the layers. The checks have passed.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn open(root: &Path) -> Result<Self, Error>;

    /// Makes a layer without content.
    ///
    /// # Errors
    /// As for [`Driver::create`].
    fn make(&self, dirs: &LayerDirs, slot: Slot, top: Top) -> Result<(), Error> {
        dirs.make_layer(slot, top).map(drop)
    }

    /// Makes a layer with the content of a parent, whose top directory is open. Its own top
    /// directory gets owner and mode of `top`.
    ///
    /// # Errors
    /// As for [`Driver::create`].
    fn copy(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        parent: (Slot, &OwnedFd),
        top: Top,
    ) -> Result<(), Error>;

    /// As [`Driver::freeze`].
    ///
    /// # Errors
    /// As there.
    fn freeze(&self, dirs: &LayerDirs, slot: Slot) -> Result<(), Error> {
        let _ = (dirs, slot);
        Ok(())
    }

    /// Lets a layer be written again whose commit came to nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn thaw(&self, dirs: &LayerDirs, slot: Slot) -> Result<(), Error> {
        let _ = (dirs, slot);
        Ok(())
    }

    /// As [`Driver::usage`].
    ///
    /// # Errors
    /// As there.
    fn usage(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Usage, Error> {
        dirs.usage(slot, keep_going)
    }

    /// As [`Driver::write_back`].
    ///
    /// # Errors
    /// As there.
    fn write_back(&self, dirs: &LayerDirs, slot: Slot) -> Result<Usage, Error> {
        dirs.write_back(slot)
    }

    /// As [`Driver::delete`].
    ///
    /// # Errors
    /// As there.
    fn delete(
        &self,
        dirs: &LayerDirs,
        slot: Slot,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        dirs.delete(slot, keep_going)
    }
}

/// Layers as whole trees below one root.
#[derive(Debug)]
pub struct WholeTrees<T> {
    /// Absolute and without symlinks.
    root: String,
    dirs: LayerDirs,
    findings: Vec<Finding>,
    file_system: String,
    trees: T,
}

impl<T: Trees> WholeTrees<T> {
    /// Opens `root`, making it and its folders if they are missing. Durable on return.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if its path is not UTF-8, or a check fails; [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let (findings, file_system) = T::look(&root)?;
        if let Some(finding) = findings.iter().find(|finding| finding.refuses()) {
            return Err(finding.to_error(&root));
        }
        let text = root.to_str().ok_or_else(|| Error::Unsuitable {
            path: root.clone(),
            check: "path",
            problem: "mounts cannot carry it".to_owned(),
            advice: "choose a path in UTF-8".to_owned(),
        })?;
        Ok(Self {
            root: text.to_owned(),
            dirs: LayerDirs::open(&root)?,
            findings,
            file_system,
            trees: T::open(&root)?,
        })
    }

    /// Checks `root` as [`open`](Self::open) does. Makes the root if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be made or written.
    pub fn check(root: &Path) -> Result<Vec<Finding>, Error> {
        Ok(T::look(&prepare_root(root)?)?.0)
    }

    /// Layers of a root that no daemon serves.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<T> {
        OfflineTrees {
            offline: Offline {
                root: root.to_owned(),
                layers: LAYERS,
                empty: None,
            },
            folders: T::FOLDERS,
        }
    }

    /// Directory of a layer, as it stands in the mounts.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.layer(slot))
    }

    fn layer(&self, slot: Slot) -> String {
        format!("{}/l/{slot}", self.root)
    }
}

impl<T: Trees> Survey for WholeTrees<T> {
    fn folders(&self) -> &'static [&'static str] {
        T::FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.dirs.list()
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.dirs.work.has(&slot.to_string())? || self.dirs.holds_nothing(slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.dirs.trash.has(&format!("{slot}.w"))? {
            return Ok(true);
        }
        Ok(self.is_unused(slot)? && self.dirs.trash_holds_nothing(slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.dirs.open_layer(slot)
    }
}

/// Whole trees that no daemon serves.
#[derive(Debug)]
struct OfflineTrees {
    offline: Offline,
    folders: &'static [&'static str],
}

impl Survey for OfflineTrees {
    fn folders(&self) -> &'static [&'static str] {
        self.folders
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.offline.list()
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        let offline = &self.offline;
        Ok(offline.has("w", &slot.to_string())? || offline.hold_nothing(&["l"], slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.offline.has("t", &format!("{slot}.w"))? {
            return Ok(true);
        }
        Ok(self.is_unused(slot)? && self.offline.hold_nothing(&["t"], slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.offline.open_layer(slot)
    }
}

impl<T: Trees> Driver for WholeTrees<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn info(&self) -> Info {
        let findings = self.findings.iter();
        let facts = findings.map(|finding| (finding.name.to_owned(), finding.detail.clone()));
        Info {
            backing_filesystem: self.file_system.clone(),
            facts: facts.chain([self.dirs.durability()]).collect(),
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let source = match base.content {
            Content::Empty => None,
            Content::Of(parent) => Some((parent, self.dirs.open_layer(parent)?)),
            Content::Deferred => {
                return Err(Error::NotAStack {
                    problem: "a whole tree starts from its parent's, which is not known",
                });
            }
        };
        let top = self.dirs.top(base)?;
        self.dirs.mark(slot)?;
        let made = match &source {
            None => self.trees.make(&self.dirs, slot, top),
            Some((parent, open)) => {
                let parent = (*parent, open);
                self.trees.copy(&self.dirs, slot, parent, top)
            }
        };
        made.inspect_err(|cause| {
            if cause.io_kind() == Some(ErrorKind::AlreadyExists) {
                // It is another's, and must not be taken for one that is being made.
                let _ = self.dirs.remove_work(slot);
            }
        })
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.trees.write_back(&self.dirs, slot)
    }

    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        self.trees.freeze(&self.dirs, stack.writable_layer()?)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        match (stack.own, stack.parents.first()) {
            (Some(own), _) => {
                if stack.writable {
                    self.trees.thaw(&self.dirs, own)?;
                }
                self.dirs.remove_work(own)
            }
            (None, Some(parent)) => self.trees.freeze(&self.dirs, *parent),
            (None, None) => Ok(()),
        }
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.layer(stack.shown()?),
            options: vec![stack.access().to_owned(), "rbind".to_owned()],
        }])
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let path = (mount.kind == "bind").then_some(&mount.source)?;
        let name = path.strip_prefix(&self.root)?.strip_prefix("/l/")?;
        name.parse().ok()
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.dirs.layers.has(&slot.to_string())
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.trees.usage(&self.dirs, slot, keep_going)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.discard(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.trees.delete(&self.dirs, slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.dirs.barrier.pass()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        self.dirs.move_to_lost_found(found)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        Some(self)
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        Some(self)
    }

    fn shared_journal_device(&self) -> Option<u64> {
        self.dirs.barrier.journal()
    }
}

impl<T: Trees> Directories for WholeTrees<T> {
    fn layering(&self) -> Layering {
        Layering::Full
    }

    fn filled(&self) -> Result<(), Error> {
        self.dirs.barrier.filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        self.dirs.stamp(slot).map(Some)
    }
}

/// The mark of a layer that is being made.
impl<T: Trees> WorkDirs for WholeTrees<T> {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        let layers = &self.dirs.layers;
        self.dirs.stat(layers, &c_name(&slot.to_string())).map(drop)
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.remove_work(slot)
    }
}
