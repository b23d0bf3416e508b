//! Layers as thin devices of the device mapper, each with a file system of its own.
//!
//! Device `<slot>` of a pool is the layer of that number, and device 0 is an empty file system: a layer
//! without content is a snapshot of it, one on a parent a snapshot of the parent's, made in the same time
//! for any size. There is no second list of devices that could disagree with the layers: the entry
//! `l/<slot>` is made before the device, and the device deleted before the entry, so that a device
//! without an entry is of a call that was interrupted. A device of the number that is to be made is
//! deleted, and others are looked for at start, among the ids that were announced (`pairing.rs`).
//!
//! ```text
//! <root>/l/<slot>/from    figures of what the layer started from (figures.rs)
//! <root>/l/<slot>/frozen  its own at Commit; the layer is committed
//! <root>/w/<slot>         mark: it is being made, and was not acknowledged yet
//! <root>/t/<slot>         it is being deleted
//! <root>/d                the pool, and its transaction (home.rs)
//! ```
//!
//! Clients mount the device themselves. Commit unmounts the file system where layerd has it mounted, waits
//! for others to have done so, and takes the device away; from then on it is active only read-only, so
//! that nothing writes to a committed layer, not even the recovery of a journal. A layer that a client
//! still has mounted is not committed. layerd looks into layers by mounts that no mount table shows
//! (`mounted.rs`), so that unpacking and comparing work as with directories.
//!
//! A pool that has come to its reserve takes no new layers; removing, mounting and reading go on.

mod base;
mod devices;
mod driver;
mod figures;
mod home;
mod look;
mod mounted;
mod offline;
mod pairing;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layerd_mounts::folder::{Folder, c_name, sync_path};
use layerd_mounts::thin::{MAX_ID, METADATA_BLOCK, PoolTable, SECTOR, Share};
use layerd_mounts::{Error, Slot, Usage};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use parking_lot::Mutex;

use crate::dirs::{LAYER_MODE, LayerDirs, give, prepare_root};
use crate::driver::{Base, Survey};
use crate::finding::Finding;
use devices::{Devices, PATIENCE};
use figures::{FROM, FROZEN, Figures};
use home::{Note, Numbers, NumbersFile};
use look::Look;
use mounted::{Mounted, Sweeper};
use pairing::Pairing;
use settings::Access;

pub(crate) use home::HOME;
pub use settings::{FileSystem, Options};

/// Folders of the driver below the root.
const FOLDERS: &[&str] = &["l", "w", "t", HOME];

/// Thin devices of one pool.
#[derive(Debug)]
pub struct Devicemapper {
    dirs: LayerDirs,
    mounted: Arc<Mounted>,
    pairing: Pairing,
    base: Figures,
    /// Size of a block of the pool.
    block_bytes: u64,
    keep_free_percent: u64,
    findings: Vec<Finding>,
    /// Layers that layerd has opened to be filled, and that are not committed.
    filling: Mutex<HashSet<Slot>>,
    _sweeper: Sweeper,
}

impl Devicemapper {
    /// Opens `root`, making it and its folders if they are missing; the first time it makes the empty file
    /// system in the pool, which must be new. Takes over what an earlier process left. Durable on
    /// return.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if a check fails; [`Error::Io`].
    pub fn open(root: &Path, options: &Options) -> Result<Self, Error> {
        let root = prepare_root(root)?;
        let look = Look::at(&root, options)?;
        if let Some(refusal) = look.refusal(&root) {
            return Err(refusal);
        }
        let Some((control, pool)) = look.pool else {
            return Err(Error::io("look at the pool of", &root, Errno::ENXIO));
        };
        let table = control.table(&pool.name);
        let table = table.map_err(|cause| Error::io("look at the pool", &pool.path(), cause))?;
        let block = table
            .first()
            .and_then(PoolTable::of)
            .map(|table| table.block);
        let home = Folder::open(&root, c"d")?;
        sync_path(&root)?;
        let note = match Note::read(&root)? {
            Some(note) => note,
            None => {
                let note = base::note(&pool, options);
                note.write(&home)?;
                note
            }
        };
        let numbers = Numbers::read(&root)?.unwrap_or_default();
        let file = NumbersFile::open(&home)?;
        let devices = Devices::new(control, pool, note.file_system, note.sectors);
        let pairing = Pairing::new(file, numbers, devices.status()?.transaction);
        devices.take_over()?;
        let base = base::prepare(note, &home, &devices, &pairing)?;
        let dirs = LayerDirs::open(&root)?;
        let is_known = |slot| is_known(&dirs, slot);
        pairing.delete_leftovers(&root, &devices, &is_known)?;
        let mounted = Arc::new(Mounted::new(devices));
        let sweeper = Sweeper::start(&mounted);
        let sweeper = sweeper.map_err(|cause| Error::io("start a thread for", &root, cause))?;
        Ok(Self {
            dirs,
            mounted,
            pairing,
            base,
            block_bytes: block.unwrap_or_default().saturating_mul(SECTOR),
            keep_free_percent: options.keep_free_percent,
            findings: look.findings,
            filling: Mutex::default(),
            _sweeper: sweeper,
        })
    }

