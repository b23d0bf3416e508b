//! Layers as branches of AUFS, in the layout that Docker's driver of that name had.
//!
//! ```text
//! <root>/aufs/diff/<slot>     a layer's changes, a branch; `.wh.NAME` deletes NAME
//! <root>/aufs/layers/<slot>   its parents, nearest first, one a line: for people, and for whom the
//!                             records are lost; the records are the truth
//! ```
//!
//! Docker's third folder, mnt/, has no use here: clients mount where they like. No kernel of kernel.org
//! has AUFS, so that opening a root on one refuses before anything is made; see `kernel.rs`. All else is
//! tested with a model in the place of the mount (`model.rs`).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use layerd_layers::Layering;
use layerd_layers::copy::Markers;
use layerd_mounts::folder::{Folder, c_name, open_file};
use layerd_mounts::{Error, Mount, Slot, Usage, mount, sys};
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dirs::{LayerDirs, Offline, prepare_root};
use crate::driver::{
    Base, Content, Directories, Driver, Found, Info, SlotKind, Stack, Stamp, Survey,
};
use crate::finding::{Finding, file_system};
use plan::Layout;

mod kernel;
#[cfg(any(test, feature = "fake"))]
pub mod model;
mod plan;

/// Folder of all that the driver keeps, but for the trash.
pub(crate) const HOME: &str = "aufs";
const LAYERS: &str = "aufs/diff";
const FOLDERS: &[&str] = &[HOME, LAYERS, "aufs/layers", "w", "t"];
/// The file that AUFS makes in a branch with the first mount that writes to it, and leaves there.
const TRACE: &str = ".wh..wh.aufs";

/// Branches below one root.
#[derive(Debug)]
pub struct Aufs {
    layout: Layout,
    dirs: LayerDirs,
    parents: Folder,
    findings: Vec<Finding>,
    file_system: String,
}

impl Aufs {
    /// Opens `root`, making it and its folders if they are missing. Durable on return. Mounts two
    /// branches in a mount namespace of its own for the check.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] says what is missing; then the root is as it was. [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_on(root, &kernel::look)
    }

    /// The same with a kernel that takes every mount, for tests of all but the mount.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(any(test, feature = "fake"))]
    pub fn open_on_stand_in(root: &Path) -> Result<Self, Error> {
        Self::open_on(root, &|_| Ok(vec![Finding::good("aufs", "a stand-in")]))
    }

    fn open_on(root: &Path, look: Look<'_>) -> Result<Self, Error> {
        let there = root.exists();
        let root = prepare_root(root)?;
        let checked = check(&root, look);
        let refused = match &checked {
            Ok((findings, ..)) => findings.iter().any(Finding::refuses),
            Err(_) => true,
        };
        if refused && !there {
            // Made a moment ago, and empty.
            let _ = fs::remove_dir(&root);
        }
        let (findings, file_system, layout) = checked?;
        if let Some(fatal) = findings.iter().find(|finding| finding.refuses()) {
            return Err(fatal.to_error(&root));
        }
        let home = Folder::open(&root, c"aufs")?;
        let opened = Self {
            dirs: LayerDirs::open_with(&root, c"aufs/diff")?,
            parents: Folder::open(&root, c"aufs/layers")?,
            layout,
            findings,
            file_system,
        };
        layerd_mounts::folder::sync_path(&home.path)?;
        opened.drop_stray_lists()?;
        Ok(opened)
    }

    /// Checks `root` as [`open`](Self::open) does. Makes the root if it is missing.
    ///
    /// # Errors
    /// As there, but for what is missing.
    pub fn check(root: &Path) -> Result<Vec<Finding>, Error> {
        Ok(check(&prepare_root(root)?, &kernel::look)?.0)
    }

    /// Layers of a root that no daemon serves.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<> {
        OfflineAufs(Offline {
            root: root.to_owned(),
            layers: LAYERS,
            empty: None,
        })
    }

    /// Directory of a layer, as it stands in the mounts.
    #[must_use]
    pub fn layer_path(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.layout.layer(slot))
    }

    /// Writes down the parents of a layer, durably.
    fn list_parents(&self, slot: Slot, parent: Slot) -> Result<(), Error> {
        let path = self.parents.path.join(slot.to_string());
        let above = self.parents.path.join(parent.to_string());
        let mut list = format!("{parent}\n");
        match open_file(&above, false) {
            Ok(mut file) => {
                let read = file.read_to_string(&mut list);
                read.map_err(|cause| Error::io("read", &above, cause))?;
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Error::io("read", &above, cause)),
        }
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(list.as_bytes())?;
            file.sync_data()
        };
        self.drop_list(slot)?;
        write().map_err(|cause| Error::io("write", &path, cause))?;
        self.dirs.barrier.note();
        Ok(())
    }

    fn drop_list(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        match unlinkat(&self.parents.fd, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(Error::io("delete", &self.parents.path.join(name), cause)),
        }
    }

    /// Deletes lists whose layer an interrupted removal moved to the trash.
    fn drop_stray_lists(&self) -> Result<(), Error> {
        let mut all = Vec::new();
        LayerDirs::list_unknown_entries(&self.parents, &mut all)?;
        for slot in all.iter().filter_map(listed) {
            if !self.dirs.layers.has(&slot.to_string())? {
                self.drop_list(slot)?;
            }
        }
        Ok(())
    }
}

