//! kubelet's calls of CSI.

use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_proto::csi::v1::controller_client::ControllerClient;
use layerd_proto::csi::v1::node_client::NodeClient;
use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use layerd_proto::csi::v1::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, VolumeCapability,
};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

/// A blocking client whose calls have to succeed.
pub(crate) struct Csi {
    runtime: Runtime,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

impl Csi {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        Self {
            runtime,
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }

    /// Creates a volume of so many bytes, or without a size, and answers its handle.
    pub(crate) fn create(&mut self, name: &str, bytes: i64) -> String {
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: (bytes > 0).then_some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![writer()],
            ..CreateVolumeRequest::default()
        };
        let created = self
            .runtime
            .block_on(self.controller.create_volume(request))
            .unwrap();
        created.into_inner().volume.unwrap().volume_id
    }

    pub(crate) fn delete(&mut self, volume: &str) {
        let request = DeleteVolumeRequest {
            volume_id: volume.to_owned(),
            ..DeleteVolumeRequest::default()
        };
        self.runtime
            .block_on(self.controller.delete_volume(request))
            .unwrap();
    }

    pub(crate) fn publish(&mut self, volume: &str, target: &Path) {
        let request = NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.to_str().unwrap().to_owned(),
            volume_capability: Some(writer()),
            ..NodePublishVolumeRequest::default()
        };
        self.runtime
            .block_on(self.node.node_publish_volume(request))
            .unwrap();
    }

    pub(crate) fn unpublish(&mut self, volume: &str, target: &Path) {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.to_str().unwrap().to_owned(),
        };
        self.runtime
            .block_on(self.node.node_unpublish_volume(request))
            .unwrap();
    }
}

fn writer() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
    }
}
