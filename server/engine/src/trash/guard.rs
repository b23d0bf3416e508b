//! Deletions from the trash, and the mass-removal guard.
//!
//! When an unusual share of all snapshots is removed at once, as by containerd's garbage collection
//! after it lost its metadata, nothing is deleted until a person decides. Two rules make that safe:
//!
//! - Removals counted by the guard are still in the trash. As long as the guard could still act on
//!   removals of its window, because removing the snapshots that are left would reach the number,
//!   none of these is deleted, however short the trash period and however full the disk. With fewer
//!   snapshots it cannot act, and deleted ones are not counted.
//! - Each deletion asks again when it begins: one that was planned before the guard acted stays.
//!
//! Ages are taken from a clock that never jumps (`store/src/clock.rs`); the time of day decides
//! nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_store::{LayerId, Records, Removal, SteadyTime, Store, VolumeId, file};
use parking_lot::{Mutex, MutexGuard};
use tracing::{error, info, warn};

use crate::Error;

/// File in `meta/` that keeps the trash from being deleted; it holds the reason.
const GUARD: &str = "guard";

/// Reason of a hold after older records were put back.
const OLDER: &str = "the records are those of a backup: what they call removed may have been taken back \
                     from the trash since";

/// File in `meta/` with the removals that the last `trash empty` let go, one a line; gone when all are
/// deleted.
const EMPTIED: &str = "emptied";

/// Settings of the trash.
#[derive(Debug, Clone)]
pub struct TrashOptions {
    /// Time for which a removed layer is kept.
    pub keep: Duration,
    /// Time for which a deleted volume is kept.
    pub keep_volumes: Duration,
    /// Share of the disk, in percent, below which removed layers are deleted before their time.
    pub min_free_percent: u64,
    /// Share of all snapshots, in percent, whose removal at once engages the guard; 0 for never.
    pub guard_percent: u64,
    /// Number of snapshots removed at once below which the guard stays off.
    pub guard_min: usize,
}

impl Default for TrashOptions {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(2),
            keep_volumes: Duration::from_secs(7 * 24 * 3600),
            min_free_percent: 10,
            guard_percent: 30,
            guard_min: 600,
        }
    }
}

/// "At once".
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Something in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discarded {
    /// The layer of a removed snapshot.
    Layer(LayerId),
    /// A removed volume.
    Volume(VolumeId),
}

/// Inputs to the decision about a deletion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// The present.
    pub(crate) now: SteadyTime,
    /// Snapshots that are there.
    pub(crate) live: usize,
    /// Set if the disk is so full that layers are deleted before their time.
    pub(crate) space_wanted: bool,
}

/// Decides which entries the reaper may delete.
#[derive(Debug)]
pub(crate) struct Trash {
    options: TrashOptions,
    /// There while the guard is engaged, so that a restart does not release it; holds the reason.
    guard_file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Layers removed within the window whose deletion has not begun.
    recent: BTreeSet<(SteadyTime, LayerId)>,
    /// Removals under way: they are in `recent` or among those that are there a moment later.
    pending: usize,
    guard: Option<String>,
    /// Entries released by a person, with the time of their removal: one may be restored and removed
    /// again.
    emptied: BTreeMap<Discarded, Removal>,
}

/// A removal under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct PendingRemoval<'t>(&'t Trash);

impl Trash {
    /// Takes up what an earlier process left in the trash as of `now`.
    pub(crate) fn open(
        meta: &Path,
        options: TrashOptions,
        view: &Records,
        now: SteadyTime,
    ) -> Self {
        let guard_file = meta.join(GUARD);
        let guard = reason_in(&guard_file);
        if let Some(reason) = &guard {
            error!("nothing is deleted from the trash: {reason}");
        }
        let removed = view
            .removed()
            .filter_map(|record| Some((record.removed?.steady?, record.id)));
        let state = State {
            recent: removed.collect(),
            emptied: match &guard {
                None => emptied_before(meta, view),
                Some(_) => BTreeMap::new(),
            },
            guard,
            ..State::default()
        };
        let trash = Self {
            options,
            guard_file,
            state: Mutex::new(state),
        };
        trash.state().prune(now);
        trash
    }

