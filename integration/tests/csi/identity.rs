//! Name, place and capabilities of the driver.

use layerd_proto::csi::v1 as pb;
use layerd_proto::csi::v1::controller_service_capability::rpc::Type as Controller;
use layerd_proto::csi::v1::node_service_capability::rpc::Type as Node;
use layerd_proto::csi::v1::plugin_capability::{Type, service};
use tonic::Code;

use super::client::DRIVER;
use super::world::World;

#[test]
fn root_the_driver_says_who_and_where_it_is() {
    let mut world = World::new();
    let info = world.ten(|client| {
        client.run(async |client| {
            client
                .identity
                .get_plugin_info(pb::GetPluginInfoRequest {})
                .await
        })
    });
    let info = info.unwrap();
    assert_eq!(info.name, DRIVER);
    assert!(!info.vendor_version.is_empty());
    let ready = world
        .ten(|client| client.run(async |client| client.identity.probe(pb::ProbeRequest {}).await));
    assert_eq!(ready.unwrap().ready, Some(true));
    let node = world.ten(|client| {
        client.run(async |client| client.node.node_get_info(pb::NodeGetInfoRequest {}).await)
    });
    let node = node.unwrap();
    assert_eq!(node.node_id, "node-1");
    let segments = node.accessible_topology.unwrap().segments;
    assert_eq!(segments["topology.csi.layerd.dev/node"], "node-1");
}

#[test]
fn root_what_is_announced_is_there_and_what_is_not_answers_unimplemented() {
    let mut world = World::new();
    let plugin = world.ten(|client| {
        let request = pb::GetPluginCapabilitiesRequest {};
        client.run(async |client| client.identity.get_plugin_capabilities(request).await)
    });
    let plugin = plugin.unwrap().capabilities;
    let services: Vec<_> = plugin
        .iter()
        .filter_map(|one| match one.r#type.as_ref()? {
            Type::Service(service) => Some(service.r#type()),
            Type::VolumeExpansion(_) => None,
        })
        .collect();
    let wanted = [
        service::Type::ControllerService,
        service::Type::VolumeAccessibilityConstraints,
    ];
    assert_eq!(services, wanted);
    assert_eq!(plugin.len(), 3, "and online expansion");
    // VOLUME_CONDITION is none of the controller's: the standard has it no more, and csi-sanity fails drivers
    // that announce what it does not know.
    let wanted = [
        Controller::CreateDeleteVolume,
        Controller::ListVolumes,
        Controller::GetCapacity,
        Controller::CreateDeleteSnapshot,
        Controller::ListSnapshots,
        Controller::CloneVolume,
        Controller::GetVolume,
        Controller::SingleNodeMultiWriter,
        Controller::ExpandVolume,
    ];
    assert_eq!(controller(&mut world), wanted);
    let wanted = [
        Node::GetVolumeStats,
        Node::ExpandVolume,
        Node::VolumeCondition,
        Node::SingleNodeMultiWriter,
        Node::VolumeMountGroup,
    ];
    assert_eq!(node(&mut world), wanted);
    let staged = world.client.run(async |client| {
        let request = pb::NodeStageVolumeRequest::default();
        client.node.node_stage_volume(request).await
    });
    staged.unwrap_err().is(Code::Unimplemented, "");
    let attached = world.client.run(async |client| {
        let request = pb::ControllerPublishVolumeRequest::default();
        client.controller.controller_publish_volume(request).await
    });
    attached.unwrap_err().is(Code::Unimplemented, "");
}

#[test]
fn root_with_node_expansion_the_controller_does_not_expand() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[csi]\nnode_expansion = true\n").unwrap();
    let mut world = World::with(&["--config", config.to_str().unwrap()]);
    let all = controller(&mut world);
    assert!(!all.contains(&Controller::ExpandVolume));
}

fn controller(world: &mut World) -> Vec<Controller> {
    let answer = world.ten(|client| {
        let request = pb::ControllerGetCapabilitiesRequest {};
        client.run(async |client| client.controller.controller_get_capabilities(request).await)
    });
    let all = answer
        .unwrap()
        .capabilities
        .into_iter()
        .map(|one| match one.r#type {
            Some(pb::controller_service_capability::Type::Rpc(rpc)) => rpc.r#type(),
            None => Controller::Unknown,
        });
    all.collect()
}

fn node(world: &mut World) -> Vec<Node> {
    let answer = world.ten(|client| {
        let request = pb::NodeGetCapabilitiesRequest {};
        client.run(async |client| client.node.node_get_capabilities(request).await)
    });
    let all = answer
        .unwrap()
        .capabilities
        .into_iter()
        .map(|one| match one.r#type {
            Some(pb::node_service_capability::Type::Rpc(rpc)) => rpc.r#type(),
            None => Node::Unknown,
        });
    all.collect()
}
