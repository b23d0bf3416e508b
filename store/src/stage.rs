//! What a call is doing, for whoever waits for it or watches over it.
//!
//! A call runs on one thread from its beginning to its end. The engine notes on that thread what
//! it is about to wait for; nobody who runs the engine without a [`Stage`] pays for it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Arc<Stage>>> = const { RefCell::new(None) };
}

/// Where a call is. Shared between the thread that works and those that look.
#[derive(Debug)]
pub struct Stage(Mutex<(&'static str, Instant)>);

impl Stage {
    /// The stage of a call that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(("waiting for a thread", Instant::now())))
    }

    /// Runs the work of a call on this thread; what it enters is seen in this stage.
    pub fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Takes the stage off the thread, also when the work panics.
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                OF_THIS_THREAD.set(None);
            }
        }
        self.set("working in memory");
        OF_THIS_THREAD.set(Some(self.clone()));
        let _off = Off;
        work()
    }

    /// What the call is doing, and for how long.
    #[must_use]
    pub fn now(&self) -> (&'static str, Duration) {
        let (doing, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (doing, since.elapsed())
    }

    fn set(&self, doing: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (doing, Instant::now());
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// Notes what this thread's call does from now on: "making directories", a phrase that goes on
/// after "it is".
pub(crate) fn enter(doing: &'static str) {
    OF_THIS_THREAD.with_borrow(|stage| {
        if let Some(stage) = stage {
            stage.set(doing);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_what_a_call_does() {
        let stage = Arc::new(Stage::new());
        let seen = stage.run(|| {
            enter("making directories");
            stage.now().0
        });
        assert_eq!(seen, "making directories");
    }

    #[test]
    fn a_panic_takes_the_stage_off_the_thread() {
        let stage = Arc::new(Stage::new());
        let panicked =
            std::panic::catch_unwind(|| stage.run(|| std::panic::resume_unwind(Box::new(()))));
        assert!(panicked.is_err());
        enter("nobody's work");
        assert_eq!(stage.now().0, "working in memory");
    }
}
