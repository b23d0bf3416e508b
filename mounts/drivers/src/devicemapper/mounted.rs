//! File systems of layers that layerd itself looks into, kept mounted for a moment: unpacking, measuring
//! and comparing open a layer several times, and each first mount and last unmount is a wait for the disk.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use layerd_mounts::{Error, Slot, sys};
use nix::fcntl::openat;
use nix::sys::stat::Mode;
use parking_lot::{Condvar, Mutex};

use super::devices::Devices;
use super::settings::Access;

/// Time for which a layer stays mounted after layerd looked into it.
const KEPT: Duration = Duration::from_secs(5);
/// Time for which a device stays active after its mounts were answered, for the client to mount it.
const GRACE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Kept {
    top: OwnedFd,
    access: Access,
    last: Instant,
}

#[derive(Debug, Default)]
struct All {
    kept: HashMap<Slot, Kept>,
    /// Layers that are about to be unmounted for good.
    barred: HashSet<Slot>,
}

/// The devices of a pool, and those of them that layerd has mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) devices: Devices,
    all: Mutex<All>,
}

impl Mounted {
    pub(super) fn new(devices: Devices) -> Self {
        let all = Mutex::default();
        Self { devices, all }
    }

    /// Opens the top directory of a layer; see [`Devices::open`].
    pub(super) fn open(&self, slot: Slot, access: Access) -> Result<OwnedFd, Error> {
        let path = self.devices.path(slot);
        let again = |top: &OwnedFd| {
            let opened = openat(top, ".", sys::FLAGS, Mode::empty());
            opened.map_err(|cause| Error::io("open the top directory of", &path, cause))
        };
        if let Some(kept) = self.all.lock().kept.get_mut(&slot)
            && kept.access == access
        {
            kept.last = Instant::now();
            return again(&kept.top);
        }
        let top = self.devices.open(slot, access)?;
        let opened = again(&top)?;
        let mut all = self.all.lock();
        if !all.barred.contains(&slot) {
            let last = Instant::now();
            all.kept.insert(slot, Kept { top, access, last });
        }
        Ok(opened)
    }

    /// Unmounts a layer, unless one of its files is open.
    pub(super) fn release(&self, slot: Slot) {
        drop(self.all.lock().kept.remove(&slot));
    }

    /// Unmounts a layer, and keeps it from being kept mounted until the answer is dropped.
    pub(super) fn bar(&self, slot: Slot) -> Barred<'_> {
        let mut all = self.all.lock();
        all.barred.insert(slot);
        drop(all.kept.remove(&slot));
        Barred {
            mounted: self,
            slot,
        }
    }

    /// Unmounts, and deactivates, what was not wanted for a while.
    pub(super) fn sweep(&self, kept: Duration, grace: Duration) {
        self.all
            .lock()
            .kept
            .retain(|_, mount| mount.last.elapsed() < kept);
        self.devices.sweep(grace);
    }
}

/// Holds a layer unmounted, as far as layerd mounts it.
#[derive(Debug)]
pub(super) struct Barred<'m> {
    mounted: &'m Mounted,
    slot: Slot,
}

impl Drop for Barred<'_> {
    fn drop(&mut self) {
        self.mounted.all.lock().barred.remove(&self.slot);
    }
}

#[derive(Debug, Default)]
struct Signal {
    is_over: Mutex<bool>,
    wake: Condvar,
}

/// The thread that sweeps, until it is dropped.
#[derive(Debug)]
pub(super) struct Sweeper {
    signal: Arc<Signal>,
}

impl Sweeper {
    pub(super) fn start(mounted: &Arc<Mounted>) -> std::io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let (own, mounted) = (signal.clone(), Arc::downgrade(mounted));
        std::thread::Builder::new()
            .name("thin devices".to_owned())
            .spawn(move || sweep(&own, &mounted))?;
        Ok(Self { signal })
    }
}

fn sweep(signal: &Signal, mounted: &Weak<Mounted>) {
    loop {
        let mut is_over = signal.is_over.lock();
        if !*is_over {
            signal.wake.wait_for(&mut is_over, KEPT);
        }
        if *is_over {
            return;
        }
        drop(is_over);
        let Some(mounted) = mounted.upgrade() else {
            return;
        };
        mounted.sweep(KEPT, GRACE);
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        *self.signal.is_over.lock() = true;
        self.signal.wake.notify_all();
    }
}
