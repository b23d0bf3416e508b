//! When to reap. What to reap is the engine's to decide.

use std::sync::Arc;
use std::time::Duration;

use layerd_engine::{Engine, Event, Topic, Watcher};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::tasks::Tasks;

/// Shortest wait between two passes: each looks at all that is in the trash, and each Remove asks
/// for one.
const SHORTEST: Duration = Duration::from_millis(100);

/// Wakes the reaper.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waker(Arc<Notify>);

impl Waker {
    /// Has the reaper look within [`SHORTEST`] of its last look. Costs nothing; many wakes are one.
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }
}

/// Has the reaper look when a disk fills up, so that the trash goes before anything is refused for long.
impl Watcher for Waker {
    fn wants(&self, topic: Topic) -> bool {
        topic == Topic::Reserve
    }

    fn tell(&self, _event: &Event) -> bool {
        self.wake();
        true
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// Reaps at once, whenever it is woken, when the next layer in the trash is due, and every so often,
/// until it is told to stop.
pub(crate) async fn run(
    engine: Arc<Engine>,
    tasks: Tasks,
    waker: Waker,
    every: Duration,
    stop: CancellationToken,
) {
    let mut wait = Duration::ZERO;
    loop {
        let asked = async {
            sleep(wait.min(SHORTEST)).await;
            tokio::select! {
                () = sleep(wait.saturating_sub(SHORTEST)) => {}
                () = waker.0.notified() => {}
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = asked => {}
        }
        let engine = engine.clone();
        wait = match tasks.call(move || engine.reap()).await {
            Ok(reaped) => reaped
                .next_in
                .map_or(every, |next| next.clamp(SHORTEST, every)),
            Err(lost) => {
                error!(
                    error = &lost as &dyn std::error::Error,
                    "a pass of the reaper was lost"
                );
                every
            }
        };
    }
}
