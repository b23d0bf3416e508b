//! Metrics for Prometheus, of layerd and (`process_*`) of its process.
//!
//! Off unless `metrics.address` is set. Events are counted where they happen, through the
//! `metrics` facade, which costs next to nothing without a recorder; gauges (snapshots,
//! volumes, space) are read at each scrape.

mod bounded;
mod fullness;
mod names;

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs, io};

use axum::Router;
use axum::routing::get;
use layerd_engine::{Engine, Level, VolumeFilter};
use layerd_store::Timestamp;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use nix::sys::statvfs::statvfs;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{error, info};

use crate::api::admission::Admission;
use crate::listener::remove_stale;
use crate::optional::Failures;
use crate::tasks::Tasks;
use crate::with_causes;

use bounded::Bounded;
use names::{Kind, METRICS};

/// Bounds of histograms of time, in seconds: from an answer out of memory to a hanging disk's.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    20.0, 60.0,
];
/// Bounds of histograms of counts.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Interval of gathering the histograms' samples, which bounds their memory between scrapes.
const GATHER_EVERY: Duration = Duration::from_secs(5);
/// Pause after an address could not be had.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The setting that asks for all this.
const KEY: &str = "metrics.address";

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// TCP: every client that can reach it may read it.
    Tcp(SocketAddr),
    /// A unix socket, for root alone.
    Unix(PathBuf),
}

impl Address {
    /// Reads `IP:PORT` or `unix:/PATH`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) => path.starts_with('/').then(|| Self::Unix(path.into())),
            None => text.parse().ok().map(Self::Tcp),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sources of the metrics that are read at each scrape.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    engine: Arc<Engine>,
    admission: Admission,
    /// Largest number of volumes, and of layers with a limit, that have series of their own.
    series: usize,
}

impl Look {
    pub(crate) fn new(series: usize, engine: &Arc<Engine>, admission: &Admission) -> Self {
        Self {
            engine: engine.clone(),
            admission: admission.clone(),
            series,
        }
    }

    /// Sets all gauges. Answers the series of volumes and layers, as text: they end with theirs.
    fn all(&self) -> String {
        look(&self.engine);
        for (work, running, queued) in self.admission.counts() {
            for (state, count) in [("running", running), ("queued", queued)] {
                let labels = [("work", work), ("state", state)];
                gauge!("layerd_calls", &labels).set(number(count as u64));
            }
        }
        let volumes = self.engine.volumes.fullness(self.series);
        let layers = self.engine.layers.limited_fullness(self.series);
        fullness::render("volume", &volumes) + &fullness::render("snapshot", &layers)
    }
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsError {
    #[error("start to count")]
    Recorder(#[from] BuildError),
    #[error("listen at {address}")]
    Listen {
        address: String,
        #[source]
        cause: io::Error,
    },
}

/// Starts to count, and answers `GET /metrics` until the daemon stops. Once in a process. An
/// address that cannot be had is tried again until it can.
pub(crate) async fn serve(address: &Address, look: Look, tasks: &Tasks, failures: &Failures) {
    let handle = match start() {
        Ok(handle) => handle,
        Err(cause) => return failed(&cause.into(), failures),
    };
    let gathered = handle.clone();
    tasks.spawn(|stop| gather(gathered, stop));
    let calls = tasks.clone();
    let page = move || page(look.clone(), calls.clone(), handle.clone());
    let app = Router::new().route("/metrics", get(page));
    match listen(address, app.clone(), tasks).await {
        Ok(()) => info!(%address, "serving metrics"),
        Err(error) => {
            failed(&error, failures);
            let again = listen_again(address.clone(), app, tasks.clone(), failures.clone());
            tasks.spawn(|stop| async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = again => {}
                }
            });
        }
    }
}

fn failed(error: &MetricsError, failures: &Failures) {
    let reason = with_causes(error);
    error!(reason, "metrics are not served");
    failures.add(KEY, reason);
}

