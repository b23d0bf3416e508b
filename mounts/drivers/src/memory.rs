//! Layers in memory: a daemon for authors of clients, and for tests, which needs neither root nor a
//! disk.
//!
//! Everything that is planned is made up, in the shape of overlayfs's mounts: nothing can be mounted
//! from it. Clones share one disk, so that a test can throw an engine away, cut the power and open a
//! new engine on what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_mounts::{Error, Mount, Slot, Usage};
use nix::errno::Errno;
use parking_lot::{Mutex, MutexGuard};

use crate::driver::{
    Base, Content, Driver, Features, Found, Info, LayerPool, SlotKind, Stack, Survey, WorkDirs,
};
use crate::overlay::needs_work;
use crate::overlay::plan::Layout;

#[cfg(any(test, feature = "fake"))]
mod faults;

/// A driver in memory.
#[derive(Debug, Clone)]
pub struct Memory {
    disk: Arc<Mutex<Disk>>,
    layout: Layout,
}

#[derive(Debug, Default)]
struct Disk {
    now: Image,
    /// Left by a power cut.
    #[cfg(any(test, feature = "fake"))]
    durable: Image,
    steps: u64,
    failure: Option<Failure>,
    mounted: BTreeSet<Slot>,
    unknown_entries: Vec<PathBuf>,
}

/// A failure that a test asked for.
#[derive(Debug, Clone, Copy)]
struct Failure {
    at: u64,
    errno: Errno,
    forever: bool,
}

#[derive(Debug, Clone, Default)]
struct Image {
    layers: BTreeMap<Slot, Layer>,
    work: BTreeSet<Slot>,
    trash: BTreeMap<Slot, Layer>,
    trashed_work: BTreeSet<Slot>,
}

/// A layer in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Owner of the top directory.
    pub uid: u32,
    /// Group of the top directory.
    pub gid: u32,
    /// Its disk usage.
    pub usage: Usage,
}

const EMPTY: Usage = Usage {
    bytes: 4096,
    inodes: 1,
};

const ROOT: &str = "/memory";

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty disk.
    ///
    /// # Panics
    /// Never: the path that mounts are planned with is a constant.
    #[must_use]
    pub fn new() -> Self {
        let layout = Layout::new(Path::new(ROOT), Vec::new(), 4096);
        Self {
            disk: Arc::default(),
            layout: layout.expect("a plain path"),
        }
    }

    /// The layer of a slot, unless it is missing or in the trash.
    #[must_use]
    pub fn layer(&self, slot: Slot) -> Option<Layer> {
        self.disk().now.layers.get(&slot).copied()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock()
    }
}

impl Disk {
    fn step(&mut self, attempt: &'static str, slot: Option<Slot>) -> Result<(), Error> {
        self.steps += 1;
        let Some(failure) = self.failure else {
            return Ok(());
        };
        let fails = self.steps == failure.at || (failure.forever && self.steps > failure.at);
        if !fails {
            return Ok(());
        }
        Err(Error::io(attempt, &path(slot), failure.errno))
    }

    fn owner(&self, base: &Base) -> Result<(u32, u32), Error> {
        match (base.owner, base.content) {
            (Some(owner), _) => Ok((owner.uid, owner.gid)),
            (None, Content::Empty | Content::Deferred) => Ok((0, 0)),
            (None, Content::Of(parent)) => match self.now.layers.get(&parent) {
                Some(layer) => Ok((layer.uid, layer.gid)),
                None => Err(Error::io("look at", &path(Some(parent)), Errno::ENOENT)),
            },
        }
    }

    fn found(&self) -> Vec<Found> {
        let entry = |kind| move |slot: &Slot| Found::Slot(kind, *slot);
        let trash: BTreeSet<Slot> = self.now.trash.keys().copied().collect();
        let layers = self.now.layers.keys().map(entry(SlotKind::Layer));
        let work = self.now.work.iter().map(entry(SlotKind::Work));
        let trash = trash
            .union(&self.now.trashed_work)
            .map(entry(SlotKind::Trash));
        let unknown_entries = self
            .unknown_entries
            .iter()
            .cloned()
            .map(Found::UnknownEntry);
        let slots = layers.chain(work).chain(trash);
        slots.chain(unknown_entries).collect()
    }
}

impl Survey for Memory {
    fn folders(&self) -> &'static [&'static str] {
        &[]
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        Ok(self.disk().found())
    }

    fn needs_work(&self, base: &Base) -> bool {
        needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        let disk = self.disk();
        let layer = disk.now.layers.get(&slot);
        Ok(!disk.mounted.contains(&slot) && layer.is_none_or(|layer| layer.usage == EMPTY))
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        let trashed = self.disk().now.trash.get(&slot).copied();
        Ok(self.is_unused(slot)? && trashed.is_none_or(|layer| layer.usage == EMPTY))
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let cause = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(Error::io("open directory", &path(Some(slot)), cause))
    }
}