    /// Says that a snapshot is about to be removed, before anything shows of it.
    pub(crate) fn removal(&self) -> PendingRemoval<'_> {
        self.state().pending += 1;
        PendingRemoval(self)
    }

    /// Time until an entry may be deleted; `None` while the guard holds it.
    pub(crate) fn due_in(
        &self,
        what: Discarded,
        removed: Removal,
        look: &Look,
    ) -> Option<Duration> {
        self.due(&mut self.state(), what, removed, look)
    }

    /// Takes something to delete it, if it may still be. From then on it is not counted.
    pub(crate) fn begin(&self, what: Discarded, removed: Removal, look: &Look) -> bool {
        let mut state = self.state();
        let may = self.due(&mut state, what, removed, look) == Some(Duration::ZERO);
        if let (true, Discarded::Layer(id), Some(steady)) = (may, what, removed.steady) {
            state.recent.remove(&(steady, id));
        }
        may
    }

    fn due(
        &self,
        state: &mut State,
        what: Discarded,
        removed: Removal,
        look: &Look,
    ) -> Option<Duration> {
        if state.emptied.get(&what) == Some(&removed) {
            return Some(Duration::ZERO);
        }
        if state.guard.is_some() {
            return None;
        }
        let keep = match what {
            Discarded::Layer(_) if look.space_wanted => Duration::ZERO,
            Discarded::Layer(_) => self.options.keep,
            Discarded::Volume(_) => self.options.keep_volumes,
        };
        let held = if self.may_act(state, look) {
            WINDOW
        } else {
            Duration::ZERO
        };
        let age = removed.steady.map(|steady| look.now.since(steady));
        Some(keep.max(held).saturating_sub(age.unwrap_or_default()))
    }

    /// True if the guard would act if all snapshots were removed now.
    fn may_act(&self, state: &mut State, look: &Look) -> bool {
        state.prune(look.now);
        let reach = state.recent.len() + state.pending + look.live;
        self.options.guard_percent > 0 && reach >= self.options.guard_min
    }

    /// Lets something go that was taken back.
    pub(crate) fn restored(&self, what: Discarded) {
        let mut state = self.state();
        state.emptied.remove(&what);
        if let Discarded::Layer(id) = what {
            state.recent.retain(|(_, removed)| *removed != id);
        }
    }

    /// Lets something go that was deleted.
    pub(crate) fn deleted(&self, what: Discarded) {
        let mut state = self.state();
        if state.emptied.remove(&what).is_some() && state.emptied.is_empty() {
            // One that stays names nothing that is there.
            let _ = file::remove(&self.guard_file.with_file_name(EMPTIED));
        }
    }

    /// Why nothing is deleted, if that is so.
    pub(crate) fn guard(&self) -> Option<String> {
        self.state().guard.clone()
    }

    /// True if nothing is deleted because the records are older than the directories.
    pub(crate) fn is_held_for_older(&self) -> bool {
        self.state().guard.as_deref() == Some(OLDER)
    }

    pub(crate) fn min_free_percent(&self) -> u64 {
        self.options.min_free_percent
    }

    /// Calls [`release`](Self::release), for removals that a restart is to go on with. Where they
    /// cannot be noted on the disk, a restart has those that are left wait for their time.
    pub(crate) fn empty(&self, emptied: Vec<(Discarded, Removal)>) -> bool {
        let path = self.guard_file.with_file_name(EMPTIED);
        let lines: String = emptied.iter().map(emptied_line).collect();
        if let Err(cause) = write_durably(&path, &lines) {
            let error = &cause as &dyn std::error::Error;
            warn!(
                error,
                "note that the trash is to be emptied, so that a restart goes on with it"
            );
        }
        self.release(emptied)
    }

    /// Releases the guard and lets `emptied` be deleted whatever its age. Answers whether the guard
    /// was on.
    pub(crate) fn release(&self, emptied: Vec<(Discarded, Removal)>) -> bool {
        let mut state = self.state();
        if emptied.is_empty() {
            // What an earlier `trash empty` let go waits for its time again after a restart.
            let _ = file::remove(&self.guard_file.with_file_name(EMPTIED));
        }
        state.emptied.extend(emptied);
        state.recent.clear();
        let was_on = state.guard.take().is_some();
        if was_on {
            info!("the trash may be deleted again");
        }
        if let Err(cause) = file::remove(&self.guard_file) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "note that the guard is released"
            );
        }
        was_on
    }

    /// The state is whole even if a holder panicked: each use is a few assignments.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Drops what was removed before the window.
    fn prune(&mut self, now: SteadyTime) {
        while let Some(first) = self.recent.first().copied()
            && now.since(first.0) > WINDOW
        {
            self.recent.remove(&first);
        }
    }
}

