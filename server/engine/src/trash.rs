//! The trash, and the brake on emptying it.
//!
//! A removed layer is in the trash for a while: its record says so, and its directories stay where
//! they are. When an unusual share of all snapshots goes at
//! once, which is what happens when containerd has lost its own metadata and its collector finds
//! nothing referenced, nothing is deleted until a person decides.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layerd_store::{LayerId, Record, Timestamp};
use tracing::{error, info, warn};

use crate::check::has_own;
use crate::events::Topic;
use crate::{Engine, Error, slot};

/// Settings of the trash.
#[derive(Debug, Clone)]
pub struct TrashOptions {
    /// How long a removed layer is kept.
    pub keep: Duration,
    /// Share of the disk, in percent, below which removed layers are deleted before their time.
    pub min_free_percent: u64,
    /// Share of all snapshots, in percent, whose removal at once engages the brake; 0 for never.
    pub brake_percent: u64,
    /// Number of snapshots removed at once below which the brake stays off.
    pub brake_min: usize,
}

impl Default for TrashOptions {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(2),
            min_free_percent: 10,
            brake_percent: 30,
            brake_min: 600,
        }
    }
}

/// "At once".
const WINDOW: Duration = Duration::from_secs(60);

/// What decides whether the reaper may delete.
#[derive(Debug)]
pub(crate) struct Trash {
    options: TrashOptions,
    /// There while the brake is engaged, so that a restart does not release it; holds the reason.
    brake_file: PathBuf,
    state: Mutex<State>,
    started: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Instant>,
    brake: Option<String>,
    /// What was removed up to then may go, whatever the brake says.
    emptied: Option<Timestamp>,
}

impl Trash {
    pub(crate) fn open(meta: &Path, options: TrashOptions) -> Self {
        let brake_file = meta.join("brake");
        let brake = fs::read_to_string(&brake_file).ok();
        if let Some(reason) = &brake {
            error!("nothing is deleted from the trash: {reason}");
        }
        let state = State {
            brake,
            ..State::default()
        };
        Self {
            options,
            brake_file,
            state: Mutex::new(state),
            started: Timestamp::now(),
        }
    }

    /// Counts a removal; engages the brake if it is one too many, and then answers why. `left` is
    /// the number of snapshots that are still there.
    pub(crate) fn note_removal(&self, left: usize) -> Option<String> {
        let now = Instant::now();
        let mut state = self.state();
        state.recent.push_back(now);
        while state
            .recent
            .front()
            .is_some_and(|first| now.duration_since(*first) > WINDOW)
        {
            state.recent.pop_front();
        }
        let count = state.recent.len();
        let share = 100 * count / (count + left);
        let percent = self.options.brake_percent;
        if state.brake.is_some()
            || percent == 0
            || count < self.options.brake_min
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
        if let Err(cause) = fs::write(&self.brake_file, &reason) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "note the brake, so that a restart does not release it"
            );
        }
        state.brake = Some(reason.clone());
        Some(reason)
    }

    /// When a removed layer may be deleted; `None` while the brake holds it.
    pub(crate) fn due_in(&self, record: &Record, space_wanted: bool) -> Option<Duration> {
        let now = Timestamp::now();
        // A time in the future was noted before the clock went back.
        let retired = record
            .retired
            .filter(|time| *time <= now)
            .unwrap_or(self.started);
        let state = self.state();
        if state.emptied.is_some_and(|emptied| retired <= emptied) {
            return Some(Duration::ZERO);
        }
        if state.brake.is_some() {
            return None;
        }
        let age = Duration::from_nanos(now.0.saturating_sub(retired.0).unsigned_abs());
        let left = self.options.keep.saturating_sub(age);
        Some(if space_wanted { Duration::ZERO } else { left })
    }

    /// Why nothing is deleted, if that is so.
    pub(crate) fn brake(&self) -> Option<String> {
        self.state().brake.clone()
    }

    /// Up to when everything that was removed may go.
    pub(crate) fn emptied(&self) -> Option<Timestamp> {
        self.state().emptied
    }

    pub(crate) fn min_free_percent(&self) -> u64 {
        self.options.min_free_percent
    }

    /// Answers whether the brake was on.
    fn release(&self, emptied: Option<Timestamp>) -> bool {
        let mut state = self.state();
        state.emptied = emptied.or(state.emptied);
        state.recent.clear();
        let was_on = state.brake.take().is_some();
        if was_on {
            info!("the trash may be deleted again");
        }
        match fs::remove_file(&self.brake_file) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                warn!(
                    error = &cause as &dyn std::error::Error,
                    "note that the brake is released"
                );
            }
            _ => {}
        }
        was_on
    }

    /// The state is whole even if a holder panicked: each use is a few assignments.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A removed snapshot that could be restored.
