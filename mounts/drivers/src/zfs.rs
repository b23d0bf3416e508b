//! Layers as datasets of ZFS, below one that the configuration names.
//!
//! ```text
//! <dataset>              the parent; its property layerd:root says whose layers these are
//! <dataset>/<slot>       a layer; one with a parent is a clone
//! <dataset>/<slot>@layerd  its content at Commit, of which clones are made and views shown
//! <dataset>/layerd-lost  what was set aside
//! <root>/z/owner         a symlink; its text is the value of layerd:root
//! <root>/z/lock          locked while calls of the driver are under way, also when it was killed
//! <root>/w/<slot>        a mark: the layer is being made and was not acknowledged yet
//! <root>/t/<slot>        a mark: the layer is being deleted
//! ```
//!
//! The datasets say which layers there are, and the folders of the root hold marks alone. Marks cost no call
//! of a program and no transaction of the pool. `w/<slot>` is durable before the dataset is made, so that a
//! dataset without a record and without a mark was acknowledged once. A mark without a dataset is listed and
//! goes as any other.
//!
//! A committed layer is its snapshot, which nothing can alter: views mount it, clones are made of it, and
//! what reads layers reads it. The dataset itself is set read-only besides, so that a client that keeps it
//! mounted is refused (EROFS) and does not write what no one will see.
//!
//! The slow part is to start a program and to wait for a transaction group. Prepare takes one call, Commit
//! four with what it measures, removal one, which takes clones along that are to go as well; Mounts and
//! views none. A layer is measured by one call for the properties, after one that has the pool write what is
//! dirty, since the figures follow the transaction groups.
//!
//! | left behind | by a crash in | made good as |
//! |---|---|---|
//! | `w/<slot>` without a dataset, or with one and no record | Prepare | deleted, as other layers without a record |
//! | a read-only dataset, with or without its snapshot, of an active layer | Commit | written again after Mounts, or committed by the next Commit |
//! | `t/<slot>` | removal | deleted |

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use layerd_mounts::limit::Enforcement;
use layerd_mounts::{Error, Mount, Slot, Usage, tree};
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use parking_lot::Mutex;

use crate::dirs::{LayerDirs, prepare_root};
use crate::driver::{Base, Content, Driver, Found, Info, SlotKind, Stack, Survey};
use crate::finding::Finding;
use datasets::{Dataset, Datasets, SNAPSHOT};
use program::Programs;

mod capabilities;
mod check;
mod datasets;
mod offline;
mod program;
mod steps;
#[cfg(test)]
mod tests;

pub use datasets::check_name;

/// Folder of the symlink.
pub(crate) const HOME: &str = "z";
const FOLDERS: &[&str] = &[HOME, "w", "t"];

/// Datasets of one root.
#[derive(Debug)]
pub struct Zfs {
    /// Held by the programs that run as well.
    _lock: File,
    dirs: LayerDirs,
    datasets: Datasets,
    findings: Vec<Finding>,
    enforcement: Enforcement,
    /// Objects of an empty layer besides its top directory.
    own_objects: u64,
    known: Mutex<HashMap<Slot, Known>>,
    /// Waits for the pool that were asked for, and those that a wait has covered.
    asked: AtomicU64,
    synced: Mutex<u64>,
}

/// Properties of a layer that are known without a call.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    is_frozen: bool,
    is_read_only: bool,
    limit: Option<u64>,
    /// Set once its mark is gone.
    is_acknowledged: bool,
}

impl From<&Dataset> for Known {
    fn from(found: &Dataset) -> Self {
        Self {
            is_frozen: found.is_frozen(),
            is_read_only: found.is_read_only,
            limit: found.quota,
            is_acknowledged: false,
        }
    }
}

impl Zfs {
    /// Opens `root`, making it and its folders if they are missing, with layers below `dataset`, which
    /// belongs to the root from then on. Durable on return.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if a check fails, or the dataset is another root's; [`Error::Io`].
    pub fn open(root: &Path, dataset: Option<&str>) -> Result<Self, Error> {
        Self::open_with(root, dataset, Programs::new())
    }

