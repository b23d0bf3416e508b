//! The Container Storage Interface (`csi.v1`) on a socket of its own, for kubelet and its sidecars.
//!
//! A thin layer over the engine's volumes and attachments: what is created here is a volume as any
//! other, held and refused to be deleted by all APIs alike. Nothing is kept but in the engine's records;
//! the labels of [`record`] say what only CSI knows of a volume.

mod busy;
mod capacity;
mod controller;
mod identity;
mod inline;
mod node;
mod pages;
mod record;
mod serve;
mod snapshots;
mod stats;
mod sweep;
mod usage;
mod volumes;

use std::sync::Arc;

use layerd_engine::{Engine, Error, VolumeEntry};
use layerd_proto::csi::v1::controller_server::ControllerServer;
use layerd_proto::csi::v1::identity_server::IdentityServer;
use layerd_proto::csi::v1::node_server::NodeServer;
use layerd_proto::csi::v1::{self as pb};
use layerd_store::{BadInput, Refusal};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Status};
use tower::layer::util::{Identity, Stack};

use self::busy::Busy;
use self::record::Handle;
use self::stats::Walks;
use super::admission::Admission;
use super::{measure, status};
use crate::traces::Traces;

pub(crate) use serve::serve;

/// Name of the driver, by which Kubernetes' objects refer to it.
const DRIVER: &str = "csi.layerd.dev";
/// `FileDescriptorName=` of the socket when systemd hands it over.
pub(crate) const SOCKET_NAME: &str = "csi";
/// The one key of the topology; its value is the node's id.
const TOPOLOGY: &str = "topology.csi.layerd.dev/node";
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 1024;

/// Settings of the door.
#[derive(Debug, Clone)]
struct Node {
    /// The node's id.
    id: String,
    /// True if volumes are grown where they are used, not by the controller.
    node_expansion: bool,
}

/// Parts shared by the services.
#[derive(Debug, Clone)]
struct Parts {
    api: super::Parts,
    node: Arc<Node>,
    busy: Busy,
    walks: Walks,
}

impl Parts {
    fn new(api: super::Parts, node: Node) -> Self {
        Self {
            api,
            node: Arc::new(node),
            busy: Busy::default(),
            walks: Walks::default(),
        }
    }

    /// Runs blocking work on the engine to its end, even if the client hangs up.
    async fn call<T, W>(&self, work: W) -> Result<T, Status>
    where
        T: Send + 'static,
        W: FnOnce(&Engine) -> Result<T, Status> + Send + 'static,
    {
        let engine = self.api.engine.clone();
        let done = self.api.tasks.call(move || work(&engine)).await;
        done.map_err(|lost| status::lost(&lost))?
    }

    /// As [`call`](Self::call), while no other such call works on one of `what`.
    async fn call_alone<T, W>(
        &self,
        what: impl IntoIterator<Item = String>,
        work: W,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        W: FnOnce(&Engine) -> Result<T, Status> + Send + 'static,
    {
        let turns = what.into_iter().map(|one| self.busy.begin(one));
        let turns = turns.collect::<Result<Vec<_>, _>>()?;
        self.call(move |engine| {
            let _turns = turns;
            work(engine)
        })
        .await
    }

    fn topology(&self) -> pb::Topology {
        pb::Topology {
            segments: [(TOPOLOGY.to_owned(), self.node.id.clone())].into(),
        }
    }

    /// True if a place is reachable from this node.
    fn is_here(&self, topology: &pb::Topology) -> bool {
        let mut segments = topology.segments.iter();
        segments.all(|(key, value)| key == TOPOLOGY && *value == self.node.id)
    }

    /// A volume as the standard describes it.
    fn volume(&self, entry: &VolumeEntry) -> pb::Volume {
        pb::Volume {
            capacity_bytes: capacity::shown(&entry.volume),
            volume_id: Handle::of(&entry.volume).to_string(),
            volume_context: Default::default(),
            content_source: record::content_source(&entry.volume),
            accessible_topology: vec![self.topology()],
        }
    }
}

/// Layers around the services, innermost first. OUT_OF_RANGE is the standard's word for sizes, so it is
/// left alone here.
type Layers = Stack<Admission, Stack<measure::Measure, Identity>>;

/// The three services on one socket, behind the same admission as all others.
fn router(parts: Parts, admission: Admission, traces: Traces) -> Router<Layers> {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .layer(measure::Measure { traces })
        .layer(admission)
        .add_service(IdentityServer::new(identity::Service::new(parts.clone())))
        .add_service(ControllerServer::new(controller::Service::new(
            parts.clone(),
        )))
        .add_service(NodeServer::new(node::Service::new(parts)))
}

/// Why other APIs leave a volume alone: an orchestrator had it made, and alone knows whether it is done with.
/// Between two pods nothing holds it. None for volumes of other origin.
pub(crate) fn keeps(volume: &layerd_store::Volume) -> Option<String> {
    record::kind(volume)?;
    let name = &volume.name;
    Some(format!(
        "volume {name} was created through CSI, and its orchestrator counts on it: delete the \
         PersistentVolumeClaim, VolumeSnapshot or pod that it belongs to; if there is none any more, \
         `layerctl volume rm --force {name}`"
    ))
}

/// The status of a failed call of the engine: a volume that went meanwhile is not found.
fn failed(error: Error) -> Status {
    let status = status::of(&error);
    match error {
        Error::Store(layerd_store::Error::Refused(Refusal::VolumeGone { .. })) => {
            Status::not_found(status.message())
        }
        _ => status,
    }
}

/// The status of a field that breaks a rule.
fn bad(field: &str, rule: impl Into<String>) -> Status {
    status::bad(BadInput::new(field, rule))
}

fn required<'t>(field: &str, text: &'t str) -> Result<&'t str, Status> {
    match text {
        "" => Err(bad(field, "must not be empty")),
        text => Ok(text),
    }
}

/// Refuses maps that are larger than the standard allows.
fn bounded(field: &str, map: &std::collections::BTreeMap<String, String>) -> Result<(), Status> {
    const MOST: usize = 4096;
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    match total {
        0..=MOST => Ok(()),
        _ => Err(bad(
            field,
            format!("holds {total} bytes, at most {MOST} are allowed"),
        )),
    }
}

fn not_implemented(what: &str) -> Status {
    Status::new(Code::Unimplemented, what)
}