impl PendingRemoval<'_> {
    /// Counts the removal; engages the guard if it is one too many, and then answers why. `left` is
    /// the number of snapshots that are still there.
    pub(crate) fn done(self, id: LayerId, removed: Option<Removal>, left: usize) -> Option<String> {
        let now = removed.and_then(|removed| removed.steady)?;
        let trash = self.0;
        let mut state = trash.state();
        state.recent.insert((now, id));
        state.prune(now);
        let count = state.recent.len();
        let share = 100 * count / (count + left);
        let percent = trash.options.guard_percent;
        if state.guard.is_some()
            || percent == 0
            || count < trash.options.guard_min
            || (share as u64) < percent
        {
            return None;
        }
        let reason = format!(
            "{count} snapshots, {share} % of all, were removed within {} s",
            WINDOW.as_secs()
        );
        error!(
            "{reason}: nothing is deleted until `layerctl trash empty` or `layerctl trash restore` decides"
        );
        if let Err(cause) = write_durably(&trash.guard_file, &reason) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "note the guard, so that a restart does not release it"
            );
        }
        state.guard = Some(reason.clone());
        Some(reason)
    }
}

/// Has nothing deleted from the trash until a person decides, from the next opening on: the records
/// are older than what is on disk, so that what they call removed may have been taken back since.
/// Durable on return.
///
/// # Errors
/// [`Error::Driver`].
pub(crate) fn hold_older(meta: &Path) -> Result<(), Error> {
    let path = meta.join(GUARD);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(meta);
    let forgotten = || file::remove(&meta.join(EMPTIED));
    made.and_then(|()| forgotten())
        .and_then(|_| write_durably(&path, OLDER))
        .map_err(|cause| {
            let attempt = "write";
            Error::driver("hold the trash")(layerd_mounts::Error::Io {
                attempt,
                path,
                cause,
            })
        })
}

/// As [`hold_older`], where the records of `store` are seen to be older and have something in the
/// trash.
///
/// # Errors
/// [`Error::Driver`].
pub(crate) fn hold_if_older(meta: &Path, store: &Store) -> Result<(), Error> {
    if store.is_older_than_disk() && !store.records().is_trash_empty() {
        hold_older(meta)?;
    }
    Ok(())
}

/// The reason in the guard file; `None` if there is none. One that cannot be read holds the trash as
/// well.
fn reason_in(guard_file: &Path) -> Option<String> {
    match file::read(guard_file) {
        Ok(reason) => reason.map(|reason| String::from_utf8_lossy(&reason).into_owned()),
        Err(cause) => Some(format!("{} cannot be read: {cause}", guard_file.display())),
    }
}

/// Line of [`EMPTIED`] for one removal: kind, id and time, so that an id that was taken back and
/// removed again is another one.
fn emptied_line((discarded, removal): &(Discarded, Removal)) -> String {
    let (kind, id) = match discarded {
        Discarded::Layer(id) => ("layer", id.0),
        Discarded::Volume(id) => ("volume", id.0),
    };
    format!("{kind} {id} {}\n", removal.time.0)
}

/// Removals of an earlier `trash empty` that are not deleted yet. Not for a trash that is held: the
/// records may be older than the note.
fn emptied_before(meta: &Path, records: &Records) -> BTreeMap<Discarded, Removal> {
    let noted = file::read(&meta.join(EMPTIED)).ok().flatten();
    let noted = String::from_utf8(noted.unwrap_or_default()).unwrap_or_default();
    let noted: BTreeSet<&str> = noted.split_inclusive('\n').collect();
    let layers = records.removed();
    let layers = layers.filter_map(|record| Some((Discarded::Layer(record.id), record.removed?)));
    let volumes = records.volumes().removed();
    let volumes = volumes.filter_map(|one| Some((Discarded::Volume(one.id), one.removed?)));
    let all = layers.chain(volumes);
    all.filter(|removal| noted.contains(emptied_line(removal).as_str()))
        .collect()
}

/// Writes a file that is there after a power cut, too.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    file::replace(path, |mut file| file.write_all(text.as_bytes()))
}

impl Drop for PendingRemoval<'_> {
    fn drop(&mut self) {
        self.0.state().pending -= 1;
    }
}

#[cfg(test)]
mod tests;
