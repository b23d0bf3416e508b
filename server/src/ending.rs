//! The end of the process: what is left to write, within a limit.
//!
//! A disk that stalls may keep the database from being closed, a thread from being joined, and calls
//! from ending. The log then says what is waited for, before systemd kills the process, which could
//! say nothing. All that was acknowledged is on the disk, so the next start goes on from there.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use layerd_store::call_phase::CallPhase;
use tracing::error;

use crate::calls::Calls;

/// Time for closing the database, beyond `stop_timeout_secs`.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Work that did not end in time: its phase, as `layerd_store::call_phase` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unended {
    pub(crate) doing: &'static str,
}

/// Work that was begun, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Ending {
    phase: Arc<CallPhase>,
    ended: Receiver<()>,
}

impl Ending {
    /// Begins `work`. Where no thread is to be had, it is dropped.
    pub(crate) fn begin(work: impl FnOnce() + Send + 'static) -> Self {
        let phase = Arc::new(CallPhase::new(None));
        let (end, ended) = channel();
        let of_thread = phase.clone();
        let run = move || {
            of_thread.run(work);
            drop(end);
        };
        let begun = thread::Builder::new().name("ending".into()).spawn(run);
        if let Err(cause) = begun {
            let error = &cause as &dyn std::error::Error;
            error!(error, "start the thread that closes the database");
        }
        Self { phase, ended }
    }

    /// Waits for the work to end, also in a panic. After an error it goes on until the process ends.
    ///
    /// # Errors
    /// [`Unended`] after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Result<(), Unended> {
        match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => Err(Unended {
                doing: self.phase.now().0,
            }),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// Logs each call that has not ended, with its phase.
pub(crate) fn log_calls(calls: &Calls) {
    for call in calls.under_way() {
        let (doing, since) = call.doing;
        let (running_s, doing_s) = (call.running.as_secs(), since.as_secs());
        error!(
            method = call.method,
            running_s, doing, doing_s, "a call did not end before the stop"
        );
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::call_phase::enter;

    use super::*;

    #[test]
    fn what_stalls_is_named_and_not_waited_for() {
        let (stall, stalled) = channel::<()>();
        let (begin, begun) = channel();
        let ending = Ending::begin(move || {
            enter("closing the database");
            begin.send(()).unwrap();
            assert!(stalled.recv().is_err());
        });
        begun.recv().unwrap();
        let doing = "closing the database";
        assert_eq!(ending.wait(Duration::ZERO), Err(Unended { doing }));
        drop(stall);
        assert_eq!(ending.wait(Duration::from_secs(600)), Ok(()));
    }

    #[test]
    fn what_panics_has_ended() {
        let ending = Ending::begin(|| panic!("told to"));
        assert_eq!(ending.wait(Duration::from_secs(600)), Ok(()));
    }
}