#[derive(Debug, Clone)]
pub struct Removed {
    /// What it was.
    pub record: std::sync::Arc<Record>,
    /// Name of its parent; empty for none.
    pub parent: String,
}

impl Engine {
    /// Removed snapshots whose layers are still there, oldest first.
    #[must_use]
    pub fn trash(&self) -> Vec<Removed> {
        let view = self.store.view();
        let removed = view.retired().map(|record| Removed {
            parent: view.parent_name_of_any(record).to_owned(),
            record: record.clone(),
        });
        let mut removed: Vec<_> = removed.collect();
        removed.sort_by_key(|removed| removed.record.retired);
        removed
    }

    /// Why the trash is not deleted, if that is so.
    #[must_use]
    pub fn brake(&self) -> Option<String> {
        self.trash.brake()
    }

    /// Takes a removed snapshot back under its old key: one durable write. Waits for a deletion under
    /// way to end.
    ///
    /// # Errors
    /// `Invalid` if it is not in the trash, `Exists` if its key is taken, `Refused` if its parent
    /// was removed too, `Damaged` if its deletion has begun.
    pub fn restore(&self, id: LayerId) -> Result<(), Error> {
        let _pass = self.backlog.hold();
        if let Some(record) = self.store.view().get_retired(id)
            && has_own(record)
            && !self.has_layer(id)?
        {
            return Err(Error::Damaged {
                key: record.key.clone(),
                why: "its layer is deleted already, or part of it".to_owned(),
            });
        }
        let record = self.store.restore_removed(id)?;
        info!(key = record.key.as_str(), %id, "restored");
        self.events
            .tell(Topic::Snapshot, "restored", record.key.as_str());
        Ok(())
    }

    fn has_layer(&self, id: LayerId) -> Result<bool, Error> {
        let there = self.driver.has(slot(id));
        there.map_err(Error::driver("look at a layer"))
    }

    /// Takes back everything that is in the trash, parents first, which releases the brake if
    /// nothing is left. Answers what became of each.
    pub fn restore_all(&self) -> Vec<(Removed, Result<(), Error>)> {
        let mut waiting = self.trash();
        waiting.sort_by_key(|removed| removed.record.id);
        let mut done = Vec::new();
        loop {
            let view = self.store.view();
            let is_next = |removed: &Removed| {
                removed
                    .record
                    .parent
                    .is_none_or(|id| view.get(id).is_some())
            };
            let (next, rest) = waiting.into_iter().partition::<Vec<_>, _>(is_next);
            let is_last = next.is_empty();
            // Those whose parent is not to be had are tried too, for their error.
            for removed in if is_last { &rest } else { &next } {
                done.push((removed.clone(), self.restore(removed.record.id)));
            }
            if is_last {
                break;
            }
            waiting = rest;
        }
        if self.store.view().retired().next().is_none() {
            self.release_brake();
        }
        done
    }

    /// Releases the brake and lets everything that is in the trash now be deleted.
    pub fn empty_trash(&self) {
        self.release(Some(Timestamp::now()));
        self.events.tell(Topic::Trash, "emptied", "on demand");
    }

    /// Releases the brake; what is in the trash goes when its time is up.
    pub fn release_brake(&self) {
        self.release(None);
    }

    fn release(&self, emptied: Option<Timestamp>) {
        if self.trash.release(emptied) {
            self.events.tell(Topic::Trash, "released", "the brake");
        }
    }
}
