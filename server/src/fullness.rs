//! When to look how full volumes with a limit are.

use std::sync::Arc;
use std::time::Duration;

use layerd_engine::Engine;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::tasks::Tasks;

/// Longest time between two looks: what fills in between is told late.
const EVERY: Duration = Duration::from_secs(10);

/// Looks every so often until it is told to stop.
pub(crate) async fn run(
    engine: Arc<Engine>,
    tasks: Tasks,
    every: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(every.min(EVERY)) => {}
        }
        let engine = engine.clone();
        if let Err(lost) = tasks.call(move || engine.volumes.look_at_fullness()).await {
            error!(
                error = &lost as &dyn std::error::Error,
                "a look at volumes was lost"
            );
        }
    }
}