    fn open_with(root: &Path, dataset: Option<&str>, programs: Programs) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let check::Looked {
            findings,
            datasets,
            owner,
            own_objects,
        } = check::look(&root, dataset, programs);
        if let Some(finding) = findings.iter().find(|finding| finding.refuses()) {
            return Err(finding.to_error(&root));
        }
        let datasets = datasets.ok_or_else(|| check::no_dataset().to_error(&root))?;
        let dirs = LayerDirs::open_with(&root, c"z")?;
        let lock = check::lock(&dirs)?;
        check::claim(&dirs, &datasets, &owner)?;
        let known = datasets.all()?;
        let known = known.iter().filter_map(|found| {
            let slot = found.name.parse().ok()?;
            Some((slot, Known::from(found)))
        });
        Ok(Self {
            _lock: lock,
            known: Mutex::new(known.collect()),
            dirs,
            datasets,
            findings,
            own_objects,
            enforcement: Enforcement::Bytes("quotas of ZFS"),
            asked: AtomicU64::new(0),
            synced: Mutex::new(0),
        })
    }

    /// Checks `root` and `dataset` as [`open`](Self::open) does. Makes the root if it is missing, and a
    /// dataset that it destroys again.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be made.
    pub fn check(root: &Path, dataset: Option<&str>) -> Result<Vec<Finding>, Error> {
        let programs = Programs::new();
        let mut findings = vec![check::program(&programs)];
        if !findings[0].refuses() {
            findings.extend(check::look(&prepare_root(root)?, dataset, programs).findings);
        }
        Ok(findings)
    }

    /// Layers of a root that no daemon serves.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] without a dataset.
    pub fn survey(root: &Path, dataset: Option<&str>) -> Result<impl Survey + use<>, Error> {
        let dataset = dataset.ok_or_else(|| check::no_dataset().to_error(root))?;
        Ok(offline::OfflineZfs::new(root, dataset))
    }
}

/// Name in the trash of the mark of a layer that was never acknowledged.
fn unmade(slot: Slot) -> String {
    format!("{slot}.w")
}

impl Survey for Zfs {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut marks = self.dirs.list()?;
        let home = &self.dirs.layers.path;
        marks.retain(|found| !offline::is_own(home, found));
        Ok(offline::listed(
            marks,
            &self.datasets.all()?,
            self.datasets.parent(),
        ))
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.dirs.work.has(&slot.to_string())?
            || self.is_in_trash(slot)?
            || holds_nothing(self.open_layer(slot), slot)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.dirs.trash.has(&unmade(slot))? || self.dirs.work.has(&slot.to_string())? {
            return Ok(true);
        }
        let dataset = self.datasets.layer(slot);
        match self.is_in_trash(slot)? {
            true => holds_nothing(self.datasets.open(&dataset, true), slot),
            false => self.is_unused(slot),
        }
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        if self.is_in_trash(slot)? {
            return Err(self.missing(slot));
        }
        let known = self.known(slot)?;
        match known.is_frozen {
            true => self.datasets.open(&self.datasets.frozen(slot), true),
            false => self
                .datasets
                .open(&self.datasets.layer(slot), known.is_read_only),
        }
    }
}

/// True if a layer is empty, or there is none.
fn holds_nothing(opened: Result<OwnedFd, Error>, slot: Slot) -> Result<bool, Error> {
    match opened {
        Ok(top) => tree::is_empty(top.as_fd(), Path::new(&slot.to_string())),
        Err(cause) if cause.io_kind() == Some(std::io::ErrorKind::NotFound) => Ok(true),
        Err(cause) => Err(cause),
    }
}

