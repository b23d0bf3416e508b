//! The socket of the CSI services, beside layerd's own. Containers of others do not depend on it: if it
//! cannot be had, operators are told, and everything else goes on.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use tokio::time::sleep;
use tonic::transport::server::Router;
use tracing::{error, info};

use super::{Layers, Node, Parts, router, sweep};
use crate::api;
use crate::api::admission::Admission;
use crate::config::CsiConfig;
use crate::listener::{Accepting, ListenError, Listener};
use crate::optional::Failures;
use crate::tasks::Tasks;
use crate::traces::Traces;
use crate::with_causes;

/// The key of the configuration.
const KEY: &str = "csi.socket";
/// Time for calls to end and clients to close when layerd is to stop. kubelet calls again.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Why the services are not served.
#[derive(Debug, thiserror::Error)]
enum CsiError {
    #[error("open the CSI socket")]
    Listen(#[from] ListenError),
    #[error("accept on the CSI socket")]
    Accept(#[source] io::Error),
    #[error(
        "name this node: the host name is no value of a label of Kubernetes'; set `csi.node_id`"
    )]
    NoNode,
}

/// Serves CSI until the daemon is to stop, if the configuration or systemd names a socket.
pub(crate) fn serve(
    config: &CsiConfig,
    inherited: Option<UnixListener>,
    parts: &api::Parts,
    admission: Admission,
    traces: Traces,
) {
    let tasks = parts.tasks.clone();
    let opened = match open(config, inherited, &tasks) {
        Ok(None) => return,
        Ok(Some(opened)) => opened,
        Err(cause) => return failed(&cause, &parts.failures),
    };
    let node = Node {
        id: config.node_id.clone(),
        node_expansion: config.node_expansion,
    };
    info!(node = node.id, "serving CSI");
    let router = router(Parts::new(parts.clone(), node), admission, traces);
    tasks.spawn(|_| run(router, opened, tasks.clone()));
    let (engine, sweeping) = (parts.engine.clone(), tasks.clone());
    tasks.spawn(|stop| sweep::run(engine, sweeping, stop));
}

struct Opened {
    clients: Accepting,
    remove: Box<dyn FnOnce() + Send>,
}

fn open(
    config: &CsiConfig,
    inherited: Option<UnixListener>,
    tasks: &Tasks,
) -> Result<Option<Opened>, CsiError> {
    let listener = match (&config.socket, inherited) {
        (_, Some(socket)) => Listener::inherit(socket)?,
        (Some(socket), None) => Listener::open(socket, None)?,
        (None, None) => return Ok(None),
    };
    if config.node_id.is_empty() {
        return Err(CsiError::NoNode);
    }
    let remove = Box::new(listener.remover());
    let clients = listener
        .accept(tasks.stopping())
        .map_err(CsiError::Accept)?;
    Ok(Some(Opened { clients, remove }))
}

async fn run(router: Router<Layers>, opened: Opened, tasks: Tasks) {
    let latest = opened.clients.latest();
    let stop = tasks.stopping();
    let stopped = stop.clone();
    let served = router.serve_with_incoming_shutdown(opened.clients, async move {
        stopped.cancelled().await;
        latest.has_called().await;
    });
    let enough = async {
        stop.cancelled().await;
        sleep(CLOSE_GRACE).await;
    };
    tokio::select! {
        outcome = served => if let Err(cause) = outcome {
            error!(reason = with_causes(&cause), "CSI is no longer served");
        },
        () = enough => {}
    }
    (opened.remove)();
}

fn failed(cause: &CsiError, failures: &Failures) {
    let reason = with_causes(cause);
    error!(reason, "CSI is not served");
    failures.add(KEY, reason);
}
