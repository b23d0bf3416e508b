//! One set of volumes behind all APIs.

use std::fs;

use layerd_integration::Plugin;
use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::{self as pb};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Code;

use super::client::{Services, capability, create, publish};
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
    let refused = world.ctl(5, &["volume", "rm", "pvc-1"]);
    assert!(refused.contains("created through CSI"), "{refused}");
    let refused = world.ctl(5, &["volume", "rm", "--force", "pvc-1"]);
    assert!(refused.contains("in use"), "{refused}");
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

/// Ways to delete a volume of a name, of which CSI's takes the handle. None holds it.
const DOORS: [&str; 6] = [
    "rm",
    "rm --force",
    "prune --all",
    "docker",
    "csi volume",
    "csi snapshot",
];

/// Deletes `name` through a door; answers why not.
fn through(world: &mut World, plugin: &Plugin, door: &str, name: &str, id: &str) -> String {
    let rm = |more: &[&str], world: &World| world.try_ctl(&[&["volume", "rm"], more].concat());
    let (volume_id, snapshot_id) = (id.to_owned(), id.to_owned());
    match door {
        "rm" => rm(&[name], world),
        "rm --force" => rm(&["--force", name], world),
        "prune --all" => world.try_ctl(&["volume", "prune", "--all", "--force"]),
        "docker" => {
            let answer = plugin.call("Remove", &json!({ "Name": name }));
            answer.error().to_owned()
        }
        "csi volume" => {
            let call = async |client: &mut Services| {
                let request = delete(&volume_id);
                client.controller.delete_volume(request).await
            };
            world
                .client
                .run(call)
                .map_or_else(|failed| failed.message, |_| String::new())
        }
        _ => {
            let request = pb::DeleteSnapshotRequest {
                snapshot_id,
                ..pb::DeleteSnapshotRequest::default()
            };
            let call =
                async |client: &mut Services| client.controller.delete_snapshot(request).await;
            world
                .client
                .run(call)
                .map_or_else(|failed| failed.message, |_| String::new())
        }
    }
}

/// Makes a volume of an owner; answers its name and CSI's handle.
fn owned_by(world: &mut World, plugin: &Plugin, owner: &str) -> (&'static str, String) {
    let handle = |world: &World, name: &str, kind: &str| {
        let record = world.json(&["volume", "inspect", name]).remove(0);
        let created: Timestamp = record["created_at"].as_str().unwrap().parse().unwrap();
        let created = created.seconds * 1_000_000_000 + i64::from(created.nanos);
        let id = u64::from_str_radix(record["id"].as_str().unwrap(), 36).unwrap();
        format!("{kind}-{id}-{created:x}")
    };
    match owner {
        "docker" => {
            plugin.ok("Create", &json!({ "Name": "data" }));
            ("data", handle(world, "data", "vol"))
        }
        "layerctl" => {
            world.ctl(0, &["volume", "create", "data"]);
            ("data", handle(world, "data", "vol"))
        }
        "csi volume" => ("data", world.create(&create("data")).unwrap().volume_id),
        "csi snapshot" => {
            let id = world.create(&create("source")).unwrap().volume_id;
            let request = pb::CreateSnapshotRequest {
                name: "data".to_owned(),
                source_volume_id: id,
                ..pb::CreateSnapshotRequest::default()
            };
            let call =
                async |client: &mut Services| client.controller.create_snapshot(request).await;
            let made = world.client.run(call).unwrap().snapshot.unwrap();
            ("data.snapshot", made.snapshot_id)
        }
        _ => unreachable!(),
    }
}

/// Between two pods nothing holds a volume of an orchestrator, and a PersistentVolume that was written by hand
/// may name a volume of Docker's.
#[test]
fn root_no_door_deletes_what_another_one_owns() {
    const REFUSED: &str = "created through CSI";
    const KEPT: &str = "";
    for (owner, refusals) in [
        // In the order of the doors: None deletes, an empty text leaves it and says nothing.
        (
            "docker",
            [None, None, None, None, Some(REFUSED), Some(KEPT)],
        ),
        (
            "layerctl",
            [None, None, None, None, Some(REFUSED), Some(KEPT)],
        ),
        (
            "csi volume",
            [
                Some(REFUSED),
                None,
                Some(KEPT),
                Some(REFUSED),
                None,
                Some(KEPT),
            ],
        ),
        (
            "csi snapshot",
            [
                Some(REFUSED),
                None,
                Some(KEPT),
                Some(REFUSED),
                Some(KEPT),
                None,
            ],
        ),
    ] {
        let (mut world, plugin) = World::with_plugin();
        let mut owned = None;
        for (door, refusal) in DOORS.into_iter().zip(refusals) {
            // One that was not deleted goes to the next door.
            let (name, id) = owned.unwrap_or_else(|| owned_by(&mut world, &plugin, owner));
            let said = through(&mut world, &plugin, door, name, &id);
            let is_there = plugin.names().iter().any(|one| one == name);
            assert_eq!(is_there, refusal.is_some(), "{owner} by {door}: {said}");
            assert!(
                said.contains(refusal.unwrap_or_default()),
                "{owner} by {door}: {said}"
            );
            owned = is_there.then_some((name, id));
        }
    }
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

/// CSI knows its volumes again by labels: one that another client could write would be taken for the volume
/// or snapshot of a claim.
#[test]
fn root_labels_of_csi_are_written_by_csi_alone() {
    let mut world = World::new();
    let (kind, name) = (
        "csi.layerd.dev/kind=volume",
        "csi.layerd.dev/name=of-a-claim",
    );
    let mount = format!(
        "type=volume,src=forged,dst=/data,on-missing=create,volume-label={kind},volume-label={name}"
    );
    let calls: [&[&str]; 3] = [
        &["volume", "create", "forged", "--label", kind],
        &["volume", "update", "plain", "--label-add", name],
        &["attach", "--owner", "container:web", "--mount", &mount],
    ];
    world.ctl(0, &["volume", "create", "plain"]);
    for call in calls {
        let refused = world.ctl(6, call);
        assert!(refused.contains("is layerd's to write"), "{refused}");
    }
    assert_eq!(world.json(&["volume", "ls"]).len(), 1);
    let id = world.create(&create("of-a-claim")).unwrap().volume_id;
    let own = world.json(&["volume", "inspect", "of-a-claim"]).remove(0);
    assert_eq!(own["labels"]["csi.layerd.dev/name"], "of-a-claim");
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
}
