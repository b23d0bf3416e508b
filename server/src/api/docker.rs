//! Docker's volume plugin protocol, version 1, which Podman speaks too: HTTP/1.1 with JSON on a unix
//! socket of its own.
//!
//! A thin face of the engine's volumes and attachments. Mount records a holder and answers the volume's
//! folder, whose path never changes: nothing is mounted, so Unmount takes nothing away from a container
//! that runs, and a restart of layerd is not noticed by one.

mod client;
mod connection;
mod dockerd;
mod holders;
mod methods;
mod reconcile;
mod visible;
mod wire;

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::TRANSFER_ENCODING;
use axum::http::{Method as Verb, StatusCode};
use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::error;

use self::client::Client;
use self::connection::{Connections, KEPT};
use self::dockerd::Dockerd;
use self::methods::Method;
use self::reconcile::Wake;
use super::Parts;
use super::admission::Admission;
use crate::config::DockerConfig;
use crate::listener::{Inherited, ListenError, Listener, SocketConfig};
use crate::tasks::Tasks;
use crate::{metrics, with_causes};

/// Content type of every answer: that of the protocol's version 1.2.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// Largest request, in bytes.
const REQUEST_MAX: usize = 64 * 1024;
/// Longest time in which a request has to be received.
const RECEIVE_LIMIT: Duration = Duration::from_secs(10);
/// Name of the service in metrics.
const SERVICE: &str = "docker.VolumeDriver";

/// State shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    parts: Parts,
    admission: Admission,
    config: Arc<DockerConfig>,
    dockerd: Dockerd,
    wake: Wake,
    measuring: methods::Measuring,
    /// Held over each look at dockerd's list and what follows from it.
    comparing: Arc<tokio::sync::Mutex<()>>,
}

impl Door {
    pub(crate) fn new(parts: Parts, admission: Admission, config: &DockerConfig) -> Self {
        Self {
            parts,
            admission,
            config: Arc::new(config.clone()),
            dockerd: Dockerd::new(config.api.clone()),
            wake: Wake::default(),
            measuring: methods::Measuring::default(),
            comparing: Arc::default(),
        }
    }
}

/// Name of the socket that systemd hands over: `FileDescriptorName=` of its unit.
const SOCKET_NAME: &str = "docker";
/// Key of the configuration under which a socket that cannot be had is reported.
const SOCKET_KEY: &str = "docker.socket";

/// The socket of the plugin: systemd's, if it hands one over, else the configured one, else none. Storage
/// does not depend on it: one that cannot be had is reported and stops nothing.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: Result<Option<Listener>, ListenError>,
    /// Connections that an earlier layerd had not ended.
    before: Mutex<Vec<UnixStream>>,
}

impl Socket {
    pub(crate) fn open(config: &DockerConfig, inherited: &mut Inherited) -> Self {
        let before = Mutex::new(inherited.take_connections(KEPT));
        let inherited = inherited.take_named(SOCKET_NAME);
        let listener = match (&inherited, &config.socket) {
            (None, None) => Ok(None),
            (_, path) => {
                let own = SocketConfig {
                    path: path.clone().unwrap_or_default(),
                    mode: 0o600,
                    group: None,
                };
                Listener::open(&own, inherited).map(Some)
            }
        };
        Self { listener, before }
    }

    /// Serves the plugin until the daemon stops, and keeps its holders true to dockerd's list.
    pub(crate) fn serve(self, door: Door) {
        let (tasks, failures) = (door.parts.tasks.clone(), door.parts.failures.clone());
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let reason = with_causes(error);
            error!(reason, "Docker's volume plugin is not served");
            failures.add(SOCKET_KEY, reason);
        };
        let before = self.before.into_inner();
        let listener = match self.listener {
            Ok(None) => return connection::close(before),
            Ok(Some(listener)) => listener,
            Err(error) => {
                connection::close(before);
                return failed(&error);
            }
        };
        let remove = listener.remover();
        let connections = Connections::new(before, listener.socket, tasks.stopping());
        let connections = match connections {
            Ok(connections) => connections,
            Err(error) => return failed(&error),
        };
        let reconciler = door.clone();
        tasks.spawn(|stop| reconcile::run(reconciler, stop));
        let app = Router::new().fallback(answer).with_state(door);
        let (served, end) = (listen(connections, app), tasks.peers_end());
        tasks.spawn(|stop| async move {
            end.run_until_cancelled(served(stop)).await;
            remove();
        });
    }

    /// Answers every call with `trouble` until `done`: the records cannot be read, and an empty list would
    /// tell Docker that its volumes are gone.
    pub(crate) fn refuse(&self, trouble: &str, tasks: &Tasks, done: &CancellationToken) {
        let Ok(Some(listener)) = &self.listener else {
            return;
        };
        let before = std::mem::take(&mut *self.before.lock());
        let stop = tasks.stopping();
        let connections = listener.socket.try_clone();
        let connections =
            connections.and_then(|socket| Connections::new(before, socket, stop.clone()));
        let connections = match connections {
            Ok(connections) => connections,
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                return error!(error, "Docker is not told that the records are lost");
            }
        };
        let app = Router::new()
            .fallback(refused)
            .with_state(Arc::from(trouble));
        let done = done.clone();
        let served = listen(connections, app);
        tasks.spawn_with_peer(async move {
            let over = CancellationToken::new();
            tokio::join!(served(over.clone()), async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = done.cancelled() => {}
                }
                over.cancel();
            });
        });
    }
}

