//! The start: work that may wait for a disk, and what is said meanwhile.
//!
//! A disk that stalls keeps the start waiting, and no new process could do better: it would wait for
//! the same disk, or for the lock of the one that still waits. So the start goes on waiting. It says
//! where, in the log and in the status that `systemctl status` shows, and has systemd wait as well,
//! for as long as it moves on or the kernel has one of its threads wait for a device. A start that
//! does neither is ended by systemd after TimeoutStartSec=. Told to stop, it ends without the disk.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_store::call_phase::CallPhase;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};
use tracing::{info, warn};

use crate::notify;
use crate::tasks::{Lost, Tasks};

/// Interval of looks at the start.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time in one step, or of the whole start, after which it is logged.
const SLOW: Duration = Duration::from_secs(10);
/// Interval of logging it again.
const AGAIN: Duration = Duration::from_secs(30);
/// Time that systemd is asked for, when the start moves on or the disk stalls.
const EXTENSION: Duration = Duration::from_secs(60);
/// Least time between two such requests: systemd may be slow to read them.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The step that a start is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    doing: &'static str,
    path: Option<PathBuf>,
    lasting: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doing)?;
        if let Some(path) = &self.path {
            write!(f, " ({})", path.display())?;
        }
        write!(f, ", for {} s now", self.lasting.as_secs())
    }
}

/// Why a start has no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unstarted {
    #[error(
        "told to stop while the start is {0}; layerd ends without that, and the next start has all that was \
         acknowledged"
    )]
    Stopped(Step),
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// The start of a daemon, of which one piece of work runs at a time.
#[derive(Debug)]
pub(crate) struct Start {
    tasks: Tasks,
    phase: Arc<CallPhase>,
    /// Time for it to end after a stop.
    stop_limit: Duration,
}

impl Start {
    pub(crate) fn new(tasks: &Tasks, stop_limit: Duration) -> Self {
        Self {
            tasks: tasks.clone(),
            phase: Arc::new(CallPhase::new(None)),
            stop_limit,
        }
    }

    /// Runs blocking work on a thread of its own, which notes its steps by
    /// [`enter_at`](layerd_store::call_phase::enter_at), and waits for it.
    ///
    /// # Errors
    /// [`Unstarted`] if it goes on for longer than the limit after a stop, or panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unstarted> {
        let phase = self.phase.clone();
        let done = self.tasks.call(move || phase.run(work));
        let stop = self.tasks.stopping();
        let stopped = async {
            stop.cancelled().await;
            sleep_until(tokio::time::Instant::now() + self.stop_limit).await;
        };
        tokio::select! {
            done = done => Ok(done?),
            () = stopped => Err(Unstarted::Stopped(self.step())),
            never = self.watch() => match never {},
        }
    }

    fn step(&self) -> Step {
        let (doing, lasting) = self.phase.now();
        let path = self.phase.path();
        Step {
            doing,
            path,
            lasting,
        }
    }

    async fn watch(&self) -> std::convert::Infallible {
        let first = tokio::time::Instant::now() + LOOK_EVERY;
        let mut tick = interval_at(first, LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = Report::begin(Instant::now());
        let (mut extended, mut may_wait) = (None::<Instant>, false);
        loop {
            tick.tick().await;
            let step = self.step();
            let is_stalled = waits_for_a_device();
            may_wait |= is_stalled || step.lasting < 2 * LOOK_EVERY;
            match report.due(Instant::now(), &step) {
                Due::Nothing => {}
                Due::Waiting { start_s } => {
                    let step_s = step.lasting.as_secs();
                    let path = step.path.as_deref().unwrap_or(Path::new("")).display();
                    let doing = step.doing;
                    warn!(doing, %path, step_s, start_s, is_stalled, "the start waits");
                    notify::status(&format!("the start is {step}"));
                }
                Due::GoesOn { start_s } => {
                    info!(start_s, "the start goes on after a wait");
                    notify::status("");
                }
            }
            let is_due = extended.is_none_or(|last| last.elapsed() >= EXTEND_EVERY);
            if is_due && may_wait && !self.tasks.stopping().is_cancelled() {
                notify::extend_start(EXTENSION);
                (extended, may_wait) = (Some(Instant::now()), false);
            }
        }
    }
}

/// What a look at the start has to report.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Waiting { start_s: u64 },
    GoesOn { start_s: u64 },
}

/// When the start was reported last.
#[derive(Debug)]
struct Report {
    begun: Instant,
    last: Option<Instant>,
    /// Set while the status says that a step waits.
    waits: bool,
}

impl Report {
    fn begin(now: Instant) -> Self {
        Self {
            begun: now,
            last: None,
            waits: false,
        }
    }

    fn due(&mut self, now: Instant, step: &Step) -> Due {
        let start_s = now.duration_since(self.begun).as_secs();
        if step.lasting < SLOW {
            return match std::mem::take(&mut self.waits) {
                true => {
                    self.last = None;
                    Due::GoesOn { start_s }
                }
                false => Due::Nothing,
            };
        }
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < AGAIN)
        {
            return Due::Nothing;
        }
        self.last = Some(now);
        self.waits = true;
        Due::Waiting { start_s }
    }
}

/// True if the kernel has a thread of this process wait for a device, in state D of proc(5). False where
/// that cannot be told.
fn waits_for_a_device() -> bool {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return false;
    };
    let mut states = threads.filter_map(|thread| {
        let stat = fs::read(thread.ok()?.path().join("stat")).ok()?;
        state_of(&stat)
    });
    states.any(|state| state == b'D')
}

/// State of a thread: the letter after its name, which is in parentheses and may hold some.
fn state_of(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use layerd_store::call_phase::enter_at;

    use super::*;

    fn step(lasting: u64) -> Step {
        Step {
            doing: "opening the database",
            path: Some("/data/meta".into()),
            lasting: Duration::from_secs(lasting),
        }
    }

    #[test]
    fn a_wait_is_reported_once_in_a_while_and_its_end_once() {
        let begun = Instant::now();
        let mut report = Report::begin(begun);
        let mut at = |start_s: u64, lasting| {
            report.due(begun + Duration::from_secs(start_s), &step(lasting))
        };
        assert_eq!(at(9, 9), Due::Nothing);
        assert_eq!(at(10, 10), Due::Waiting { start_s: 10 });
        assert_eq!(at(39, 39), Due::Nothing);
        assert_eq!(at(40, 40), Due::Waiting { start_s: 40 });
        assert_eq!(at(41, 0), Due::GoesOn { start_s: 41 });
        assert_eq!(at(42, 1), Due::Nothing);
        // The next step that waits is named as soon as the first.
        assert_eq!(at(51, 10), Due::Waiting { start_s: 51 });
    }

    #[test]
    fn a_stop_ends_a_start_that_waits_and_names_its_step() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (stall, stalled) = channel::<()>();
        let tasks = Tasks::default();
        let start = Start::new(&tasks, Duration::ZERO);
        let stopper = tasks.clone();
        let work = move || {
            enter_at("opening the database", Path::new("/data/meta"));
            stopper.stop();
            stalled.recv().unwrap_err();
        };
        let error = runtime.block_on(start.run(work)).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("the start is opening the database (/data/meta), for 0 s now"),
            "{said}"
        );
        drop(stall);
    }

    #[test]
    fn states_are_read_behind_any_name() {
        assert_eq!(state_of(b"12 (a) D (b) S 1 12"), Some(b'S'));
        assert_eq!(state_of(b"12 (store-writer) D 1"), Some(b'D'));
        assert_eq!(state_of(b"12"), None);
    }
}
