//! Traces: what each call did and when, for an OpenTelemetry collector.
//!
//! Off unless `tracing.endpoint` is set; then no call does more than to look at one `None`. A call
//! is a span below the span that its caller names in the `traceparent` of the request, and what the
//! call did one after the other ([`CallPhase`](layerd_store::call_phase::CallPhase)) are spans below it. Spans
//! are handed to [`export`] and never waited for.

mod export;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use layerd_store::call_phase::PhaseObserver;
use layerd_store::{Key, Timestamp};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::Code;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::error;

use crate::namespace::{self, NAMESPACE};
use crate::optional::Failures;
use crate::tasks::Tasks;
use crate::with_causes;

pub(crate) use export::{Endpoint, Flush};

/// Service and method in a span of an unknown call.
const OTHER: &str = "other";
/// The setting that asks for traces.
const KEY: &str = "tracing.endpoint";

/// Where traces go, and which.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TracingConfig {
    /// The collector; none if nothing is traced.
    pub(crate) endpoint: Option<Endpoint>,
    /// Share of the calls that are traced among those whose caller does not say; from 0 to 1.
    pub(crate) sampling_ratio: f64,
    /// Service name of layerd in the traces.
    pub(crate) service_name: String,
}

/// Makes spans of calls; clones share what they send.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Option<SdkTracer>);

impl Traces {
    /// Starts to send, if there is a collector to send to. What is left at the end is sent by the
    /// second part. Connects when there is something to send; a collector that cannot be used is
    /// noted in `failures`.
    pub(crate) fn start(
        config: &TracingConfig,
        tasks: &Tasks,
        failures: &Failures,
    ) -> (Self, Flush) {
        let Some(endpoint) = &config.endpoint else {
            return (Self(None), Flush::default());
        };
        let resource = resource(&config.service_name);
        let (queue, flush) = match export::start(endpoint, &resource, tasks, failures) {
            Ok(started) => started,
            Err(cause) => {
                let reason = with_causes(&cause);
                error!(%endpoint, reason, "traces are not sent");
                failures.add(KEY, reason);
                return (Self(None), Flush::default());
            }
        };
        let ratio = Sampler::TraceIdRatioBased(config.sampling_ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_span_processor(queue)
            .with_resource(resource)
            .build();
        (Self(Some(provider.tracer("layerd"))), flush)
    }

    /// The span of a call that begins; none if it is not traced.
    pub(crate) fn begin(
        &self,
        (service, method): (&'static str, &'static str),
        headers: &HeaderMap,
    ) -> Option<Trace> {
        let tracer = self.0.as_ref()?;
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let name = match service {
            OTHER => OTHER.to_owned(),
            _ => format!("{service}/{method}"),
        };
        let mut span = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        span.attributes = Some(vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
        ]);
        let clock = Clock::new();
        span.start_time = Some(clock.time(clock.begun));
        let mut span = tracer.build_with_context(span, &parent);
        if !span.is_recording() {
            return None;
        }
        let name = headers.get(NAMESPACE).and_then(|name| name.to_str().ok());
        if let Some(name) = name {
            span.set_attribute(namespace(name));
        }
        Some(Trace(Arc::new(Traced {
            context: parent.with_span(span),
            tracer: tracer.clone(),
            clock,
            has_namespace: name.is_some(),
        })))
    }
}

fn resource(service_name: &str) -> Resource {
    let host = nix::unistd::gethostname().unwrap_or_default();
    Resource::builder_empty()
        .with_service_name(service_name.to_owned())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host.to_string_lossy().into_owned()),
        ])
        .build()
}

fn namespace(name: &str) -> KeyValue {
    KeyValue::new("layerd.namespace", name.to_owned())
}

tokio::task_local! {
    static OF_THIS_TASK: Trace;
}

/// The trace of one call. Its span ends with [`end`](Self::end).
#[derive(Debug, Clone)]
pub(crate) struct Trace(Arc<Traced>);

#[derive(Debug)]
struct Traced {
    /// Holds the call's span.
    context: Context,
    tracer: SdkTracer,
    clock: Clock,
    /// Set if its caller sent a namespace.
    has_namespace: bool,
}

