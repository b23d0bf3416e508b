//! Volumes that live as long as their pod.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_proto::csi::v1::{self as pb};
use tonic::Code;

use super::client::publish;
use super::world::World;

const ID: &str = "csi-0123456789abcdef";

fn context(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let kubelet = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", "pod-1"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    let all = kubelet.iter().chain(more);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn root_an_inline_volume_comes_and_goes_with_its_pod() {
    let mut world = World::new();
    let target = world.target("pod-1");
    let request = pb::NodePublishVolumeRequest {
        volume_context: context(&[("size", "64Mi"), ("mode", "1777")]),
        ..publish(ID, &target)
    };
    world.publish(&request).unwrap();
    fs::write(target.join("file"), "x").unwrap();
    let held = world.json(&["attachments"]).remove(0);
    assert_eq!(held["owner"], "pod:pod-1", "{held}");
    let volume = world.json(&["volume", "ls"]).remove(0);
    assert_eq!(
        volume["labels"]["csi.storage.k8s.io/pod.name"], "web-0",
        "{volume}"
    );
    world.ctl(5, &["volume", "rm", volume["name"].as_str().unwrap()]);
    // A pod that goes on after a restart of the machine has what it wrote.
    world.reboot();
    world.publish(&request).unwrap();
    assert!(target.join("file").exists());
    let other = pb::NodePublishVolumeRequest {
        volume_context: context(&[("size", "65Mi")]),
        ..request.clone()
    };
    world
        .publish(&other)
        .unwrap_err()
        .is(Code::AlreadyExists, "size");
    world.unpublish(ID, &target).unwrap();
    assert!(!target.exists());
    assert_eq!(world.json(&["volume", "ls"]).len(), 0);
    assert_eq!(world.json(&["trash", "ls"]).len(), 0, "it is gone for good");
}

#[test]
fn root_an_inline_volume_that_cannot_be_had_leaves_nothing() {
    let mut world = World::new();
    let target = world.target("pod-1");
    let away = world.path().join("kubelet/no/pod/mount");
    for (more, target, words) in [
        (("speed", "9"), &target, "volume_context[\"speed\"]"),
        (("size", "much"), &target, "\"much\" is not a size"),
        (("uid", "me"), &target, "\"me\" is not a user id"),
        (("size", "1Gi"), &away, "is the orchestrator's to make"),
    ] {
        let request = pb::NodePublishVolumeRequest {
            volume_context: context(&[more]),
            ..publish(ID, target)
        };
        world
            .publish(&request)
            .unwrap_err()
            .is(Code::InvalidArgument, words);
        assert_eq!(world.json(&["volume", "ls"]).len(), 0);
        assert!(!target.exists());
    }
    let persistent = publish(ID, &target);
    world
        .publish(&persistent)
        .unwrap_err()
        .is(Code::NotFound, ID);
}

#[test]
fn root_a_pod_that_never_came_back_is_swept_up() {
    let mut world = World::new();
    let (gone, stays) = (world.target("pod-1"), world.target("pod-2"));
    for (id, target) in [(ID, &gone), ("csi-2", &stays)] {
        let request = pb::NodePublishVolumeRequest {
            volume_context: context(&[]),
            ..publish(id, target)
        };
        world.publish(&request).unwrap();
    }
    world.reboot();
    assert_eq!(world.json(&["volume", "ls"]).len(), 2);
    world.remove_pod("pod-1");
    // It looks when it starts, and every ten minutes.
    world.crash();
    wait_until(
        "the volume of the pod to go",
        Duration::from_secs(30),
        || world.json(&["volume", "ls"]).len() == 1,
    );
    assert_eq!(world.json(&["attachments"]).len(), 1);
    assert!(stays.exists());
}

/// As a kill leaves it between the two steps of a deletion for good.
#[test]
fn root_what_a_pod_left_in_the_trash_is_swept_up() {
    let mut world = World::new();
    let (gone, stays) = (world.target("pod-1"), world.target("pod-2"));
    for (id, target) in [("csi-1", &gone), ("csi-2", &stays)] {
        let request = pb::NodePublishVolumeRequest {
            volume_context: context(&[]),
            ..publish(id, target)
        };
        world.publish(&request).unwrap();
        let key = format!("csi:{}", target.display());
        world.ctl(0, &["detach", &key]);
        let name = format!("{id}.inline");
        world.ctl(0, &["volume", "rm", "--force", &name]);
        world.unpublish(id, target).unwrap();
    }
    assert_eq!(world.json(&["volume", "ls", "--deleted"]).len(), 2);
    world.remove_pod("pod-1");
    world.crash();
    let left = |world: &World| world.json(&["volume", "ls", "--deleted"]);
    wait_until(
        "the volume of the pod to go",
        Duration::from_secs(30),
        || left(&world).len() == 1,
    );
    assert_eq!(left(&world)[0]["name"], "csi-2.inline");
}