async fn refused(
    State(trouble): State<Arc<str>>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    if let Err(refused) = receive(&client, request).await {
        return failure(refused.http, &refused.text);
    }
    match Method::of(&path) {
        Some(method) if method.is_constant() => reply(StatusCode::OK, &method.constant()),
        _ => failure(StatusCode::SERVICE_UNAVAILABLE, &trouble),
    }
}

/// Serves until its token is cancelled, and then as long as its clients take to send or receive what they
/// began.
fn listen(
    connections: Connections,
    app: Router,
) -> impl FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let app = app.into_make_service_with_connect_info::<Client>();
    move |stop| {
        Box::pin(async move {
            let served = axum::serve(connections, app);
            let served = served.with_graceful_shutdown(stop.cancelled_owned());
            // It goes on after what fails at accepting, and ends with the token alone.
            let _: io::Result<()> = served.await;
        })
    }
}

/// Why a call is answered with an error.
#[derive(Debug)]
struct Refused {
    http: StatusCode,
    code: Code,
    text: String,
}

impl Refused {
    fn bad_request(text: impl Into<String>) -> Self {
        Self {
            http: StatusCode::BAD_REQUEST,
            code: Code::InvalidArgument,
            text: text.into(),
        }
    }
}

/// Podman looks at the status alone, Docker at both.
impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self {
            http: match status.code() {
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            code: status.code(),
            text: status.message().to_owned(),
        }
    }
}

async fn answer(
    State(door): State<Door>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
) -> Response {
    let begun = Instant::now();
    let (path, verb) = (request.uri().path().to_owned(), request.method().clone());
    let received = receive(&client, request).await;
    let Some(method) = Method::of(&path) else {
        let text = format!("{path:?} is not one of {}", Method::names());
        return failure(StatusCode::NOT_FOUND, &text);
    };
    if verb != Verb::POST {
        let text = format!("{verb} of {path} is not POST");
        return failure(StatusCode::METHOD_NOT_ALLOWED, &text);
    }
    let outcome = match received {
        Ok(body) => run(&door, method, client, &body).await,
        Err(refused) => Err(refused),
    };
    let code = outcome
        .as_ref()
        .map_or_else(|refused| refused.code, |_| Code::Ok);
    metrics::rpc(SERVICE, method.name(), code, begun.elapsed());
    match outcome {
        Ok(value) => reply(StatusCode::OK, &value),
        Err(refused) => failure(refused.http, &refused.text),
    }
}

/// The content of a request. The connection of one that is not received whole is closed with its answer.
async fn receive(client: &Client, request: Request) -> Result<Bytes, Refused> {
    let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let received = timeout(RECEIVE_LIMIT, to_bytes(request.into_body(), REQUEST_MAX)).await;
    let body = received
        .map_err(|_| {
            let limit = RECEIVE_LIMIT.as_secs();
            Refused::bad_request(format!("the request did not arrive within {limit} s"))
        })?
        .map_err(|cause| {
            let text =
                format!("the request cannot be read, or has over {REQUEST_MAX} bytes: {cause}");
            Refused {
                http: StatusCode::PAYLOAD_TOO_LARGE,
                ..Refused::bad_request(text)
            }
        })?;
    client
        .exchange
        .note_received((!is_chunked).then_some(body.len()));
    Ok(body)
}

async fn run(door: &Door, method: Method, client: Client, body: &[u8]) -> Result<Value, Refused> {
    if method.is_constant() {
        return Ok(method.constant());
    }
    // A stop waits for it, as not for requests that do not arrive.
    let _begun = door.parts.tasks.begun();
    let asked = wire::Asked::parse(body)?;
    let answer = async { Ok::<_, Infallible>(method.run(door, client, asked).await) };
    let Some(limit) = method.limit() else {
        return method_outcome(Ok(answer.await));
    };
    method_outcome(door.admission.docker(method.name(), limit, answer).await)
}

fn method_outcome(
    outcome: Result<Result<Result<Value, Refused>, Infallible>, Status>,
) -> Result<Value, Refused> {
    match outcome {
        Ok(Ok(outcome)) => outcome,
        Err(status) => Err(status.into()),
    }
}

fn reply(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        axum::http::header::CONTENT_TYPE,
        axum::http::HeaderValue::from_static(CONTENT_TYPE),
    );
    response
}

fn failure(status: StatusCode, text: &str) -> Response {
    reply(status, &json!({ "Err": text }))
}