impl Driver for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn info(&self) -> Info {
        Info {
            backing_filesystem: "memory".to_owned(),
            facts: vec![("layers".to_owned(), "in memory, lost at the end".to_owned())],
        }
    }

    fn features(&self) -> Features {
        Features {
            deferred_parents: true,
            id_mapping: true,
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let mut disk = self.disk();
        let (uid, gid) = disk.owner(base)?;
        disk.step("create directory", Some(slot))?;
        if disk.now.layers.contains_key(&slot) {
            let path = path(Some(slot));
            return Err(Error::io("create directory", &path, Errno::EEXIST));
        }
        let needs_work = self.needs_work(base);
        if needs_work && disk.now.work.contains(&slot) {
            let path = path(Some(slot));
            return Err(Error::io("create work directory", &path, Errno::EEXIST));
        }
        let usage = EMPTY;
        disk.now.layers.insert(slot, Layer { uid, gid, usage });
        drop(disk);
        if needs_work {
            self.restore(slot)?;
        }
        Ok(())
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.disk().step("write back", Some(slot))?;
        self.usage(slot, &|| true)
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        self.layout.plan(stack, &|_| false, false)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.layout.top_of(mount)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        let mut disk = self.disk();
        disk.step("look at", Some(slot))?;
        Ok(disk.now.layers.contains_key(&slot))
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        let missing = || Error::io("measure", &path(Some(slot)), Errno::ENOENT);
        let layer = self.layer(slot).ok_or_else(missing)?;
        if !keep_going() {
            return Err(Error::Stopped);
        }
        Ok(layer.usage)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.step("move", Some(slot))?;
        if let Some(layer) = disk.now.layers.remove(&slot) {
            disk.now.trash.insert(slot, layer);
        }
        disk.step("move", Some(slot))?;
        if disk.now.work.remove(&slot) {
            disk.now.trashed_work.insert(slot);
        }
        Ok(())
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        if !keep_going() {
            return Err(Error::Stopped);
        }
        let mut disk = self.disk();
        disk.step("delete", Some(slot))?;
        if disk.mounted.contains(&slot) {
            let path = path(Some(slot));
            return Err(Error::Busy { path });
        }
        disk.now.trash.remove(&slot);
        disk.step("delete", Some(slot))?;
        disk.now.trashed_work.remove(&slot);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.step("sync", None)?;
        #[cfg(any(test, feature = "fake"))]
        {
            disk.durable = disk.now.clone();
        }
        Ok(())
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        let mut disk = self.disk();
        disk.step("move", None)?;
        match found {
            Found::Slot(SlotKind::Layer, slot) => drop(disk.now.layers.remove(slot)),
            Found::Slot(SlotKind::Work, slot) => drop(disk.now.work.remove(slot)),
            Found::Slot(SlotKind::Trash, slot) => drop(disk.now.trash.remove(slot)),
            Found::UnknownEntry(path) => disk.unknown_entries.retain(|other| other != path),
        }
        Ok(PathBuf::from(ROOT).join("lost"))
    }

    fn pool(&self) -> Option<&dyn LayerPool> {
        Some(self)
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        Some(self)
    }
}

impl LayerPool for Memory {
    fn take(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let mut disk = self.disk();
        let (uid, gid) = disk.owner(base)?;
        let Some(layer) = disk.now.layers.get_mut(&slot) else {
            return Err(Error::io("look at", &path(Some(slot)), Errno::ENOENT));
        };
        (layer.uid, layer.gid) = (uid, gid);
        drop(disk);
        if self.needs_work(base) {
            Ok(())
        } else {
            self.remove(slot)
        }
    }
}

impl WorkDirs for Memory {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        let mut disk = self.disk();
        if !disk.now.layers.contains_key(&slot) {
            return Err(Error::io("look at", &path(Some(slot)), Errno::ENOENT));
        }
        disk.step("create work directory", Some(slot))?;
        disk.now.work.insert(slot);
        Ok(())
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.step("delete", Some(slot))?;
        disk.now.work.remove(&slot);
        Ok(())
    }
}

fn path(slot: Option<Slot>) -> PathBuf {
    let root = PathBuf::from(ROOT);
    match slot {
        Some(slot) => root.join("l").join(slot.to_string()),
        None => root,
    }
}
