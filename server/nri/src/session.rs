//! One connection to the runtime: registration, and its calls over ttrpc.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use layerd_proto::nri::v1alpha1 as nri;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::StreamExt as _;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, MethodHandler, Server, Service, TtrpcContext};
use ttrpc::{Code, Request, Response, get_status};

use crate::mux::{self, MuxError};
use crate::plugin::Plugin;

/// The service of the plugin, which the runtime calls.
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service of the runtime.
const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
/// Longest wait for the answer to the registration; runtimes wait as long for the call.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Mux(#[from] MuxError),
    #[error("serve the plugin's calls")]
    Serve(#[source] ttrpc::Error),
    #[error("register with the runtime")]
    Register(#[source] ttrpc::Error),
}

/// The plugin, as the runtime knows it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Two digits.
    pub(crate) index: String,
}

/// Registers, and answers calls until the runtime closes the connection.
///
/// # Errors
/// [`SessionError`].
pub(crate) async fn run<S>(
    socket: S,
    identity: &Identity,
    plugin: &Arc<Plugin>,
) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite,
{
    let (connections, mux) = mux::multiplex(socket);
    // Its end would end the server.
    let accepted =
        tokio_stream::once(Ok::<_, io::Error>(connections.plugin)).chain(tokio_stream::pending());
    let mut server = Server::new()
        .register_service(services(plugin))
        .add_listener(Listener::new(accepted));
    server.start().await.map_err(SessionError::Serve)?;
    let client = Client::new(Socket::new(connections.runtime));
    let registered = async {
        let registered = client.request(registration(identity)).await;
        if let Err(cause) = registered {
            return SessionError::Register(cause);
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = mux.run() => ended.map_err(SessionError::from),
        failed = registered => Err(failed),
    };
    // Before the connection, what accepts it: it is waited for, for ten seconds, before there is another
    // attempt to register, and containers are created without their mounts meanwhile.
    drop(server.shutdown().await);
    ended
}

fn registration(identity: &Identity) -> Request {
    let message = nri::RegisterPluginRequest {
        plugin_name: identity.name.clone(),
        plugin_idx: identity.index.clone(),
    };
    let mut request = Request::new();
    request.set_service(RUNTIME.to_owned());
    request.set_method("RegisterPlugin".to_owned());
    request.set_payload(message.encode_to_vec());
    request.set_timeout_nano(i64::try_from(REGISTRATION_LIMIT.as_nanos()).unwrap_or(i64::MAX));
    request
}

/// A call of the runtime.
#[derive(Debug, Clone, Copy)]
enum Method {
    Configure,
    Synchronize,
    CreateContainer,
    StateChange,
    RemoveContainer,
    Shutdown,
}

const METHODS: [(&str, Method); 6] = [
    ("Configure", Method::Configure),
    ("Synchronize", Method::Synchronize),
    ("CreateContainer", Method::CreateContainer),
    ("StateChange", Method::StateChange),
    ("RemoveContainer", Method::RemoveContainer),
    ("Shutdown", Method::Shutdown),
];

fn services(plugin: &Arc<Plugin>) -> HashMap<String, Service> {
    let methods = METHODS.map(|(name, method)| {
        let handler = Handler {
            plugin: plugin.clone(),
            method,
        };
        let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(handler);
        (name.to_owned(), handler)
    });
    let service = Service {
        methods: methods.into(),
        streams: HashMap::new(),
    };
    [(PLUGIN.to_owned(), service)].into()
}

#[derive(Debug)]
struct Handler {
    plugin: Arc<Plugin>,
    method: Method,
}

#[async_trait]
impl MethodHandler for Handler {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let mut response = Response::new();
        match self.answer(&request.payload).await {
            Ok(payload) => response.set_payload(payload),
            Err((code, text)) => response.set_status(get_status(code, text)),
        }
        Ok(response)
    }
}

impl Handler {
    async fn answer(&self, payload: &[u8]) -> Result<Vec<u8>, (Code, String)> {
        let plugin = &self.plugin;
        Ok(match self.method {
            Method::Configure => plugin.configure(&decoded(payload)?).encode_to_vec(),
            Method::Synchronize => plugin.synchronize(decoded(payload)?).encode_to_vec(),
            Method::CreateContainer => {
                let created = plugin.create_container(decoded(payload)?).await;
                let refused = |text| (Code::FAILED_PRECONDITION, text);
                created.map_err(refused)?.encode_to_vec()
            }
            Method::StateChange => {
                let event: nri::StateChangeEvent = decoded(payload)?;
                if event.event() == nri::Event::RemoveContainer {
                    plugin.remove_container(event.container).await;
                }
                empty()
            }
            Method::RemoveContainer => {
                let request: nri::RemoveContainerRequest = decoded(payload)?;
                plugin.remove_container(request.container).await;
                empty()
            }
            Method::Shutdown => empty(),
        })
    }
}

fn decoded<M: Message + Default>(payload: &[u8]) -> Result<M, (Code, String)> {
    M::decode(payload).map_err(|cause| (Code::INVALID_ARGUMENT, cause.to_string()))
}

fn empty() -> Vec<u8> {
    nri::Empty {}.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncReadExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::layerd::Layerd;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_ends_is_left_at_once() {
        let (mut runtime, socket) = tokio::io::duplex(4096);
        let layerd = Layerd::new(Path::new("/nowhere"), "nri");
        let plugin = Arc::new(Plugin::new(layerd, false));
        let identity = Identity {
            name: "layerd".to_owned(),
            index: "10".to_owned(),
        };
        let begun = Instant::now();
        let (ended, ()) = tokio::join!(run(socket, &identity, &plugin), async move {
            let registration = runtime.read_u8().await;
            assert!(registration.is_ok());
        });
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
