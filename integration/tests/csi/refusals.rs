//! Requests of csi-sanity (kubernetes-csi/csi-test 5.4 to 5.6) that lack a field or name a volume that is not
//! there, with the codes that it demands. Where two rules are broken at once, one of them has to be told.

use layerd_proto::csi::v1::{self as pb};
use tonic::Code::{self, InvalidArgument, NotFound, Ok as Fine};

use super::client::{Client, bytes, create, of_snapshot, of_volume, publish, writer};
use super::sanity::{NO_PATH, NO_VOLUME};
use super::world::World;

/// A request and its code.
macro_rules! code {
    ($client:expr, $service:ident.$call:ident($request:expr)) => {{
        let request = $request;
        let answer = $client.run(async |to| to.$service.$call(request).await);
        answer.map_or_else(|failed| failed.code, |_| Fine)
    }};
}

type Row = (&'static str, Code, Code);

fn all_are_as_wanted(rows: &[Row]) {
    for (call, got, wanted) in rows {
        assert_eq!(got, wanted, "{call}");
    }
}

#[test]
fn root_the_controller_answers_as_csi_sanity_demands() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    all_are_as_wanted(&creations(&mut world.client));
    all_are_as_wanted(&volumes(&mut world.client, &id));
    all_are_as_wanted(&sizes_and_lists(&mut world.client));
    all_are_as_wanted(&snapshots(&mut world.client));
    assert_eq!(world.json(&["volume", "ls"]).len(), 1, "nothing was made");
}

#[test]
fn root_the_node_answers_as_csi_sanity_demands() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    all_are_as_wanted(&paths(&mut world.client, target.to_str().unwrap()));
    all_are_as_wanted(&usage(&mut world.client, &id));
    assert!(!target.exists());
}

fn creations(client: &mut Client) -> [Row; 4] {
    let named = |name: &str| pb::CreateVolumeRequest {
        name: name.to_owned(),
        ..pb::CreateVolumeRequest::default()
    };
    let of = |source| pb::CreateVolumeRequest {
        volume_content_source: source,
        ..create("copy")
    };
    let snapshot = of_snapshot("non-existing-snapshot-id");
    [
        (
            "CreateVolume without name",
            code!(client, controller.create_volume(named(""))),
            InvalidArgument,
        ),
        (
            "CreateVolume without use",
            code!(client, controller.create_volume(named("nocaps"))),
            InvalidArgument,
        ),
        (
            "CreateVolume of no snapshot",
            code!(client, controller.create_volume(of(snapshot))),
            NotFound,
        ),
        (
            "CreateVolume of no volume",
            code!(client, controller.create_volume(of(of_volume(NO_VOLUME)))),
            NotFound,
        ),
    ]
}

fn volumes(client: &mut Client, id: &str) -> [Row; 5] {
    let delete = |id: &str| pb::DeleteVolumeRequest {
        volume_id: id.to_owned(),
        ..pb::DeleteVolumeRequest::default()
    };
    let validate = |id: &str, ways| pb::ValidateVolumeCapabilitiesRequest {
        volume_id: id.to_owned(),
        volume_capabilities: ways,
        ..pb::ValidateVolumeCapabilitiesRequest::default()
    };
    [
        (
            "DeleteVolume without id",
            code!(client, controller.delete_volume(delete(""))),
            InvalidArgument,
        ),
        (
            "DeleteVolume of nonsense",
            code!(client, controller.delete_volume(delete("fake-vol-id"))),
            Fine,
        ),
        (
            "ValidateVolumeCapabilities without all",
            code!(
                client,
                controller.validate_volume_capabilities(validate("", vec![]))
            ),
            InvalidArgument,
        ),
        (
            "ValidateVolumeCapabilities without use",
            code!(
                client,
                controller.validate_volume_capabilities(validate(id, vec![]))
            ),
            InvalidArgument,
        ),
        (
            "ValidateVolumeCapabilities of no volume",
            code!(
                client,
                controller.validate_volume_capabilities(validate(NO_VOLUME, vec![writer()]))
            ),
            NotFound,
        ),
    ]
}

fn sizes_and_lists(client: &mut Client) -> [Row; 5] {
    let get = |id: &str| pb::ControllerGetVolumeRequest {
        volume_id: id.to_owned(),
    };
    let expand = |range| pb::ControllerExpandVolumeRequest {
        capacity_range: range,
        ..pb::ControllerExpandVolumeRequest::default()
    };
    let list = |token: &str| pb::ListVolumesRequest {
        starting_token: token.to_owned(),
        ..pb::ListVolumesRequest::default()
    };
    [
        (
            "ControllerExpandVolume without id",
            code!(
                client,
                controller.controller_expand_volume(expand(bytes(11 << 30, 0)))
            ),
            InvalidArgument,
        ),
        (
            "ControllerExpandVolume without id and range",
            code!(client, controller.controller_expand_volume(expand(None))),
            InvalidArgument,
        ),
        (
            "ControllerGetVolume without id",
            code!(client, controller.controller_get_volume(get(""))),
            InvalidArgument,
        ),
        (
            "ControllerGetVolume of no volume",
            code!(client, controller.controller_get_volume(get(NO_VOLUME))),
            NotFound,
        ),
        (
            "ListVolumes from nonsense",
            code!(client, controller.list_volumes(list("invalid-token"))),
            Code::Aborted,
        ),
    ]
}

