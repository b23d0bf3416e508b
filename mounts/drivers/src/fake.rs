//! A driver in memory that fails when told to, and that can lose its power. Tests only.
//!
//! Clones share one disk, so that a test can throw an engine away, cut the power and open a new
//! engine on what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use layerd_mounts::{Error, Mount, Slot, Usage};
use nix::errno::Errno;

use crate::driver::{Base, Driver, Found, Place, Stack, Stamp};
use crate::overlay::plan::Layout;

mod hooked;

pub use hooked::Hooked;
pub use layerd_mounts::fake::{FakeMounter, Hook, HookCell};

/// A driver in memory.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    now: Image,
    durable: Image,
    steps: u64,
    failure: Option<Failure>,
    mounted: BTreeSet<Slot>,
    strangers: Vec<PathBuf>,
}

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

/// A layer as the fake remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Owner of the top directory.
    pub uid: u32,
    /// Group of the top directory.
    pub gid: u32,
    /// What it holds.
    pub usage: Usage,
}

const EMPTY: Usage = Usage {
    bytes: 4096,
    inodes: 1,
};

impl Fake {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `nth` step from now on, counted from 1, fail once. Each directory made, moved,
    /// deleted or made durable is a step.
    pub fn fail_at(&self, nth: u64, errno: Errno) {
        self.fail(nth, errno, false);
    }

    /// Lets the `nth` step from now on and all later ones fail.
    pub fn fail_from(&self, nth: u64, errno: Errno) {
        self.fail(nth, errno, true);
    }

    /// Lets everything work again. Answers whether a failure was set and never reached: the end of
    /// a test that fails at step 1, 2, 3 and so on.
    pub fn heal(&self) -> bool {
        let mut disk = self.disk();
        let steps = disk.steps;
        disk.failure
            .take()
            .is_some_and(|failure| failure.at > steps)
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Takes the disk back to what was durable. All work directories are lost, as they may be.
    pub fn cut_power(&self) {
        let mut disk = self.disk();
        disk.now = disk.durable.clone();
        disk.now.work.clear();
        disk.now.trashed_work.clear();
        disk.failure = None;
    }

    /// Puts a file into a layer, which must be there.
    pub fn fill(&self, slot: Slot, bytes: u64) {
        let mut disk = self.disk();
        let layer = disk.now.layers.get_mut(&slot).expect("the layer is there");
        layer.usage.bytes += bytes;
        layer.usage.inodes += 1;
    }

    /// Loses a layer that was there, as a careless operator would.
    pub fn lose(&self, slot: Slot) {
        let mut disk = self.disk();
        disk.now.layers.remove(&slot);
        disk.durable.layers.remove(&slot);
    }

    /// Pretends that something is mounted inside a slot, or no longer.
    pub fn set_mounted(&self, slot: Slot, mounted: bool) {
        let mut disk = self.disk();
        if mounted {
            disk.mounted.insert(slot);
        } else {
            disk.mounted.remove(&slot);
        }
    }

    /// Puts something unknown beside the layers.
    pub fn add_stranger(&self, path: &Path) {
        self.disk().strangers.push(path.to_owned());
    }

    /// The layer of a slot, unless it is missing or in the trash.
    #[must_use]
    pub fn layer(&self, slot: Slot) -> Option<Layer> {
        self.disk().now.layers.get(&slot).copied()
    }

    fn fail(&self, nth: u64, errno: Errno, forever: bool) {
        let mut disk = self.disk();
        disk.failure = Some(Failure {
            at: disk.steps + nth,
            errno,
            forever,
        });
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn owner(&self, base: Base) -> Result<(u32, u32), Error> {
        match base {
            Base::Empty => Ok((0, 0)),
            Base::Owned { uid, gid } => Ok((uid, gid)),
            Base::On(parent) => match self.now.layers.get(&parent) {
                Some(layer) => Ok((layer.uid, layer.gid)),
                None => Err(Error::io("look at", &path(Some(parent)), Errno::ENOENT)),
            },
        }
    }

    fn found(&self) -> Vec<Found> {
        let place = |place| move |slot: &Slot| Found::Slot(place, *slot);
        let trash: BTreeSet<Slot> = self.now.trash.keys().copied().collect();
        let layers = self.now.layers.keys().map(place(Place::Layer));
        let work = self.now.work.iter().map(place(Place::Work));
        let trash = trash.union(&self.now.trashed_work).map(place(Place::Trash));
        let strangers = self.strangers.iter().cloned().map(Found::Stranger);
        let slots = layers.chain(work).chain(trash);
        slots.chain(strangers).collect()
    }
}

impl Driver for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn create(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        let mut disk = self.disk();
        let (uid, gid) = disk.owner(base)?;
        disk.step("create directory", Some(slot))?;
        if disk.now.layers.contains_key(&slot) {
            let path = path(Some(slot));
            return Err(Error::io("create directory", &path, Errno::EEXIST));
        }
        if writable && disk.now.work.contains(&slot) {
            let path = path(Some(slot));
            return Err(Error::io("create work directory", &path, Errno::EEXIST));
        }
        let usage = EMPTY;
        disk.now.layers.insert(slot, Layer { uid, gid, usage });
        drop(disk);
        if writable {
            self.ensure_work(slot)?;
        }
        Ok(())
    }

    fn take_spare(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        let mut disk = self.disk();
        let (uid, gid) = disk.owner(base)?;
        let Some(layer) = disk.now.layers.get_mut(&slot) else {
            return Err(Error::io("look at", &path(Some(slot)), Errno::ENOENT));
        };
        (layer.uid, layer.gid) = (uid, gid);
        drop(disk);
        if writable { Ok(()) } else { self.seal(slot) }
    }

    fn settle(&self, slot: Slot) -> Result<Usage, Error> {
        self.disk().step("write back", Some(slot))?;
        self.usage(slot, &|| true)
    }

    fn seal(&self, slot: Slot) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.step("delete", Some(slot))?;
        disk.now.work.remove(&slot);
        Ok(())
    }

