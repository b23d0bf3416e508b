//! Sends spans to the collector.
//!
//! No call waits for it: with a full queue a span is dropped and counted. A failed message is
//! sent again while the queue fills, so a collector that is restarted misses nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use metrics::counter;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Channel};
use tonic::{Code, Status};
use tracing::{info, warn};

use super::KEY;
use crate::optional::Failures;
use crate::tasks::Tasks;

/// Spans that wait to be sent, at most: some 4 MiB.
const QUEUE: usize = 4096;
/// Spans in one message, at most: far below what a collector takes (4 MiB).
const BATCH: usize = 512;
/// Time for which spans are gathered for a message.
const GATHER: Duration = Duration::from_secs(1);
/// Limit for one attempt to send.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Pause after an attempt that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Least interval between warnings that traces cannot be sent.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Limit for sending the rest during a stop.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// A collector's receiver of OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `http://HOST:PORT`, without encryption.
    Http(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `http://HOST:PORT` or `unix:/PATH`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.starts_with('/') && !path.starts_with("//");
            return is_path.then(|| Self::Unix(path.into()));
        }
        let host = text.strip_prefix("http://")?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let authority: tonic::codegen::http::uri::Authority = host.parse().ok()?;
        let is_plain = !authority.host().is_empty() && !host.contains('@');
        (is_plain && authority.port_u16().is_some()).then(|| Self::Http(text.to_owned()))
    }

    /// A connection that is made when it is first used, and again when it has to be.
    fn connect(&self) -> Result<Channel, transport::Error> {
        let endpoint = transport::Endpoint::from_shared(self.to_string())?;
        Ok(endpoint.connect_timeout(SEND_LIMIT).connect_lazy())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Starts to send what the processor is given.
pub(super) fn start(
    endpoint: &Endpoint,
    resource: &Resource,
    tasks: &Tasks,
    failures: &Failures,
) -> Result<(Queue, Flush), transport::Error> {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let (done, at_stop) = oneshot::channel();
    let exporter = Exporter {
        client: TraceServiceClient::new(endpoint.connect()?),
        endpoint: endpoint.clone(),
        resource: resource.into(),
        waiting,
        batch: Vec::new(),
        trouble: Trouble::default(),
        failures: failures.clone(),
    };
    tasks.spawn(|stop| exporter.run(stop, done));
    Ok((Queue(queue), Flush(Some(at_stop))))
}

/// Takes the spans that have ended.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn dropped(spans: usize) {
    counter!("layerd_trace_spans_dropped_total").increment(spans as u64);
}

/// Sends what is left when the daemon ends.
#[derive(Debug, Default)]
pub(crate) struct Flush(Option<oneshot::Receiver<Exporter>>);

impl Flush {
    /// Sends what was still waiting when the tasks were stopped, and what came since; for half a
    /// second at most.
    pub(crate) async fn finish(self) {
        let Some(exporter) = self.0 else { return };
        let flushed = timeout(FLUSH_LIMIT, async {
            if let Ok(mut exporter) = exporter.await {
                exporter.flush().await;
            }
        });
        if flushed.await.is_err() {
            warn!("the last traces could not be sent in time");
        }
    }
}

/// The task that sends.
#[derive(Debug)]
pub(crate) struct Exporter {
    client: TraceServiceClient<Channel>,
    endpoint: Endpoint,
    resource: ResourceAttributesWithSchema,
    waiting: mpsc::Receiver<SpanData>,
    /// Spans being sent.
    batch: Vec<SpanData>,
    trouble: Trouble,
    failures: Failures,
}

impl Exporter {
    /// Sends until it is told to stop, and then passes itself to the flush.
    async fn run(mut self, stop: CancellationToken, done: oneshot::Sender<Self>) {
        info!(endpoint = %self.endpoint, "sending traces");
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.round() => {}
            }
        }
        // The receiver is gone only if there is no flush.
        drop(done.send(self));
    }

    /// Gathers and sends. Dropped at any moment it loses nothing: what is taken from the queue is
    /// in the batch, and leaves that when it was sent.
    async fn round(&mut self) {
        if self.batch.is_empty() {
            self.waiting.recv_many(&mut self.batch, BATCH).await;
        }
        if self.batch.len() < BATCH {
            sleep(GATHER).await;
            self.fill();
        }
        if !self.send().await {
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Takes what waits, as far as there is room in a message.
    fn fill(&mut self) {
        while self.batch.len() < BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            self.batch.push(span);
        }
    }

    /// Sends everything that is there, as long as it works.
    async fn flush(&mut self) {
        loop {
            self.fill();
            if self.batch.is_empty() || !self.send().await {
                return;
            }
        }
    }

    /// Answers whether the batch is done with.
    async fn send(&mut self) -> bool {
        let count = self.batch.len();
        let resource_spans = group_spans_by_resource_and_scope(self.batch.clone(), &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let sent = timeout(SEND_LIMIT, self.client.export(request)).await;
        let sent = sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match sent {
            Ok(answer) => {
                let partly = answer.into_inner().partial_success.unwrap_or_default();
                let refused = usize::try_from(partly.rejected_spans)
                    .unwrap_or(0)
                    .min(count);
                counter!("layerd_trace_spans_sent_total").increment((count - refused) as u64);
                dropped(refused);
                self.trouble.over();
                self.failures.clear(KEY);
            }
            Err(status) => {
                self.trouble.tell(&self.endpoint, &status);
                self.failures.add(KEY, said(&status));
                if !is_final(status.code()) {
                    return false;
                }
                dropped(count);
            }
        }
        self.batch.clear();
        true
    }
}

/// The status in words; its own text has a part for developers.
fn said(status: &Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

/// True if a repeated send would get the same answer.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::FailedPrecondition
    )
}

/// Says that traces cannot be sent, now and then.
#[derive(Debug, Default)]
struct Trouble {
    last: Option<Instant>,
    /// Set if a warning was logged since the last success.
    was_told: bool,
}

impl Trouble {
    fn tell(&mut self, endpoint: &Endpoint, status: &Status) {
        if self.last.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        self.was_told = true;
        warn!(
            %endpoint,
            error = said(status),
            "traces cannot be sent; once {QUEUE} spans wait, further ones are dropped"
        );
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.was_told) {
            info!("traces are sent again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_or_refused() {
        for good in [
            "http://127.0.0.1:4317",
            "http://collector:4317",
            "http://[::1]:4317/",
            "unix:/run/otel.sock",
        ] {
            assert_eq!(Endpoint::parse(good).unwrap().to_string(), good);
        }
        for wrong in [
            "",
            "localhost:4317",
            "127.0.0.1:4317",
            "https://localhost:4317",
            "http://localhost",
            "http://:4317",
            "http://localhost:99999",
            "http://user@localhost:4317",
            "http://localhost:4317/v1/traces",
            "unix:relative",
            "unix://run/otel.sock",
        ] {
            assert_eq!(Endpoint::parse(wrong), None, "{wrong}");
        }
    }
}