async fn listen_again(address: Address, app: Router, tasks: Tasks, failures: Failures) {
    loop {
        sleep(RETRY_PAUSE).await;
        match listen(&address, app.clone(), &tasks).await {
            Ok(()) => break,
            Err(error) => failures.add(KEY, with_causes(&error)),
        }
    }
    failures.clear(KEY);
    info!(%address, "serving metrics");
}

async fn listen(address: &Address, app: Router, tasks: &Tasks) -> Result<(), MetricsError> {
    let failed = |cause| MetricsError::Listen {
        address: address.to_string(),
        cause,
    };
    match address {
        Address::Tcp(at) => {
            let socket = TcpListener::bind(at).await.map_err(failed)?;
            tasks.spawn_with_peer(answer(socket, app, tasks.stopping()));
        }
        Address::Unix(path) => {
            // As other files are not removed, the next line fails if one is in the way.
            remove_stale(path).map_err(|cause| failed(io::Error::other(cause)))?;
            let socket = UnixListener::bind(path).map_err(failed)?;
            fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
            tasks.spawn_with_peer(answer(socket, app, tasks.stopping()));
        }
    }
    Ok(())
}

async fn answer<L>(socket: L, app: Router, stop: CancellationToken)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let served =
        axum::serve(Bounded::new(socket), app).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(cause) = served.await {
        error!(error = &cause as &dyn std::error::Error, "serve metrics");
    }
}

async fn gather(handle: PrometheusHandle, stop: CancellationToken) {
    let mut tick = interval(GATHER_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => handle.run_upkeep(),
        }
    }
}

/// One look at everything, as Prometheus reads it.
async fn page(look: Look, tasks: Tasks, handle: PrometheusHandle) -> String {
    let looked = tasks.call(move || look.all()).await;
    let series = looked.unwrap_or_else(|lost| {
        error!(
            error = &lost as &dyn std::error::Error,
            "gather the metrics"
        );
        String::new()
    });
    handle.render() + &series
}

/// Notes how a call ended. Measured to the end of its answer.
pub(crate) fn rpc(service: &'static str, method: &'static str, code: Code, took: Duration) {
    let labels = [
        ("service", service),
        ("method", method),
        ("code", name(code)),
    ];
    histogram!("layerd_rpc_seconds", &labels).record(took);
}

/// Label of a code: as in tonic, without the cost of formatting it for each call.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn start() -> Result<PrometheusHandle, BuildError> {
    let counts = Matcher::Full("layerd_commit_batch_changes".into());
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(counts, &COUNTS)?
        .install_recorder()?;
    describe();
    metrics_process::Collector::default().describe();
    gauge!("layerd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    for (name, kind, text) in METRICS {
        match kind {
            Kind::Seconds => describe_histogram!(*name, Unit::Seconds, *text),
            Kind::Histogram => describe_histogram!(*name, *text),
            // Begins at 0, or else the first that is counted is no increase.
            Kind::Counter => {
                describe_counter!(*name, *text);
                counter!(*name).increment(0);
            }
            Kind::Gauge => describe_gauge!(*name, *text),
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "Prometheus knows floats only; beyond 2^53 a digit does not matter"
)]
fn number(count: u64) -> f64 {
    count as f64
}

fn set(name: &'static str, count: u64) {
    gauge!(name).set(number(count));
}