impl Driver for Zfs {
    fn name(&self) -> &'static str {
        "zfs"
    }

    fn info(&self) -> Info {
        let findings = self.findings.iter();
        let facts = findings.map(|finding| (finding.name.to_owned(), finding.detail.clone()));
        let made = "each call by the transaction group that holds it, which is waited for";
        let durability = ("made durable".to_owned(), made.to_owned());
        Info {
            backing_filesystem: "zfs".to_owned(),
            facts: facts
                .chain(check::facts(&self.datasets))
                .chain([durability])
                .collect(),
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let origin = match base.content {
            Content::Empty => None,
            Content::Of(parent) => Some(parent),
            Content::Deferred => {
                return Err(Error::NotAStack {
                    problem: "a clone starts from its parent's snapshot, which is not known",
                });
            }
        };
        if self.is_in_trash(slot)? {
            let dataset = self.datasets.layer(slot);
            return Err(Error::io("create", Path::new(&dataset), Errno::EEXIST));
        }
        self.mark(slot)?;
        self.make(slot, base, origin).inspect_err(|cause| {
            if cause.io_kind() == Some(std::io::ErrorKind::AlreadyExists) {
                // It is another's, and must not be taken for one that is being made.
                let _ = self.dirs.remove_work(slot);
            }
        })
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.write_content(slot)?;
        self.measure(slot)
    }

    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        self.freeze_layer(stack.writable_layer()?)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        match (stack.own, stack.parents.first()) {
            (Some(own), _) => {
                if stack.writable {
                    self.thaw(own)?;
                }
                self.remove_mark(own)
            }
            (None, Some(parent)) => self.freeze_layer(*parent),
            (None, None) => Ok(()),
        }
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        let shown = stack.shown()?;
        let source = match stack.own {
            Some(_) => self.datasets.layer(shown),
            None => self.datasets.frozen(shown),
        };
        Ok(vec![Mount {
            kind: "zfs".to_owned(),
            source,
            options: vec![stack.access().to_owned()],
        }])
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let dataset = (mount.kind == "zfs").then_some(&mount.source)?;
        let name = dataset.strip_prefix(self.datasets.parent())?;
        let name = name.strip_prefix('/')?;
        match name.split_once('@') {
            None => name.parse().ok(),
            Some((name, SNAPSHOT)) => name.parse().ok(),
            Some(_) => None,
        }
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        Ok(!self.is_in_trash(slot)? && self.datasets.look(slot)?.is_some())
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        if !keep_going() {
            return Err(Error::Stopped);
        }
        self.measure(slot)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        let (name, trash) = (slot.to_string(), &self.dirs.trash);
        match mkdirat(&trash.fd, name.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(cause) => {
                return Err(Error::io("create directory", &trash.path.join(name), cause));
            }
        }
        self.forget(slot);
        self.dirs.discard_work(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        if !keep_going() {
            return Err(Error::Stopped);
        }
        if !self.is_in_trash(slot)? {
            return Ok(());
        }
        // A clone that is to go as well does not keep its origin.
        let marks = self.dirs.list()?;
        let others = marks.into_iter().filter_map(|mark| match mark {
            Found::Slot(SlotKind::Trash, slot) => Some(slot),
            _ => None,
        });
        self.datasets.destroy(slot, others)?;
        self.dirs.delete(slot, &|| true)
    }

    fn sync(&self) -> Result<(), Error> {
        self.dirs.barrier.pass()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        let slot = match found {
            Found::Slot(SlotKind::Work, _) => return self.dirs.move_to_lost_found(found),
            Found::UnknownEntry(path) if path.starts_with(self.dirs.root()) => {
                return self.dirs.move_to_lost_found(found);
            }
            Found::UnknownEntry(path) => {
                let name = path.strip_prefix(self.datasets.parent()).ok();
                let name = name
                    .and_then(Path::to_str)
                    .filter(|name| !name.contains('/'));
                let refused = || Error::io("move", path, Errno::EINVAL);
                let name = name.ok_or_else(refused)?;
                return self.datasets.set_aside(name).map(PathBuf::from);
            }
            Found::Slot(SlotKind::Layer | SlotKind::Trash, slot) => *slot,
        };
        let is_trash = matches!(found, Found::Slot(SlotKind::Trash, _));
        if is_trash != self.is_in_trash(slot)? {
            return Err(self.missing(slot));
        }
        let moved = self.datasets.set_aside(&slot.to_string());
        self.forget(slot);
        match moved {
            Err(cause) if !is_trash || cause.io_kind() != Some(std::io::ErrorKind::NotFound) => {
                Err(cause)
            }
            // A mark without a dataset.
            Err(_) => self.dirs.move_to_lost_found(found),
            Ok(target) => {
                if is_trash {
                    self.dirs.delete(slot, &|| true)?;
                    self.dirs.barrier.pass()?;
                }
                Ok(target.into())
            }
        }
    }

    fn directories(&self) -> Option<&dyn crate::driver::Directories> {
        Some(self)
    }

    fn work_dirs(&self) -> Option<&dyn crate::driver::WorkDirs> {
        Some(self)
    }

    fn limits(&self) -> Option<&dyn crate::driver::Limits> {
        Some(self)
    }
}