    /// Checks `root` as [`open`](Self::open) does. Makes the root if it is missing, and nothing in it.
    ///
    /// # Errors
    /// [`Error::Io`] if the root cannot be made or read.
    pub fn check(root: &Path, options: &Options) -> Result<Vec<Finding>, Error> {
        Ok(Look::at(&prepare_root(root)?, options)?.findings)
    }

    /// Layers of a root that no daemon serves. Layers are opened read-only, for which their devices are made
    /// active as long as the answer lives.
    #[must_use]
    pub fn survey(root: &Path) -> impl Survey + use<> {
        offline::OfflineDevices::new(root)
    }

    fn devices(&self) -> &Devices {
        &self.mounted.devices
    }

    /// Refuses a layer that is missing.
    fn must_exist(&self, slot: Slot) -> Result<(), Error> {
        let name = c_name(&slot.to_string());
        self.dirs.stat(&self.dirs.layers, &name).map(drop)
    }

    fn access(&self, slot: Slot) -> Result<Access, Error> {
        Ok(match figures::noted(&self.dirs, slot, FROZEN)? {
            Some(_) => Access::Read,
            None => Access::Write,
        })
    }

    /// Opens the top directory of a layer that is there.
    fn open_top(&self, slot: Slot) -> Result<(OwnedFd, Access), Error> {
        self.must_exist(slot)?;
        let access = self.access(slot)?;
        Ok((self.mounted.open(slot, access)?, access))
    }

    /// Figures of a layer as it is now.
    fn figures(&self, slot: Slot) -> Result<Figures, Error> {
        match figures::noted(&self.dirs, slot, FROZEN)? {
            Some(noted) => Ok(noted),
            None => self.devices().figures(slot, &self.open_top(slot)?.0),
        }
    }

    fn usage_of(&self, slot: Slot, now: Figures) -> Result<Usage, Error> {
        let from = figures::noted(&self.dirs, slot, FROM)?;
        Ok(now.beyond(from.unwrap_or(self.base)))
    }

    /// Refuses new layers in a pool that has come to its reserve. One call.
    fn check_room(&self) -> Result<(), Error> {
        let (status, percent) = (self.devices().status()?, self.keep_free_percent);
        let parts = [
            ("data", status.data, self.block_bytes),
            ("metadata", status.metadata, METADATA_BLOCK),
        ];
        for (what, Share { used, total }, bytes) in parts {
            if (Share { used, total }).leaves_less_than(percent) {
                return Err(Error::PoolReserve {
                    path: self.devices().pool.path(),
                    what,
                    free: total.saturating_sub(used).saturating_mul(bytes),
                    total: total.saturating_mul(bytes),
                    percent,
                });
            }
        }
        Ok(())
    }

    /// Makes entry and device of a layer that starts as `source`, whose figures are given.
    fn make(&self, slot: Slot, base: &Base, (source, from): (Slot, Figures)) -> Result<(), Error> {
        let own = (Uid::effective().as_raw(), Gid::effective().as_raw());
        self.dirs.make_layer(slot, (own.0, own.1, Mode::S_IRWXU))?;
        figures::note(&self.dirs, slot, FROM, from)?;
        self.pairing.announce(slot)?;
        self.devices().snapshot(slot, source)?;
        if let Some(owner) = base.owner {
            let top = self.devices().open(slot, Access::Write)?;
            let path = self.devices().path(slot);
            give(&top, (owner.uid, owner.gid, LAYER_MODE), &path)?;
            self.devices().write_back(slot, &top)?;
        }
        if !base.writable {
            self.devices().deactivate(slot, PATIENCE)?;
            figures::note(&self.dirs, slot, FROZEN, from)?;
        }
        Ok(())
    }
}

/// True if a layer has an entry in one of the folders.
fn is_known(dirs: &LayerDirs, slot: Slot) -> Result<bool, Error> {
    let name = slot.to_string();
    Ok(dirs.layers.has(&name)?
        || dirs.work.has(&name)?
        || dirs.trash.has(&name)?
        || dirs.trash.has(&format!("{name}.w"))?)
}

/// Refuses numbers that a pool has no ids for.
fn check_id(slot: Slot) -> Result<(), Error> {
    match slot.0 {
        1..=MAX_ID => Ok(()),
        _ => Err(Error::NotAStack {
            problem: "the number of the layer is above 16777215, the last id that a thin pool has; \
                      begin a new root on a new pool",
        }),
    }
}

impl Drop for Devicemapper {
    fn drop(&mut self) {
        self.mounted.sweep(Duration::ZERO, Duration::ZERO);
        self.pairing.end();
    }
}
