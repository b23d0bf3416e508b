//! Interleavings that tests force: one call is held at a known point while others run.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use layerd_mounts::Slot;

/// Longest wait for another thread before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing came yet.
    Set,
    /// A call stands at the gate.
    Holding,
    /// All pass.
    Open,
}

/// Holds the first call that comes to it until it is opened.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Set),
            changed: Condvar::new(),
        })
    }

    /// A hook that holds the first call of one step; what comes later passes.
    pub(crate) fn at(
        self: &Arc<Self>,
        step: &'static str,
    ) -> Arc<dyn Fn(&'static str, Option<Slot>) + Send + Sync> {
        let gate = self.clone();
        Arc::new(move |name, _| {
            if name == step {
                gate.hold();
            }
        })
    }

    fn hold(&self) {
        let mut state = self.state.lock().unwrap();
        if *state != State::Set {
            return;
        }
        *state = State::Holding;
        self.changed.notify_all();
        let is_held = |state: &mut State| *state == State::Holding;
        drop(self.changed.wait_while(state, is_held).unwrap());
    }

    /// Waits until a call is held.
    pub(crate) fn wait(&self) {
        let is_set = |state: &mut State| *state == State::Set;
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, PATIENCE, is_set);
        assert!(!waited.unwrap().1.timed_out(), "no call came to the gate");
    }

    /// Lets the call go on that is held, and all that come.
    pub(crate) fn open(&self) {
        *self.state.lock().unwrap() = State::Open;
        self.changed.notify_all();
    }
}

/// Waits until another thread has come to where `is_there` is true. If it does not, the gate is
/// opened before the test fails: else the call that is held would keep it from ending.
pub(crate) fn until(gate: &Gate, mut is_there: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_there() {
        if Instant::now() > end {
            gate.open();
            panic!("another thread did not come that far");
        }
        std::thread::yield_now();
    }
}
