//! What a call is doing, for whoever waits for it or watches over it.
//!
//! A call runs on one thread from its beginning to its end. What it is about to wait for is noted
//! on that thread, and by the writer for those that wait for it; nobody who runs the engine
//! without a [`Stage`] pays for it.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Arc<Stage>>> = const { RefCell::new(None) };
}

/// A call whose work needs no waiting.
pub(crate) const WORKING: &str = "working in memory";

/// Hears what a call has done. Called on whichever thread notes the next stage, the writer's among
/// them, so it must not block.
pub trait Watch: fmt::Debug + Send + Sync {
    /// The call did `doing` from `since` to `until`.
    fn left(&self, doing: &'static str, since: Instant, until: Instant);
}

/// Where a call is. Shared between the threads that work for it and those that look.
#[derive(Debug)]
pub struct Stage {
    now: Mutex<(&'static str, Instant)>,
    watch: Option<Arc<dyn Watch>>,
}

impl Stage {
    /// The stage of a call that has not begun. `watch` hears of each that the call leaves.
    #[must_use]
    pub fn new(watch: Option<Arc<dyn Watch>>) -> Self {
        let now = Mutex::new(("waiting for a thread", Instant::now()));
        Self { now, watch }
    }

    /// Runs the work of a call on this thread; what it enters is seen in this stage.
    pub fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Takes the stage off the thread, also when the work panics.
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

    /// What the call is doing, and for how long.
    #[must_use]
    pub fn now(&self) -> (&'static str, Duration) {
        let (doing, since) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (doing, since.elapsed())
    }

    /// Notes what the call does from now on: "making directories", a phrase that goes on after
    /// "it is".
    pub fn enter(&self, doing: &'static str) {
        let until = Instant::now();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = std::mem::replace(&mut *now, (doing, until));
        drop(now);
        if let Some(watch) = &self.watch {
            watch.left(left, since, until);
        }
    }
}

/// As [`Stage::enter`], for the call that this thread works for, if it works for one.
pub fn enter(doing: &'static str) {
    OF_THIS_THREAD.with_borrow(|stage| {
        if let Some(stage) = stage {
            stage.enter(doing);
        }
    });
}

/// The stage of the call that this thread works for.
pub(crate) fn of_this_thread() -> Option<Arc<Stage>> {
    OF_THIS_THREAD.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl Watch for Heard {
        fn left(&self, doing: &'static str, since: Instant, until: Instant) {
            assert!(since <= until);
            self.0.lock().unwrap().push(doing);
        }
    }

    #[test]
    fn others_see_and_hear_what_a_call_does() {
        let heard = Arc::new(Heard::default());
        let stage = Arc::new(Stage::new(Some(heard.clone())));
        let seen = stage.run(|| {
            enter("making directories");
            stage.now().0
        });
        assert_eq!(seen, "making directories");
        let all = ["waiting for a thread", WORKING, "making directories"];
        assert_eq!(*heard.0.lock().unwrap(), all);
    }

    #[test]
    fn a_panic_takes_the_stage_off_the_thread() {
        let stage = Arc::new(Stage::new(None));
        let stop = || std::panic::resume_unwind(Box::new(()));
        let run = std::panic::AssertUnwindSafe(|| stage.run(stop));
        let panicked = std::panic::catch_unwind(run);
        assert!(panicked.is_err());
        enter("nobody's work");
        assert_eq!(stage.now().0, "answering");
    }
}
