//! The layer pool: directories made ahead, so that Prepare need not wait until new ones are durable.
//!
//! A thread makes them once Prepare has asked for the first, with one wait for the disk for many. They
//! have their final paths and ids, so a call that takes one only writes its record. Unused
//! ones are deleted when the engine is dropped; the next start deletes them like remains of an
//! interrupted call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use layerd_drivers::{Base, Driver};
use layerd_store::{Claim, Create, LayerId, Store};
use nix::sys::statvfs::statvfs;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::warn;

use crate::call_phase::enter;
use crate::{Error, slot};

/// Share of the free inodes that spare layers may take: one in so many.
const INODES: u64 = 100;
/// Inodes of one: a layer and its work directory.
const INODES_EACH: u64 = 2;
/// Wait after a failure, as on a full disk.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts and ends the thread, and hands out what it made.
#[derive(Debug)]
pub(crate) struct LayerPool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    driver: Arc<dyn Driver>,
    root: PathBuf,
    /// Number of layers kept ready.
    full: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<LayerId>,
    /// Being made, or to be taken away because that failed.
    others: Vec<LayerId>,
    /// Set once a call took one, or found none.
    wanted: bool,
    ending: bool,
}

impl LayerPool {
    /// Starts the thread, unless none are to be kept or the driver has no layer pool.
    pub(crate) fn start(
        store: Arc<Store>,
        driver: Arc<dyn Driver>,
        root: &Path,
        full: usize,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            store,
            driver,
            root: root.to_owned(),
            full,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut layer_pool = Self {
            shared: shared.clone(),
            thread: None,
        };
        if full > 0 && shared.driver.pool().is_some() {
            let thread = thread::Builder::new().name("layer-pool".into());
            let thread = thread.spawn(move || shared.run());
            let name = "layer-pool";
            layer_pool.thread = Some(thread.map_err(|cause| Error::Thread { name, cause })?);
        }
        Ok(layer_pool)
    }

    /// Claims a new snapshot, with the id of a spare layer if one is ready; answers whether it is.
    pub(crate) fn claim(&self, create: Create) -> Result<(Claim, bool), Error> {
        let mut state = self.shared.state();
        // Both in one step, so that fsck finds the id here or there.
        let claimed = state.ready.pop().map(|id| {
            let claimed = self.shared.store.claim_as(create.clone(), id);
            claimed.inspect_err(|_| state.ready.push(id))
        });
        if state.ready.len() <= self.shared.full / 2 && !state.wanted {
            state.wanted = true;
            self.shared.changed.notify_one();
        }
        drop(state);
        match claimed {
            Some(claimed) => Ok((claimed?, true)),
            None => Ok((self.shared.store.claim(create)?, false)),
        }
    }

    /// Takes back one whose call failed before it used it.
    pub(crate) fn give_back(&self, id: LayerId) {
        self.shared.state().ready.push(id);
    }

    /// All that are there, or may be.
    pub(crate) fn ids(&self) -> Vec<LayerId> {
        let state = self.shared.state();
        state.ready.iter().chain(&state.others).copied().collect()
    }
}

/// Deletes unused layers.
impl Drop for LayerPool {
    fn drop(&mut self) {
        enter("deleting layers that were made ahead");
        self.shared.state().ending = true;
        self.shared.changed.notify_all();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            warn!("the thread that makes layers ahead panicked");
        }
        for id in self.ids() {
            if let Err(cause) = self.shared.take_away(id) {
                let cause = &cause as &dyn std::error::Error;
                warn!(error = cause, %id, "take away a layer that was made ahead");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        while self.wait_until_wanted() {
            let (count, failed) = {
                let state = self.state();
                (
                    self.full.saturating_sub(state.ready.len()),
                    !state.others.is_empty(),
                )
            };
            let made = if failed { self.clear() } else { Ok(()) };
            let made = made.and_then(|()| self.make(count));
            if let Err(cause) = made {
                let cause = &cause as &dyn std::error::Error;
                warn!(
                    error = cause,
                    "make layers ahead; Prepare makes its own meanwhile"
                );
                self.rest();
            }
        }
    }

    fn wait_until_wanted(&self) -> bool {
        let waiting = |state: &mut State| !state.wanted && !state.ending;
        let mut state = self.state();
        self.changed.wait_while(&mut state, waiting);
        state.wanted = false;
        !state.ending
    }

    fn make(&self, count: usize) -> Result<(), Error> {
        if !self.has_inodes(count) {
            return Ok(());
        }
        for _ in 0..count {
            self.make_one()?;
        }
        let synced = self.driver.sync();
        synced.map_err(Error::driver("make layers ahead"))?;
        let mut state = self.state();
        let made = std::mem::take(&mut state.others);
        state.ready.extend(made);
        Ok(())
    }

    /// Makes one layer. After a failure an existing directory stays: another process made it.
    fn make_one(&self) -> Result<(), Error> {
        let id = self.store.fresh_id()?;
        self.state().others.push(id);
        let made = self.driver.create(slot(id), &Base::deferred());
        made.map_err(|cause| {
            if cause.io_kind() == Some(io::ErrorKind::AlreadyExists) {
                self.state().others.retain(|other| *other != id);
            }
            Error::driver("make layers ahead")(cause)
        })
    }

    /// On a file system with few inodes left, they are for those who ask for them.
    fn has_inodes(&self, count: usize) -> bool {
        let Ok(disk) = statvfs(&self.root) else {
            return true;
        };
        // File systems without a table of inodes say that they have none at all.
        disk.files() == 0 || count as u64 * INODES_EACH * INODES <= disk.files_available()
    }

    /// Takes away what a failure left.
    fn clear(&self) -> Result<(), Error> {
        for id in self.state().others.clone() {
            let gone = self.take_away(id);
            gone.map_err(Error::driver("take away a layer that was made ahead"))?;
        }
        self.state().others.clear();
        Ok(())
    }

    fn take_away(&self, id: LayerId) -> Result<(), layerd_mounts::Error> {
        let slot = slot(id);
        self.driver.discard(slot)?;
        self.driver.delete(slot, &|| true)
    }

    fn rest(&self) {
        let end = Instant::now() + PAUSE;
        let mut state = self.state();
        while !state.ending && Instant::now() < end {
            self.changed.wait_for(&mut state, PAUSE);
        }
        state.wanted = true;
    }

    /// The state is whole even if a holder panicked: each use leaves every id in one place.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests;
