//! Durations and codes of calls, for the metrics and the traces.
//!
//! A call ends when the last of its answer has been handed over: the code of a stream, and of
//! every call that succeeds, stands in its trailers.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Body, Frame, SizeHint};
use layerd_proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::metrics;
use crate::traces::{Trace, Traces};

/// Measures every call.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) traces: Traces,
}

impl<S> Layer<S> for Measure {
    type Service = MeasureService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MeasureService {
            inner,
            traces: self.traces.clone(),
        }
    }
}

/// A service that is measured.
#[derive(Debug, Clone)]
pub(crate) struct MeasureService<S> {
    inner: S,
    traces: Traces,
}

impl<S, I, O> Service<Request<I>> for MeasureService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
{
    type Response = Response<Measured<O>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let names = names(request.uri().path());
        let trace = self.traces.begin(names, request.headers());
        let mut timer = Timer::new(names, trace.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match trace {
                Some(trace) => trace.scope(answer).await?,
                None => answer.await?,
            };
            timer.look(answer.headers());
            Ok(answer.map(|body| Measured { body, timer }))
        })
    }
}

/// Measures until it is dropped.
#[derive(Debug)]
struct Timer {
    /// Service and method; both `other` for what does not exist: a client's words make no series.
    names: (&'static str, &'static str),
    begun: Instant,
    /// None until the answer is over: a client that goes before that has cancelled the call.
    status: Option<Status>,
    trace: Option<Trace>,
}

impl Timer {
    fn new(names: (&'static str, &'static str), trace: Option<Trace>) -> Self {
        Self {
            names,
            begun: Instant::now(),
            status: None,
            trace,
        }
    }

    fn look(&mut self, headers: &HeaderMap) {
        let Some(code) = headers.get(Status::GRPC_STATUS) else {
            return;
        };
        // Most calls succeed, and all that reading more copies the headers for is the message.
        self.status = match Code::from_bytes(code.as_bytes()) {
            Code::Ok => Some(Status::new(Code::Ok, "")),
            _ => Status::from_header_map(headers),
        };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let gone = || Status::cancelled("the client has gone");
        let status = self.status.take().unwrap_or_else(gone);
        let code = status.code();
        if let Some(trace) = &self.trace {
            trace.end(code, status.message());
        }
        let (service, method) = self.names;
        metrics::rpc(service, method, code, self.begun.elapsed());
    }
}

/// Service and method of a call, by the path of its request.
fn names(path: &str) -> (&'static str, &'static str) {
    static KNOWN: LazyLock<BTreeMap<String, (&'static str, &'static str)>> = LazyLock::new(known);
    KNOWN.get(path).copied().unwrap_or(("other", "other"))
}

/// All methods of the services in our .proto files.
fn known() -> BTreeMap<String, (&'static str, &'static str)> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut known = BTreeMap::new();
    for file in files.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            // Once in the life of the process, for a handful of names.
            let service_name: &'static str = service_name.leak();
            for method in &service.method {
                let path = format!("/{service_name}/{}", method.name());
                let method_name: &'static str = method.name().to_owned().leak();
                known.insert(path, (service_name, method_name));
            }
        }
    }
    known
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Measured<B> {
    body: B,
    timer: Timer,
}

impl<B: Body + Unpin> Body for Measured<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.timer.look(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