fn look(engine: &Engine) {
    metrics_process::Collector::default().collect();
    let counts = engine.layers.counts();
    for (kind, count) in [
        ("active", counts.active),
        ("view", counts.views),
        ("committed", counts.committed),
    ] {
        gauge!("layerd_snapshots", "kind" => kind).set(number(count));
    }
    set("layerd_snapshot_bytes", counts.bytes);
    set("layerd_snapshots_unmeasured", counts.unmeasured);
    let unmounted = counts.images.saturating_sub(counts.images_mounted);
    for (state, count) in [("mounted", counts.images_mounted), ("unmounted", unmounted)] {
        gauge!("layerd_images", "state" => state).set(number(count));
    }
    set("layerd_image_bytes", counts.image_bytes);
    set("layerd_image_loop_devices", counts.image_loop_devices);
    set(
        "layerd_snapshots_quarantined",
        engine.layers.quarantined() as u64,
    );
    look_at_trash(engine);
    look_at_volumes(engine);
    if let Ok(disk) = statvfs(engine.root()) {
        set("layerd_disk_bytes", disk.blocks() * disk.fragment_size());
        set(
            "layerd_disk_free_bytes",
            disk.blocks_available() * disk.fragment_size(),
        );
        set("layerd_disk_inodes", disk.files());
        set("layerd_disk_free_inodes", disk.files_available());
    }
    look_at_exports(engine);
    for reserved in engine.reserves() {
        let labels = [("path", reserved.path.display().to_string())];
        gauge!("layerd_reserve_level", &labels).set(match reserved.level {
            Level::Enough => 0.0,
            Level::Near => 1.0,
            Level::Reached => 2.0,
        });
        gauge!("layerd_reserve_bytes", &labels).set(number(reserved.bytes()));
    }
    set("layerd_database_failed", u64::from(engine.has_failed()));
}

/// Time since the newest export of the records, while they have changed since.
fn look_at_exports(engine: &Engine) {
    let (exported, is_behind) = engine.export();
    let exported = exported.filter(|_| is_behind);
    let nanoseconds = exported.map_or(0, |time| Timestamp::now().0.saturating_sub(time.0));
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default();
    set("layerd_export_behind_seconds", seconds);
}

fn look_at_trash(engine: &Engine) {
    let trash = engine.layers.trash();
    let bytes = trash.iter().filter_map(|removed| removed.record.usage);
    let bytes = bytes.map(|usage| usage.bytes).sum();
    set("layerd_trash_layers", trash.len() as u64);
    set("layerd_trash_bytes", bytes);
    set("layerd_trash_guard", u64::from(engine.guard().is_some()));
}

fn look_at_volumes(engine: &Engine) {
    let volumes = engine.volumes.volumes(&VolumeFilter::default());
    let used = volumes
        .iter()
        .filter(|volume| volume.attachments > 0)
        .count();
    gauge!("layerd_volumes", "state" => "used").set(number(used as u64));
    gauge!("layerd_volumes", "state" => "unused").set(number((volumes.len() - used) as u64));
    set(
        "layerd_attachments",
        engine.attachments.attachment_count() as u64,
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex::Regex;

    use super::*;

    /// Names of series that a metric gives.
    fn series() -> BTreeSet<String> {
        let of = |(name, kind, _): &(&str, Kind, _)| match kind {
            Kind::Seconds | Kind::Histogram => ["_bucket", "_sum", "_count"]
                .map(|part| format!("{name}{part}"))
                .to_vec(),
            Kind::Counter | Kind::Gauge => vec![(*name).to_owned()],
        };
        METRICS.iter().flat_map(of).collect()
    }

    fn named_in(text: &str) -> BTreeSet<String> {
        let word = Regex::new(r"\blayerd_[a-z_]+").unwrap();
        word.find_iter(text)
            .map(|word| word.as_str().to_owned())
            .collect()
    }

    #[test]
    fn codes_are_called_as_in_tonic() {
        for code in (0..=16).map(Code::from_i32) {
            assert_eq!(name(code), format!("{code:?}"));
        }
    }

    #[test]
    fn dashboard_and_alerts_ask_for_what_there_is() {
        for text in [
            include_str!("../../deploy/grafana.json"),
            include_str!("../../deploy/alerts.yml"),
        ] {
            let named = named_in(text);
            assert!(named.len() > 5, "few names found");
            let series = series();
            let unknown: Vec<_> = named.difference(&series).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn addresses_are_read_or_refused() {
        assert_eq!(
            Address::parse("unix:/run/m.sock"),
            Some(Address::Unix("/run/m.sock".into()))
        );
        assert!(matches!(
            Address::parse("[::1]:9323"),
            Some(Address::Tcp(_))
        ));
        for wrong in ["", "9323", "localhost", "unix:relative", "127.0.0.1"] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }
}
