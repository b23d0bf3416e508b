//! gRPC services: messages are decoded and checked, and the engine is called.
//!
//! One folder a peer, and beside them what all services share.

pub(crate) mod admission;
mod chunks;
mod containerd;
pub(crate) mod csi;
pub(crate) mod docker;
pub(crate) mod layerd;
mod measure;
mod outgoing;
mod oversize;
mod status;
mod unpack;
mod wire;

use std::sync::Arc;
use std::time::Instant;

use layerd_engine::Engine;
use layerd_proto::DESCRIPTORS;
use layerd_proto::containerd::services::diff::v1::diff_server::DiffServer;
use layerd_proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use layerd_proto::layerd::v1::admin_server::AdminServer;
use layerd_proto::layerd::v1::attachments_server::AttachmentsServer;
use layerd_proto::layerd::v1::layers_server::LayersServer;
use layerd_proto::layerd::v1::mounts_server::MountsServer;
use layerd_proto::layerd::v1::volumes_server::VolumesServer;
use tokio_stream::Iter;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use crate::config::{Effective, UnpackConfig};
use crate::content::Content;
use crate::optional::Failures;
use crate::reaper::Waker;
use crate::tasks::Tasks;
use crate::traces::Traces;

use self::admission::Admission;
use self::containerd::{diff, snapshots};
use self::layerd::{admin, layers, mounts, volumes};
use self::unpack::Unpacker;

/// Largest message in either direction: containerd's own limit.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Calls at once on one connection; further ones wait in the client. containerd has one connection.
const STREAMS_MAX: u32 = 8192;

/// Layers around every service, innermost first.
type Layers = Stack<Admission, Stack<oversize::Oversize, Stack<measure::Measure, Identity>>>;

/// Parts of the `Diff` and `Layers` services alone.
#[derive(Debug)]
pub(crate) struct UnpackParts {
    pub(crate) content: Content,
    pub(crate) config: UnpackConfig,
}

/// Parts shared by all services.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) tasks: Tasks,
    pub(crate) waker: Waker,
    pub(crate) started: Instant,
    /// Effective configuration.
    pub(crate) effective: Arc<Effective>,
    /// Optional services that do not work.
    pub(crate) failures: Failures,
}

impl Parts {
    /// Runs a blocking call of the engine to its end, even if the client hangs up.
    async fn call<T, W>(&self, work: W) -> Result<T, Status>
    where
        T: Send + 'static,
        W: FnOnce(&Engine) -> Result<T, layerd_engine::Error> + Send + 'static,
    {
        let engine = self.engine.clone();
        let done = self.tasks.call(move || work(&engine)).await;
        done.map_err(|lost| status::lost(&lost))?
            .map_err(|error| status::of(&error))
    }
}

/// A stream of messages held in memory.
type Messages<M> = Iter<std::vec::IntoIter<Result<M, Status>>>;

/// Cuts a list into messages of at most 100 entries.
fn in_messages<T, M>(entries: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Messages<M> {
    const ENTRIES_PER_MESSAGE: usize = 100;
    let mut entries = entries.into_iter();
    let next = || {
        Some(entries.by_ref().take(ENTRIES_PER_MESSAGE).collect())
            .filter(|some: &Vec<T>| !some.is_empty())
    };
    let messages = std::iter::from_fn(next).map(|some| Ok(message(some)));
    tokio_stream::iter(messages.collect::<Vec<_>>())
}

/// All services on one socket.
pub(crate) fn router(
    parts: Parts,
    unpack: UnpackParts,
    health: HealthServer<impl Health>,
    admission: Admission,
    traces: Traces,
) -> Result<Router<Layers>, tonic_reflection::server::Error> {
    let snapshots = SnapshotsServer::new(snapshots::Service::new(parts.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let unpacker = Unpacker::new(parts.clone(), unpack.config.at_once);
    let diff = diff::Service::new(unpacker.clone(), unpack.content, unpack.config.enabled);
    let diff = DiffServer::new(diff).max_decoding_message_size(MESSAGE_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .layer(measure::Measure { traces })
        .layer(oversize::Oversize)
        .layer(admission)
        .add_service(snapshots)
        .add_service(diff)
        .add_service(LayersServer::new(layers::Service::new(unpacker)))
        .add_service(VolumesServer::new(volumes::Service::new(parts.clone())))
        .add_service(MountsServer::new(mounts::Service::new(parts.clone())))
        .add_service(AttachmentsServer::new(mounts::Service::new(parts.clone())))
        .add_service(AdminServer::new(admin::Service::new(parts)))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}
