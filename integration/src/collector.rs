//! An OpenTelemetry collector: takes traces by OTLP over gRPC and keeps them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::process::wait_until;

/// A span, as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// `service.name` of its sender.
    pub service: String,
    /// As it was sent.
    pub span: Span,
}

impl Arrived {
    /// The trace it belongs to, in hexadecimal.
    #[must_use]
    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Its own number, in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// The number of the span that it lies below, in hexadecimal; empty if there is none.
    #[must_use]
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// An attribute as text; none if it has no such attribute.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(all: &[KeyValue], key: &str) -> Option<String> {
    let found = all.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// A collector that runs until it is dropped.
#[derive(Debug)]
pub struct Collector {
    store: Store,
    _runtime: Runtime,
}

impl Collector {
    /// Listens on a unix socket.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn on_socket(path: &Path) -> Self {
        let (store, runtime) = parts();
        let socket = runtime.block_on(async { UnixListener::bind(path) });
        let incoming = UnixListenerStream::new(socket.expect("the socket's folder is ours"));
        let router = Server::builder().add_service(TraceServiceServer::new(store.clone()));
        runtime.spawn(router.serve_with_incoming(incoming));
        Self {
            store,
            _runtime: runtime,
        }
    }

    /// Listens on a port of the loopback, which it answers.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn on_port() -> (Self, u16) {
        let (store, runtime) = parts();
        let socket = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
        let socket = socket.expect("a port is free");
        let port = socket.local_addr().expect("it is bound").port();
        let router = Server::builder().add_service(TraceServiceServer::new(store.clone()));
        runtime.spawn(router.serve_with_incoming(TcpListenerStream::new(socket)));
        let collector = Self {
            store,
            _runtime: runtime,
        };
        (collector, port)
    }

    /// Spans that have arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Arrived> {
        self.store.all().clone()
    }

    /// Waits until something has arrived, and answers all that has.
    ///
    /// # Panics
    /// If it does not come within 15 seconds.
    #[must_use]
    pub fn wait_for(&self, what: &str, has_come: impl Fn(&[Arrived]) -> bool) -> Vec<Arrived> {
        let limit = Duration::from_secs(15);
        wait_until(what, limit, || has_come(&self.spans()));
        self.spans()
    }
}

fn parts() -> (Store, Runtime) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    (Store::default(), runtime.expect("a thread can be started"))
}

#[derive(Debug, Clone, Default)]
struct Store(Arc<Mutex<Vec<Arrived>>>);

impl Store {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arrived>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for group in request.into_inner().resource_spans {
            let sender = group.resource.unwrap_or_default();
            let service = attribute(&sender.attributes, "service.name").unwrap_or_default();
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.all().extend(spans.map(|span| Arrived {
                service: service.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