    fn set_aside(&self, found: &Found) -> Result<PathBuf, Error> {
        let mut disk = self.disk();
        disk.step("move", None)?;
        match found {
            Found::Slot(Place::Layer, slot) => drop(disk.now.layers.remove(slot)),
            Found::Slot(Place::Work, slot) => drop(disk.now.work.remove(slot)),
            Found::Slot(Place::Trash, slot) => drop(disk.now.trash.remove(slot)),
            Found::Stranger(path) => disk.strangers.retain(|other| other != path),
        }
        Ok(PathBuf::from(ROOT).join("lost"))
    }

    fn sync(&self) -> Result<(), Error> {
        let mut disk = self.disk();
        disk.step("sync", None)?;
        disk.durable = disk.now.clone();
        Ok(())
    }

    fn journal(&self) -> Option<u64> {
        None
    }

    fn ensure_work(&self, slot: Slot) -> Result<(), Error> {
        let mut disk = self.disk();
        if !disk.now.layers.contains_key(&slot) {
            return Err(Error::io("look at", &path(Some(slot)), Errno::ENOENT));
        }
        disk.step("create work directory", Some(slot))?;
        disk.now.work.insert(slot);
        Ok(())
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        layout()?.plan(stack)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        layout().ok()?.top_of(mount)
    }

    fn filled(&self) -> Result<(), Error> {
        Ok(())
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let usage = self.usage(slot, &|| true)?;
        // What was ever filled shows in the figure.
        let stamp = Stamp {
            inode: slot.0,
            changed: (0, u32::try_from(usage.inodes).unwrap_or(u32::MAX)),
        };
        Ok((!self.disk().mounted.contains(&slot)).then_some(stamp))
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        let mut disk = self.disk();
        disk.step("look at", Some(slot))?;
        Ok(disk.now.layers.contains_key(&slot))
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        let disk = self.disk();
        let layer = disk.now.layers.get(&slot);
        Ok(!disk.mounted.contains(&slot) && layer.is_none_or(|layer| layer.usage == EMPTY))
    }

    fn retire(&self, slot: Slot) -> Result<(), Error> {
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

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        let missing = || Error::io("measure", &path(Some(slot)), Errno::ENOENT);
        let layer = self.layer(slot).ok_or_else(missing)?;
        if !keep_going() {
            return Err(Error::Stopped);
        }
        Ok(layer.usage)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        Err(Error::io(
            "open directory",
            &path(Some(slot)),
            Errno::ENOSYS,
        ))
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        Ok(self.disk().found())
    }

    fn describe(&self) -> Vec<(String, String)> {
        vec![("file system".to_owned(), "memory".to_owned())]
    }
}

const ROOT: &str = "/fake";

fn layout() -> Result<Layout, Error> {
    Layout::new(Path::new(ROOT), Vec::new(), 4096)
}

fn path(slot: Option<Slot>) -> PathBuf {
    let root = PathBuf::from(ROOT);
    match slot {
        Some(slot) => root.join("l").join(slot.to_string()),
        None => root,
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::Fake;
    use crate::driver::{Base, Driver, Found, Place};
    use layerd_mounts::Slot;

    #[test]
    fn fails_at_the_step_it_was_told() {
        let fake = Fake::new();
        fake.fail_at(2, Errno::ENOSPC);
        let error = fake.create(Slot(1), Base::Empty, true).expect_err("step 2");
        assert_eq!(error.errno(), Some(Errno::ENOSPC as i32));
        assert_eq!(
            fake.list().expect("list"),
            [Found::Slot(Place::Layer, Slot(1))]
        );
        assert!(!fake.heal(), "the failure was reached");
        fake.fail_at(3, Errno::EIO);
        fake.create(Slot(2), Base::Empty, true).expect("two steps");
        assert!(fake.heal(), "the failure was not reached");
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let fake = Fake::new();
        fake.create(Slot(1), Base::Empty, true).expect("create");
        fake.sync().expect("sync");
        fake.create(Slot(2), Base::Empty, true).expect("create");
        fake.retire(Slot(1)).expect("retire");
        fake.cut_power();
        assert_eq!(
            fake.list().expect("list"),
            [Found::Slot(Place::Layer, Slot(1))]
        );
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let fake = Fake::new();
        fake.create(Slot(1), Base::Empty, false).expect("create");
        fake.fail_at(1, Errno::EIO);
        fake.sync().expect_err("told to fail");
        fake.cut_power();
        assert_eq!(fake.list().expect("list"), []);
    }
}