/// Finds out whether AUFS can mount branches below a root.
type Look<'a> = &'a dyn Fn(&Path) -> Result<Vec<Finding>, Error>;

fn check(root: &Path, look: Look<'_>) -> Result<(Vec<Finding>, String, Layout), Error> {
    let (finding, file_system) = file_system(root)?;
    let mut findings = vec![finding];
    findings.extend(look(root)?);
    let layout = Layout::new(root, mount::page_size(), kernel::has_dirperm1(&findings))?;
    Ok((findings, file_system.0, layout))
}

/// The layer that an entry of the folder of lists is about.
fn listed(found: &Found) -> Option<Slot> {
    let Found::UnknownEntry(path) = found else {
        return None;
    };
    path.file_name()?.to_str()?.parse().ok()
}

/// Adds what lies in the folder of lists and is none.
fn unknown_lists(parents: &Folder, found: &mut Vec<Found>) -> Result<(), Error> {
    let mut all = Vec::new();
    LayerDirs::list_unknown_entries(parents, &mut all)?;
    found.extend(all.into_iter().filter(|entry| match entry {
        Found::UnknownEntry(path) => listed(entry).is_none() || !path.is_file(),
        Found::Slot(..) => true,
    }));
    Ok(())
}

impl Survey for Aufs {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.dirs.list()?;
        unknown_lists(&self.parents, &mut found)?;
        Ok(found)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.dirs.holds_nothing(slot)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.dirs.holds_nothing(slot)? && self.dirs.trash_holds_nothing(slot)?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.dirs.open_layer(slot)
    }
}

/// Branches that no daemon serves.
#[derive(Debug)]
struct OfflineAufs(Offline);

impl Survey for OfflineAufs {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.0.list()?;
        let path = self.0.root.join("aufs/layers");
        let flags = layerd_mounts::folder::FLAGS;
        match nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()) {
            Ok(fd) => unknown_lists(&Folder { fd, path }, &mut found)?,
            Err(Errno::ENOENT) => {}
            Err(cause) => return Err(Error::io("open directory", &path, cause)),
        }
        Ok(found)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.0.hold_nothing(&[LAYERS, "w"], slot)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        self.0.hold_nothing(&[LAYERS, "w", "t"], slot)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.0.open_layer(slot)
    }
}

impl Driver for Aufs {
    fn name(&self) -> &'static str {
        "aufs"
    }

    /// With the names that docker info had for them.
    fn info(&self) -> Info {
        let layers = fs::read_dir(&self.dirs.layers.path).map_or(0, Iterator::count);
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let facts = [
            fact("Dirs", layers.to_string()),
            fact("Dirperm1 Supported", self.layout.dirperm1.to_string()),
        ];
        let findings = self.findings.iter();
        let findings = findings.map(|finding| fact(finding.name, finding.detail.clone()));
        Info {
            backing_filesystem: self.file_system.clone(),
            facts: facts
                .into_iter()
                .chain(findings)
                .chain([self.dirs.durability()])
                .collect(),
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        if base.content == Content::Deferred {
            return Err(Error::NotAStack {
                problem: "the branches of a mount are fixed, and its parent is not known",
            });
        }
        self.dirs.make_layer(slot, self.dirs.top(base)?)?;
        match base.content {
            Content::Of(parent) => self.list_parents(slot, parent),
            Content::Empty | Content::Deferred => Ok(()),
        }
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.dirs.write_back(slot)
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        self.layout.plan(stack)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.layout.top_of(mount)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.dirs.layers.has(&slot.to_string())
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.dirs.usage(slot, keep_going)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.discard(slot)?;
        self.drop_list(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.dirs.delete(slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.dirs.barrier.pass()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        let moved = self.dirs.move_to_lost_found(found)?;
        if let Found::Slot(SlotKind::Layer, slot) = found {
            self.drop_list(*slot)?;
        }
        Ok(moved)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        Some(self)
    }

    fn shared_journal_device(&self) -> Option<u64> {
        self.dirs.barrier.journal()
    }
}

impl Directories for Aufs {
    fn layering(&self) -> Layering {
        Layering::Diff(Markers::Aufs)
    }

    fn filled(&self) -> Result<(), Error> {
        self.dirs.barrier.filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let stamp = self.dirs.stamp(slot)?;
        let path = c_name(&format!("{slot}/{TRACE}"));
        match sys::stat(self.dirs.layers.fd.as_fd(), &path) {
            Ok(_) => Ok(None),
            Err(Errno::ENOENT) => Ok(Some(stamp)),
            Err(cause) => {
                let path = self.dirs.layers.path.join(slot.to_string());
                Err(Error::io("look into", &path, cause))
            }
        }
    }
}

#[cfg(test)]
mod tests;
