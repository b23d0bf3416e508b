//! Progress of filling a volume, sent to watchers, and cancellation when the daemon stops or the disk's
//! reserve is reached.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use layerd_layers::Progress;

use crate::events::Amount;
use crate::reserve::{Area, Watched};
use crate::{Root, Volumes};

/// Least time between two tellings.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Counts what is done and passes it on from time to time. Cancels when the reserve is reached.
pub(crate) struct Telling<'a> {
    root: &'a Root,
    volume: String,
    files_expected: u64,
    files: AtomicU64,
    bytes: AtomicU64,
    told: Mutex<Instant>,
    reserve: Watched<'a>,
    at_reserve: AtomicBool,
}

/// Sends no progress, but cancels when the daemon stops.
pub(crate) struct UntilStop<'a>(&'a Root);

impl Volumes {
    pub(crate) fn until_stop(&self) -> UntilStop<'_> {
        UntilStop(&self.root)
    }

    /// Sender of the progress of filling `volume`. `files_expected` is 0 if unknown.
    pub(crate) fn telling(&self, volume: &str, files_expected: u64) -> Telling<'_> {
        Telling {
            root: &self.root,
            volume: volume.to_owned(),
            files_expected,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
            reserve: Watched::new(&self.root, Area::Volumes),
            at_reserve: AtomicBool::new(false),
        }
    }
}

impl Telling<'_> {
    /// True if the reserve of the disk was reached, which ends the filling.
    pub(crate) fn is_at_reserve(&self) -> bool {
        self.at_reserve.load(Ordering::Acquire)
    }
}

impl Progress for Telling<'_> {
    fn advanced(&self, files: u64, bytes: u64) {
        if self.reserve.reaches(files, bytes) {
            self.at_reserve.store(true, Ordering::Release);
        }
        let files = files + self.files.fetch_add(files, Ordering::Relaxed);
        let bytes = bytes + self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Another thread is sending: leave it to that one.
        let Ok(mut told) = self.told.try_lock() else {
            return;
        };
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            let amount = Amount {
                files,
                bytes,
                files_expected: self.files_expected,
            };
            self.root.events.tell_amount(&self.volume, amount);
        }
    }

    fn cancelled(&self) -> bool {
        self.root.backlog.is_stopping() || self.is_at_reserve()
    }
}

impl Progress for UntilStop<'_> {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.backlog.is_stopping()
    }
}
