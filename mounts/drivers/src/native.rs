//! Layers as whole trees, shown by bind mounts.
//!
//! A new layer is a copy of its parent's tree, whose files share their blocks where the file system
//! can clone them (FICLONE: btrfs, xfs with reflink); elsewhere they are copied. So it works where
//! overlayfs does not: with the root on overlayfs, as in a container, or on any tmpfs. The price is
//! the copy: Prepare takes time and inodes for each file of the image, and space where nothing is
//! shared.
//!
//! `w/<slot>` is a mark here: the layer is being made and was not acknowledged yet. Without it nothing
//! would tell a copy that an interrupted call left from a layer that a client has written to. It is
//! made before the layer, and removed once its record is durable.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layerd_layers::copy::{self, copy_tree};
use layerd_layers::{Durable, Layering};
use layerd_mounts::folder::c_name;
use layerd_mounts::{Error, Mount, Slot, Usage};
use nix::sys::stat::{Mode, mkdirat};

use crate::dirs::{LayerDirs, Offline, prepare_root};
use crate::driver::{
    Base, Content, Directories, Driver, Found, Info, Stack, Stamp, Survey, WorkDirs,
};
use crate::finding::{FileSystem, Finding, file_system};

mod reflink;

const FOLDERS: &[&str] = &["l", "w", "t"];

/// Layers as whole trees below one root.
#[derive(Debug)]
pub struct Native {
    /// Absolute and without symlinks.
    root: String,
    dirs: LayerDirs,
    findings: Vec<Finding>,
    file_system: FileSystem,
}

impl Native {
    /// Opens `root`, making it and its folders if they are missing. Durable on return.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if its path is not UTF-8; [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let (findings, file_system) = look(&root)?;
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
        })
    }

    /// Checks `root` as [`open`](Self::open) does. Makes the root if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be made or written.
    pub fn check(root: &Path) -> Result<Vec<Finding>, Error> {
        Ok(look(&prepare_root(root)?)?.0)
    }

    /// Layers of a root that no daemon serves.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<> {
        OfflineNative(Offline {
            root: root.to_owned(),
            empty: None,
        })
    }

    /// Directory of a layer, as it stands in the mounts.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.layer(slot))
    }

    fn layer(&self, slot: Slot) -> String {
        format!("{}/l/{slot}", self.root)
    }

    fn mark(&self, slot: Slot) -> Result<(), Error> {
        let (name, work) = (slot.to_string(), &self.dirs.work);
        let made = mkdirat(&work.fd, name.as_str(), Mode::S_IRWXU);
        made.map_err(|cause| Error::io("create directory", &work.path.join(name), cause))
    }

    /// Copies the tree of the parent into a layer that was made a moment ago. Its content is on the
    /// disk on return, so that no power cut takes away what a client was shown.
    fn copy(&self, slot: Slot, base: &Base, from: &OwnedFd, to: &OwnedFd) -> Result<(), Error> {
        let options = copy::Options {
            durable: Durable::Content,
            ..copy::Options::default()
        };
        let copied = copy_tree(&[from.as_fd()], Path::new(""), to.as_fd(), &options);
        copied.map_err(|cause| self.not_copied(slot, cause))?;
        if base.owner.is_some() {
            self.dirs.correct(&slot.to_string(), self.dirs.top(base)?)?;
        }
        self.dirs.barrier.filled()
    }

    fn not_copied(&self, slot: Slot, cause: layerd_layers::Error) -> Error {
        let layer = self.layer_path(slot);
        match cause {
            layerd_layers::Error::Io { path, cause, .. } => {
                Error::io("copy to", &layer.join(path), cause)
            }
            cause => Error::io("copy to", &layer, io::Error::other(cause)),
        }
    }
}

/// Results of the checks, and the type of the file system.
fn look(root: &Path) -> Result<(Vec<Finding>, FileSystem), Error> {
    let (finding, file_system) = file_system(root)?;
    Ok((vec![finding, reflink::check(root)?], file_system))
}

impl Survey for Native {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
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
struct OfflineNative(Offline);

impl Survey for OfflineNative {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.0.list()
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.0.has("w", &slot.to_string())? || self.0.hold_nothing(&["l"], slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.0.has("t", &format!("{slot}.w"))? {
            return Ok(true);
        }
        Ok(self.is_unused(slot)? && self.0.hold_nothing(&["t"], slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.0.open_layer(slot)
    }
}

impl Driver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn info(&self) -> Info {
        let findings = self.findings.iter();
        let facts = findings.map(|finding| (finding.name.to_owned(), finding.detail.clone()));
        Info {
            backing_filesystem: self.file_system.0.clone(),
            facts: facts.chain([self.dirs.durability()]).collect(),
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let source = match base.content {
            Content::Empty => None,
            Content::Of(parent) => Some(self.dirs.open_layer(parent)?),
            Content::Deferred => {
                return Err(Error::NotAStack {
                    problem: "the driver native copies a layer's parent, which is not known",
                });
            }
        };
        let top = self.dirs.top(base)?;
        self.mark(slot)?;
        let made = self.dirs.make_layer(slot, top).inspect_err(|cause| {
            if cause.io_kind() == Some(ErrorKind::AlreadyExists) {
                // It is another's, and must not be taken for one that is being made.
                let _ = self.dirs.remove_work(slot);
            }
        })?;
        match source {
            Some(source) => self.copy(slot, base, &source, &made),
            None => Ok(()),
        }
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.dirs.write_back(slot)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        stack.own.map_or(Ok(()), |slot| self.dirs.remove_work(slot))
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        let refused = |problem| Err(Error::NotAStack { problem });
        if stack.ids.is_some() {
            return refused("the driver native maps no ids");
        }
        let (shown, access) = match (stack.own, stack.parents.first(), stack.writable) {
            (Some(own), _, true) => (own, "rw"),
            (None, _, true) => {
                return refused("it is to be written but has no layer of its own");
            }
            (Some(own), _, false) => (own, "ro"),
            (None, Some(parent), false) => (*parent, "ro"),
            (None, None, false) => return refused("it has no layers"),
        };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.layer(shown),
            options: vec![access.to_owned(), "rbind".to_owned()],
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
        self.dirs.usage(slot, keep_going)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.discard(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.dirs.delete(slot, keep_going)
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

impl Directories for Native {
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
impl WorkDirs for Native {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        let layers = &self.dirs.layers;
        self.dirs.stat(layers, &c_name(&slot.to_string())).map(drop)
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.remove_work(slot)
    }
}

#[cfg(test)]
mod tests;
