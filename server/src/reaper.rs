//! When to reap. What to reap is the engine's to decide.

use std::sync::Arc;
use std::time::Duration;

use layerd_engine::Engine;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::tasks::Tasks;

/// Wakes the reaper.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nudge(Arc<Notify>);

impl Nudge {
    /// Has the reaper look soon. Costs nothing; many nudges are one.
    pub(crate) fn nudge(&self) {
        self.0.notify_one();
    }
}

/// Reaps at once, at every nudge, and every so often, until it is told to stop.
pub(crate) async fn run(
    engine: Arc<Engine>,
    tasks: Tasks,
    nudge: Nudge,
    every: Duration,
    stop: CancellationToken,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = nudge.0.notified() => {}
        }
        let engine = engine.clone();
        if let Err(lost) = tasks.call(move || engine.reap()).await {
            error!(
                error = &lost as &dyn std::error::Error,
                "a pass of the reaper was lost"
            );
        }
    }
}
