//! Phase of a call: a phrase for its present work, such as "making directories".
//!
//! A call runs on one thread from its beginning to its end. Code notes on that thread the work it is
//! about to wait for; the writer does so for the calls that wait for it. On a thread without a
//! [`CallPhase`] a note costs one thread-local read.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Arc<CallPhase>>> = const { RefCell::new(None) };
}

/// Phase of a call whose work needs no waiting.
pub(crate) const WORKING: &str = "working in memory";

/// Receiver of the phases that a call has ended. Called on the thread that notes the next phase, which
/// may be the writer's, so it must not block.
pub trait PhaseObserver: fmt::Debug + Send + Sync {
    /// The call was in `phase` from `since` to `until`.
    fn phase_ended(&self, phase: &'static str, since: Instant, until: Instant);
}

#[derive(Debug)]
struct Now {
    phase: &'static str,
    path: Option<PathBuf>,
    since: Instant,
}

/// The present phase of one call, shared by the threads that work for it and those that report it.
#[derive(Debug)]
pub struct CallPhase {
    now: Mutex<Now>,
    observer: Option<Arc<dyn PhaseObserver>>,
}

impl CallPhase {
    /// The phase of a call that waits for a thread.
    #[must_use]
    pub fn new(observer: Option<Arc<dyn PhaseObserver>>) -> Self {
        let now = Mutex::new(Now {
            phase: "waiting for a thread",
            path: None,
            since: Instant::now(),
        });
        Self { now, observer }
    }

    /// Runs the work of a call on this thread, where [`enter`] sets this phase until the work ends
    /// or panics.
    pub fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Takes the phase off the thread, also when the work panics.
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                enter("answering");
                OF_THIS_THREAD.set(None);
            }
        }
        self.enter(WORKING);
        OF_THIS_THREAD.set(Some(self.clone()));
        let _off = Off;
        work()
    }

    /// The present phase, and the time spent in it.
    #[must_use]
    pub fn now(&self) -> (&'static str, Duration) {
        let now = self.now.lock();
        (now.phase, now.since.elapsed())
    }

    /// The path of the present phase, if it was begun with one.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.now.lock().path.clone()
    }

    /// Begins a phase: a phrase that goes on after "it is", such as "making directories".
    pub fn enter(&self, phase: &'static str) {
        self.begin(phase, None);
    }

    fn begin(&self, phase: &'static str, path: Option<PathBuf>) {
        let since = Instant::now();
        let next = Now { phase, path, since };
        let ended = std::mem::replace(&mut *self.now.lock(), next);
        if let Some(observer) = &self.observer {
            observer.phase_ended(ended.phase, ended.since, since);
        }
    }
}

/// As [`CallPhase::enter`], for the call of this thread; without one, nothing.
pub fn enter(phase: &'static str) {
    OF_THIS_THREAD.with_borrow(|call| {
        if let Some(call) = call {
            call.enter(phase);
        }
    });
}

/// As [`enter`], for work on `path`, which the phase names. On a thread without a [`CallPhase`] the path
/// is not copied.
pub fn enter_at(phase: &'static str, path: &Path) {
    OF_THIS_THREAD.with_borrow(|call| {
        if let Some(call) = call {
            call.begin(phase, Some(path.to_owned()));
        }
    });
}

/// The phase of the call that this thread works for.
pub(crate) fn of_this_thread() -> Option<Arc<CallPhase>> {
    OF_THIS_THREAD.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl PhaseObserver for Heard {
        fn phase_ended(&self, phase: &'static str, since: Instant, until: Instant) {
            assert!(since <= until);
            self.0.lock().push(phase);
        }
    }

    #[test]
    fn others_see_and_hear_what_a_call_does() {
        let heard = Arc::new(Heard::default());
        let phase = Arc::new(CallPhase::new(Some(heard.clone())));
        let seen = phase.run(|| {
            enter("making directories");
            phase.now().0
        });
        assert_eq!(seen, "making directories");
        let all = ["waiting for a thread", WORKING, "making directories"];
        assert_eq!(*heard.0.lock(), all);
    }

    #[test]
    fn a_path_is_that_of_the_phase_begun_with_it() {
        let phase = Arc::new(CallPhase::new(None));
        let path = Path::new("/data/meta");
        enter_at("on no call's thread", path);
        assert_eq!(phase.path(), None);
        phase.run(|| {
            enter_at("opening the database", path);
            assert_eq!(phase.now().0, "opening the database");
            assert_eq!(phase.path().as_deref(), Some(path));
            enter("making directories");
            assert_eq!(phase.path(), None);
        });
    }

    #[test]
    fn a_panic_takes_the_phase_off_the_thread() {
        let phase = Arc::new(CallPhase::new(None));
        let stop = || std::panic::resume_unwind(Box::new(()));
        let run = std::panic::AssertUnwindSafe(|| phase.run(stop));
        let panicked = std::panic::catch_unwind(run);
        assert!(panicked.is_err());
        enter("no call's work");
        assert_eq!(phase.now().0, "answering");
    }
}
