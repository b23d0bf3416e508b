//! A blocking client of the three services, generated from the same messages.

use std::fmt::Debug;
use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_integration::transcript;
use layerd_proto::csi::v1::controller_client::ControllerClient;
use layerd_proto::csi::v1::identity_client::IdentityClient;
use layerd_proto::csi::v1::node_client::NodeClient;
use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use layerd_proto::csi::v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
use layerd_proto::csi::v1::{
    CapacityRange, CreateVolumeRequest, NodePublishVolumeRequest, VolumeCapability,
    VolumeContentSource,
};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// The driver's name, by which Kubernetes knows it.
pub(crate) const DRIVER: &str = "csi.layerd.dev";

#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    services: Services,
}

#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) identity: IdentityClient<Channel>,
    pub(crate) controller: ControllerClient<Channel>,
    pub(crate) node: NodeClient<Channel>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        let services = Services {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        };
        Self { runtime, services }
    }

    /// Runs a call to its end.
    pub(crate) fn run<T: Debug>(
        &mut self,
        call: impl AsyncFnOnce(&mut Services) -> Result<Response<T>, Status>,
    ) -> Result<T, Failed> {
        let answer = self.runtime.block_on(call(&mut self.services));
        let answer = answer.map(Response::into_inner).map_err(Failed::from);
        transcript::answer(&answer);
        answer
    }
}

/// Code and message of a status, which tests compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        assert!(status.details().is_empty(), "details are to be empty");
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

impl Failed {
    /// Requires a code and words of the message.
    pub(crate) fn is(&self, code: Code, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.message.contains(words), "{words:?}: {self:?}");
    }
}

pub(crate) fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

pub(crate) fn writer() -> VolumeCapability {
    capability(Mode::SingleNodeWriter)
}

pub(crate) fn bytes(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
    Some(CapacityRange {
        required_bytes,
        limit_bytes,
    })
}

pub(crate) fn of_volume(id: &str) -> Option<VolumeContentSource> {
    let volume_id = id.to_owned();
    Some(VolumeContentSource {
        r#type: Some(Type::Volume(VolumeSource { volume_id })),
    })
}

pub(crate) fn of_snapshot(id: &str) -> Option<VolumeContentSource> {
    let snapshot_id = id.to_owned();
    Some(VolumeContentSource {
        r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id })),
    })
}

/// A volume of 8 MiB.
pub(crate) fn create(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: bytes(8 << 20, 0),
        volume_capabilities: vec![writer()],
        ..CreateVolumeRequest::default()
    }
}

pub(crate) fn publish(id: &str, target: &Path) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.to_owned(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(writer()),
        ..NodePublishVolumeRequest::default()
    }
}
