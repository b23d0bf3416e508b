//! When to look how full volumes and layers with a limit are.

use std::sync::Arc;
use std::time::Duration;

use layerd_engine::Engine;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::tasks::Tasks;

/// Longest time between two looks: what fills in between is told late.
const EVERY: Duration = Duration::from_secs(10);

/// Looks at volumes and at layers every so often, until it is told to stop. A disk that hangs under volumes
/// holds up no look at layers.
pub(crate) fn start(engine: &Arc<Engine>, tasks: &Tasks, every: Duration) {
    let looks: [fn(&Engine); 2] = [
        |engine| engine.volumes.look_at_fullness(),
        |engine| engine.layers.look_at_fullness(),
    ];
    for look in looks {
        tasks.spawn(|stop| run(engine.clone(), tasks.clone(), every, look, stop));
    }
}

async fn run(
    engine: Arc<Engine>,
    tasks: Tasks,
    every: Duration,
    look: fn(&Engine),
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(every.min(EVERY)) => {}
        }
        let engine = engine.clone();
        if let Err(lost) = tasks.call(move || look(&engine)).await {
            error!(
                error = &lost as &dyn std::error::Error,
                "a look at limits was lost"
            );
        }
    }
}
