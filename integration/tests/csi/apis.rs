//! One set of volumes behind all APIs.

use std::fs;

use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::{self as pb};
use tonic::Code;

use super::client::{capability, create, publish};
use super::world::World;

fn delete(id: &str) -> pb::DeleteVolumeRequest {
    pb::DeleteVolumeRequest {
        volume_id: id.to_owned(),
        ..pb::DeleteVolumeRequest::default()
    }
}

#[test]
fn root_what_csi_holds_others_see_and_refuse_to_delete() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    assert!(world.ctl(0, &["volume", "ls"]).contains("pvc-1"));
    assert!(world.ctl(5, &["volume", "rm", "pvc-1"]).contains("in use"));
    assert!(world.ctl(0, &["who-uses", "pvc-1"]).contains("csi"));
    // A new name changes nothing for those who have the handle.
    world.ctl(0, &["volume", "rename", "pvc-1", "renamed"]);
    world.publish(&publish(&id, &target)).unwrap();
    assert_eq!(world.mounts(&target), 1);
    let again = world.create(&create("pvc-1")).unwrap();
    assert_eq!(again.volume_id, id);
    world.unpublish(&id, &target).unwrap();
    let target = world.target("pod-2");
    world.publish(&publish(&id, &target)).unwrap();
    world.unpublish(&id, &target).unwrap();
    world
        .client
        .run(async |client| client.controller.delete_volume(delete(&id)).await)
        .unwrap();
    world.ctl(0, &["volume", "undelete", "renamed"]);
    assert_eq!(world.create(&create("pvc-1")).unwrap().volume_id, id);
}

#[test]
fn root_what_others_hold_csi_sees_and_refuses_to_delete() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let attach = ["attach", "--owner", "container:web", "-v", "pvc-1:/data"];
    world.ctl(0, &attach);
    let refused = world
        .client
        .run(async |client| client.controller.delete_volume(delete(&id)).await);
    refused
        .unwrap_err()
        .is(Code::FailedPrecondition, "container web");
    let target = world.target("pod-1");
    let single = pb::NodePublishVolumeRequest {
        volume_capability: Some(capability(Mode::SingleNodeSingleWriter)),
        ..publish(&id, &target)
    };
    world
        .publish(&single)
        .unwrap_err()
        .is(Code::FailedPrecondition, "is to be its only one");
    world.ctl(0, &["detach", "--owner", "container:web"]);
    world.publish(&single).unwrap();
    assert!(world.ctl(5, &attach).contains("as its only attachment"));
}

#[test]
fn root_a_name_that_others_took_is_not_taken_over() {
    let mut world = World::new();
    world.ctl(0, &["volume", "create", "pvc-1"]);
    let refused = world.create(&create("pvc-1")).unwrap_err();
    refused.is(Code::AlreadyExists, "pvc-1");
    let handle = world.json(&["volume", "inspect", "pvc-1"]).remove(0);
    let path = handle["path"].as_str().unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}
