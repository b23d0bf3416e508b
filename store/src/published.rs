//! Signals from the writer to the exporter: newer records, and the end.

use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// The newest published sequence number, with condition variables for the exporter.
#[derive(Debug, Default)]
pub(crate) struct Published {
    state: Mutex<State>,
    /// Signalled with every publication and at the end.
    changed: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    ended: bool,
}

impl Published {
    /// Stores a newer sequence number.
    pub(crate) fn note(&self, sequence: u64) {
        self.state().sequence = sequence;
        self.changed.notify_all();
    }

    /// Ends all waiting.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
        self.ended.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Waits for a sequence number above `seen`; false at the end.
    pub(crate) fn wait_beyond(&self, seen: u64) -> bool {
        let waiting = |state: &mut State| !state.ended && state.sequence <= seen;
        let mut state = self.state();
        self.changed.wait_while(&mut state, waiting);
        !state.ended
    }

    /// Waits for `time`, or until the end.
    pub(crate) fn rest(&self, time: Duration) {
        let waiting = |state: &mut State| !state.ended;
        self.ended.wait_while_for(&mut self.state(), waiting, time);
    }

    /// The state is whole even if a holder panicked: each use is one assignment or read.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