fn snapshots(client: &mut Client) -> [Row; 4] {
    let take = |name: &str, source: &str| pb::CreateSnapshotRequest {
        name: name.to_owned(),
        source_volume_id: source.to_owned(),
        ..pb::CreateSnapshotRequest::default()
    };
    let delete = |id: &str| pb::DeleteSnapshotRequest {
        snapshot_id: id.to_owned(),
        ..pb::DeleteSnapshotRequest::default()
    };
    [
        (
            "CreateSnapshot without name, of no volume",
            code!(client, controller.create_snapshot(take("", "testId"))),
            InvalidArgument,
        ),
        (
            "CreateSnapshot without source",
            code!(client, controller.create_snapshot(take("name", ""))),
            InvalidArgument,
        ),
        (
            "DeleteSnapshot without id",
            code!(client, controller.delete_snapshot(delete(""))),
            InvalidArgument,
        ),
        (
            "DeleteSnapshot of nonsense",
            code!(
                client,
                controller.delete_snapshot(delete("reallyfakesnapshotid"))
            ),
            Fine,
        ),
    ]
}

fn paths(client: &mut Client, target: &str) -> [Row; 5] {
    let empty = pb::NodePublishVolumeRequest::default;
    let pathless = pb::NodePublishVolumeRequest {
        volume_id: NO_VOLUME.to_owned(),
        ..empty()
    };
    let without_use = pb::NodePublishVolumeRequest {
        volume_capability: None,
        ..publish(NO_VOLUME, target.as_ref())
    };
    let unpublish = |id: &str| pb::NodeUnpublishVolumeRequest {
        volume_id: id.to_owned(),
        ..pb::NodeUnpublishVolumeRequest::default()
    };
    [
        (
            "NodePublishVolume without all",
            code!(client, node.node_publish_volume(empty())),
            InvalidArgument,
        ),
        (
            "NodePublishVolume of no volume, without path",
            code!(client, node.node_publish_volume(pathless)),
            InvalidArgument,
        ),
        (
            "NodePublishVolume of no volume, without use",
            code!(client, node.node_publish_volume(without_use)),
            InvalidArgument,
        ),
        (
            "NodeUnpublishVolume without all",
            code!(client, node.node_unpublish_volume(unpublish(""))),
            InvalidArgument,
        ),
        (
            "NodeUnpublishVolume of no volume, without path",
            code!(client, node.node_unpublish_volume(unpublish(NO_VOLUME))),
            InvalidArgument,
        ),
    ]
}

fn usage(client: &mut Client, id: &str) -> [Row; 6] {
    let stats = |id: &str, path: &str| pb::NodeGetVolumeStatsRequest {
        volume_id: id.to_owned(),
        volume_path: path.to_owned(),
        ..pb::NodeGetVolumeStatsRequest::default()
    };
    let expand = |id: &str, path: &str| pb::NodeExpandVolumeRequest {
        volume_id: id.to_owned(),
        volume_path: path.to_owned(),
        ..pb::NodeExpandVolumeRequest::default()
    };
    [
        (
            "NodeGetVolumeStats without id",
            code!(client, node.node_get_volume_stats(stats("", NO_PATH))),
            InvalidArgument,
        ),
        (
            "NodeGetVolumeStats of no volume, without path",
            code!(client, node.node_get_volume_stats(stats(NO_VOLUME, ""))),
            InvalidArgument,
        ),
        (
            "NodeGetVolumeStats of no volume at a relative path",
            code!(
                client,
                node.node_get_volume_stats(stats(NO_VOLUME, NO_PATH))
            ),
            NotFound,
        ),
        (
            "NodeExpandVolume without id",
            code!(
                client,
                node.node_expand_volume(expand("", "/tmp/csi-mount"))
            ),
            InvalidArgument,
        ),
        (
            "NodeExpandVolume without path",
            code!(client, node.node_expand_volume(expand(id, ""))),
            InvalidArgument,
        ),
        (
            "NodeExpandVolume of no volume at a relative path",
            code!(client, node.node_expand_volume(expand(NO_VOLUME, NO_PATH))),
            NotFound,
        ),
    ]
}
