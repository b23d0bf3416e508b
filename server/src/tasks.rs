//! Every task has an owner: the only file that may spawn.
//!
//! Begun work runs to its end: a client that hangs up drops its handler, not the call.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::calls::Call;

/// Why a call has no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The call panicked; the panic is in the log.
    #[error("the call failed inside layerd; its log says more")]
    Panicked,
    /// The runtime is going down.
    #[error("layerd is stopping")]
    Stopping,
}

/// Starts tasks and waits for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    peers_end: CancellationToken,
}

impl Tasks {
    /// Runs a task until it ends; it is to do so soon after the token it gets is cancelled. One
    /// that a call starts belongs to the call.
    pub(crate) fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.stop.clone());
        match Call::of_this_task() {
            Some(call) => self.tracker.spawn(call.scope(task)),
            None => self.tracker.spawn(task),
        };
    }

    /// Runs blocking work on a thread of its own and waits for it. It runs to its end even if the
    /// caller is dropped.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let call = Call::of_this_task();
        let work = move || match call {
            Some(call) => call.phase().run(work),
            None => work(),
        };
        let done = self.tracker.spawn_blocking(work).await;
        done.map_err(|error| {
            if error.is_panic() {
                Lost::Panicked
            } else {
                Lost::Stopping
            }
        })
    }

    /// Asks all tasks to end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Token that is cancelled when tasks are to end.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled a moment after [`stopping`](Self::stopping): work that waits for a peer, such as a
    /// client that does not read its stream, waits no longer.
    pub(crate) fn peers_end(&self) -> CancellationToken {
        self.peers_end.clone()
    }

    /// Ends all waiting for peers.
    pub(crate) fn end_peers(&self) {
        self.peers_end.cancel();
    }

    /// Runs a task that waits for a peer, as [`spawn`](Self::spawn) does; it is dropped when
    /// [`peers_end`](Self::peers_end) is cancelled.
    pub(crate) fn spawn_with_peer<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let end = self.peers_end();
        self.spawn(|_| async move {
            end.run_until_cancelled(task).await;
        });
    }

    /// Keeps [`ended`](Self::ended) waiting until it is dropped: for a call that is not a task of
    /// [`spawn`](Self::spawn)'s.
    pub(crate) fn begun(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Waits until all tasks and calls have ended.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
