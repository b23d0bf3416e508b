//! Answers of grpc.health.v1: SERVING while the database takes changes.

use std::sync::Arc;
use std::time::Duration;

use layerd_engine::Engine;
use layerd_proto::containerd::services::diff::v1::diff_server::SERVICE_NAME as DIFF;
use layerd_proto::containerd::services::snapshots::v1::snapshots_server::SERVICE_NAME as SNAPSHOTS;
use layerd_proto::layerd::v1::admin_server::SERVICE_NAME as ADMIN;
use layerd_proto::layerd::v1::attachments_server::SERVICE_NAME as ATTACHMENTS;
use layerd_proto::layerd::v1::layers_server::SERVICE_NAME as LAYERS;
use layerd_proto::layerd::v1::mounts_server::SERVICE_NAME as MOUNTS;
use layerd_proto::layerd::v1::volumes_server::SERVICE_NAME as VOLUMES;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// Interval of health checks, unless systemd's watchdog needs a shorter one.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// Every service, and the daemon as a whole by the empty name.
const NAMES: [&str; 8] = [
    "",
    ADMIN,
    ATTACHMENTS,
    DIFF,
    LAYERS,
    MOUNTS,
    SNAPSHOTS,
    VOLUMES,
];

/// The service, and the means to change its answers, which begin as `serves` says.
pub(crate) async fn service(serves: bool) -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    report(&reporter, serves).await;
    (reporter, service)
}

async fn report(reporter: &HealthReporter, serves: bool) {
    let status = match serves {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}

/// Follows the database, until the stop.
pub(crate) async fn follow(reporter: HealthReporter, engine: Arc<Engine>, stop: CancellationToken) {
    let mut tick = interval(EVERY);
    let mut served = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let serves = !engine.has_failed() && !engine.has_hung();
        if serves != served {
            report(&reporter, serves).await;
            served = serves;
        }
    }
}
