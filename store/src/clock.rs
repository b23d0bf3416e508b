//! A clock for ages that outlive a process. It never jumps, whatever happens to the time of day.
//!
//! It counts nanoseconds while the machine runs (CLOCK_MONOTONIC). The file `clock` holds a reading,
//! the uptime at which it was taken and the boot id, so within one boot nothing is lost. After a
//! reboot, or on another machine, it goes on from the reading saved last: at an orderly stop, and
//! every [`SAVE_EVERY`] while something is in the trash. So the time that the machine was off or
//! suspended does not count, nor up to five minutes before a crash: trash may be kept for longer
//! than promised, and never for less. A lost or older file makes the clock slow as well; it never
//! goes back behind a stamp in the records.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::call_phase;
use crate::file;
use crate::model::SteadyTime;

/// Age at which a saved reading is replaced.
pub(crate) const SAVE_EVERY: Duration = Duration::from_secs(300);

/// A reading in nanoseconds, with the uptime and boot at which it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    total: u64,
    uptime: u64,
    boot: String,
}

/// The clock of one store.
#[derive(Debug)]
pub(crate) struct Clock {
    path: PathBuf,
    opened: Reading,
    /// Reading that was saved last.
    saved: AtomicU64,
}

impl Clock {
    /// Goes on from the file in `folder`, but not from before `newest`, the latest stamp in the records.
    /// A failed write of the file is logged and tried again later.
    pub(crate) fn open(folder: &Path, newest: SteadyTime) -> Self {
        let path = folder.join("clock");
        let (uptime, boot) = (uptime(), boot_id());
        let last = file::read(&path).ok().flatten();
        let last = last.and_then(|text| Reading::parse(str::from_utf8(&text).ok()?));
        let total = last.map_or(0, |last| last.at(uptime, &boot)).max(newest.0);
        let clock = Self {
            path,
            opened: Reading {
                total,
                uptime,
                boot,
            },
            saved: AtomicU64::new(total),
        };
        clock.save();
        clock
    }

    pub(crate) fn now(&self) -> SteadyTime {
        let since = uptime().saturating_sub(self.opened.uptime);
        SteadyTime(self.opened.total.saturating_add(since))
    }

    /// Saves the reading if the last one is older than [`SAVE_EVERY`].
    pub(crate) fn keep(&self) {
        let saved = SteadyTime(self.saved.load(Ordering::Relaxed));
        if self.now().since(saved) >= SAVE_EVERY {
            self.save();
        }
    }

    /// Saves the reading, durably.
    pub(crate) fn save(&self) {
        let reading = Reading {
            total: self.now().0,
            uptime: uptime(),
            boot: self.opened.boot.clone(),
        };
        match self.write(&reading) {
            Ok(()) => self.saved.store(reading.total, Ordering::Relaxed),
            Err(cause) => {
                let cause = &cause as &dyn std::error::Error;
                warn!(
                    error = cause,
                    "save how old removed things are; they may be kept for longer"
                );
            }
        }
    }

    fn write(&self, reading: &Reading) -> io::Result<()> {
        let Reading {
            total,
            uptime,
            boot,
        } = reading;
        file::replace(&self.path, |mut file| {
            file.write_all(format!("{total} {uptime} {boot}\n").as_bytes())
        })
    }
}

impl Reading {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let mut word = || words.next();
        Some(Self {
            total: word()?.parse().ok()?,
            uptime: word()?.parse().ok()?,
            boot: word()?.to_owned(),
        })
    }

    /// The least reading at `uptime` of `boot`.
    fn at(&self, uptime: u64, boot: &str) -> u64 {
        let is_same = self.boot == boot && !boot.is_empty();
        let passed = is_same.then(|| uptime.saturating_sub(self.uptime));
        self.total.saturating_add(passed.unwrap_or_default())
    }
}

/// Nanoseconds that the machine has run since it was started.
fn uptime() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    let nanos = now.unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Id of this boot of the machine, as in random(4); empty if it cannot be read.
#[must_use]
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Drop for Clock {
    fn drop(&mut self) {
        call_phase::enter("saving the clock");
        self.save();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600 * 1_000_000_000;

    fn saved(folder: &Path, total: u64, uptime: u64, boot: &str) {
        fs::write(folder.join("clock"), format!("{total} {uptime} {boot}\n")).unwrap();
    }

    fn shown(folder: &Path, newest: u64) -> u64 {
        Clock::open(folder, SteadyTime(newest)).now().0
    }

    #[test]
    fn it_goes_on_within_a_boot_and_after_one() {
        let dir = tempfile::tempdir().unwrap();
        let now = uptime();
        saved(dir.path(), 5 * HOUR, now, &boot_id());
        let first = shown(dir.path(), 0);
        assert!((5 * HOUR..6 * HOUR).contains(&first), "{first}");
        let second = shown(dir.path(), 0);
        assert!(second >= first, "a restart loses nothing");

        for uptime in [0, now, 900 * HOUR] {
            saved(dir.path(), 5 * HOUR, uptime, "another boot");
            let after = shown(dir.path(), 0);
            assert!((5 * HOUR..6 * HOUR).contains(&after), "{after}");
        }
    }

    #[test]
    fn what_is_lost_or_odd_makes_it_slow_and_never_fast() {
        let dir = tempfile::tempdir().unwrap();
        assert!(shown(dir.path(), 0) < HOUR, "no file");
        fs::write(dir.path().join("clock"), "").unwrap();
        assert!(shown(dir.path(), 0) < HOUR, "an empty file");
        saved(dir.path(), 5 * HOUR, u64::MAX, &boot_id());
        assert!(shown(dir.path(), 0) < 6 * HOUR, "later in this boot");
        assert_eq!(
            Reading::parse("7 0 \n").unwrap().at(HOUR, ""),
            7,
            "of no boot"
        );
        let shown = shown(dir.path(), 9 * HOUR);
        assert!((9 * HOUR..10 * HOUR).contains(&shown), "behind a stamp");
    }

    #[test]
    fn a_folder_that_cannot_be_written_does_not_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::open(&dir.path().join("none"), SteadyTime(7));
        assert!(clock.now() >= SteadyTime(7));
        clock.keep();
    }
}