impl Trace {
    /// The trace of the call whose handler this task runs.
    pub(crate) fn of_this_task() -> Option<Self> {
        OF_THIS_TASK.try_with(Clone::clone).ok()
    }

    /// Runs the handler of this call.
    pub(crate) async fn scope<F: Future>(self, handler: F) -> F::Output {
        OF_THIS_TASK.scope(self, handler).await
    }

    /// Observer of the call's phases.
    pub(crate) fn observer(self) -> Arc<dyn PhaseObserver> {
        self.0
    }

    /// Ends the span of the call.
    pub(crate) fn end(&self, code: Code, message: &str) {
        let span = self.0.context.span();
        let number = Value::I64(i64::from(code as i32));
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", number));
        if is_our_fault(code) {
            span.set_status(Status::error(message.to_owned()));
        }
        let clock = self.0.clock;
        span.end_with_timestamp(clock.time(Instant::now()));
    }
}

/// By OpenTelemetry's conventions for servers: what a client did wrong is no error of the server.
fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl PhaseObserver for Traced {
    fn phase_ended(&self, doing: &'static str, since: Instant, until: Instant) {
        let mut span = SpanBuilder::from_name(doing);
        span.start_time = Some(self.clock.time(since));
        let mut span = self.tracer.build_with_context(span, &self.context);
        span.end_with_timestamp(self.clock.time(until));
    }
}

/// Notes that the call whose handler this is waited for `what` since then.
pub(crate) fn waited(what: &'static str, since: Instant) {
    if let Some(trace) = Trace::of_this_task() {
        trace.0.phase_ended(what, since, Instant::now());
    }
}

/// Notes which snapshot the call whose handler this is concerns.
pub(crate) fn snapshot(key: &Key) {
    let Some(trace) = Trace::of_this_task() else {
        return;
    };
    let span = trace.0.context.span();
    span.set_attribute(KeyValue::new(
        "layerd.snapshot.key",
        key.as_str().to_owned(),
    ));
    if let Some(name) = namespace::of_key(key).filter(|_| !trace.0.has_namespace) {
        span.set_attribute(namespace(name));
    }
}

/// Joins a request that is made for the call whose handler this is to its trace.
pub(crate) fn inject(metadata: &mut MetadataMap) {
    if let Some(trace) = Trace::of_this_task() {
        TraceContextPropagator::new().inject_context(&trace.0.context, &mut Metadata(metadata));
    }
}

/// Turns moments into times of day. One for a call: its spans do not jump when the clock is set.
#[derive(Debug, Clone, Copy)]
struct Clock {
    begun: Instant,
    time: SystemTime,
}

impl Clock {
    fn new() -> Self {
        let since_epoch = u64::try_from(Timestamp::now().0).unwrap_or(0);
        Self {
            begun: Instant::now(),
            time: UNIX_EPOCH + Duration::from_nanos(since_epoch),
        }
    }

    fn time(self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.begun) {
            Some(later) => self.time + later,
            None => self.time - self.begun.duration_since(moment),
        }
    }
}

/// Headers of a request, as they are read.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Metadata of a request, as it is written.
struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        // The names are those of the standard, in lower case.
        let name = match key {
            "traceparent" => "traceparent",
            "tracestate" => "tracestate",
            _ => return,
        };
        if let Ok(value) = MetadataValue::try_from(value)
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parent(values: &[&str]) -> Context {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(&headers))
    }

    #[test]
    fn a_parent_is_taken_if_it_is_one() {
        let good = format!("00-{TRACE}-b7ad6b7169203331-01");
        let context = parent(&[&good]);
        assert_eq!(context.span().span_context().trace_id().to_string(), TRACE);
        for wrong in [
            vec![],
            vec!["nonsense"],
            vec!["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            vec!["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            vec!["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            vec!["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            vec![good.as_str(), good.as_str()],
        ] {
            let context = parent(&wrong);
            assert!(!context.span().span_context().is_valid(), "{wrong:?}");
        }
    }

    #[test]
    fn times_before_the_call_began_are_before_it() {
        let clock = Clock::new();
        let hour = Duration::from_secs(3600);
        let Some(before) = clock.begun.checked_sub(hour) else {
            return;
        };
        assert_eq!(clock.time(before) + hour, clock.time);
        assert_eq!(clock.time(clock.begun + hour), clock.time + hour);
    }
}
