//! Snapshots, restores and clones.

use std::fs;

use layerd_integration::Transcript;
use layerd_proto::csi::v1 as pb;
use tonic::Code;

use super::client::{Client, Failed, Services, create, of_snapshot, of_volume, publish};
use super::world::World;

fn take(world: &mut World, source: &str, name: &str) -> Result<pb::Snapshot, Failed> {
    let request = pb::CreateSnapshotRequest {
        source_volume_id: source.to_owned(),
        name: name.to_owned(),
        ..pb::CreateSnapshotRequest::default()
    };
    let answer = world.ten(|client| {
        client.run(async |client| client.controller.create_snapshot(request.clone()).await)
    });
    answer.map(|answer| answer.snapshot.unwrap())
}

fn delete(world: &mut World, id: &str) -> Result<(), Failed> {
    let request = pb::DeleteSnapshotRequest {
        snapshot_id: id.to_owned(),
        ..pb::DeleteSnapshotRequest::default()
    };
    let answer = world.ten(|client| {
        client.run(async |client| client.controller.delete_snapshot(request.clone()).await)
    });
    answer.map(drop)
}

fn list(client: &mut Client, request: pb::ListSnapshotsRequest) -> Result<Vec<String>, Failed> {
    let answer = client.run(async |client| client.controller.list_snapshots(request).await);
    answer.map(|answer| {
        let all = answer
            .entries
            .into_iter()
            .map(|entry| entry.snapshot.unwrap());
        all.map(|snapshot| snapshot.snapshot_id).collect()
    })
}

#[test]
fn root_snapshots_are_restored_and_do_not_depend_on_what_they_are_of() {
    let mut world = World::new();
    let _transcript = Transcript::begin("csi-snapshots", world.path());
    let source = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&source, &target)).unwrap();
    fs::write(target.join("file"), "old").unwrap();
    let snapshot = take(&mut world, &source, "pvc-1").unwrap();
    assert_eq!(
        (snapshot.source_volume_id.as_str(), snapshot.size_bytes),
        (&source[..], 8 << 20)
    );
    assert!(snapshot.ready_to_use && snapshot.creation_time.is_some());
    fs::write(target.join("file"), "new").unwrap();
    world.unpublish(&source, &target).unwrap();
    let copies = [
        (of_snapshot(&snapshot.snapshot_id), "old"),
        (of_volume(&source), "new"),
    ];
    for (from, content) in copies {
        let copy = world
            .create(&pb::CreateVolumeRequest {
                volume_content_source: from.clone(),
                ..create(content)
            })
            .unwrap();
        assert_eq!(copy.content_source, from);
        let target = world.target(content);
        world.publish(&publish(&copy.volume_id, &target)).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), content);
        fs::write(target.join("file"), "written").unwrap();
        world.unpublish(&copy.volume_id, &target).unwrap();
    }
    let deleted = pb::DeleteVolumeRequest {
        volume_id: source.clone(),
        ..pb::DeleteVolumeRequest::default()
    };
    world
        .client
        .run(async |client| client.controller.delete_volume(deleted).await)
        .unwrap();
    let listed = list(&mut world.client, pb::ListSnapshotsRequest::default()).unwrap();
    assert_eq!(
        listed,
        std::slice::from_ref(&snapshot.snapshot_id),
        "the source is gone, it is not"
    );
    delete(&mut world, &snapshot.snapshot_id).unwrap();
    let listed = list(&mut world.client, pb::ListSnapshotsRequest::default()).unwrap();
    assert_eq!(listed, Vec::<String>::new());
}

#[test]
fn root_snapshots_are_made_once_by_name_and_source() {
    let mut world = World::new();
    let [one, two] = ["one", "two"].map(|name| world.create(&create(name)).unwrap().volume_id);
    let name = "s".repeat(128);
    take(&mut world, &one, &name).unwrap();
    take(&mut world, &two, &name)
        .unwrap_err()
        .is(Code::AlreadyExists, "source_volume_id");
    take(&mut world, "", "a")
        .unwrap_err()
        .is(Code::InvalidArgument, "source_volume_id");
    take(&mut world, &one, "")
        .unwrap_err()
        .is(Code::InvalidArgument, "name");
    take(&mut world, "vol-9-9", "a")
        .unwrap_err()
        .is(Code::NotFound, "vol-9-9");
    delete(&mut world, "")
        .unwrap_err()
        .is(Code::InvalidArgument, "snapshot_id");
    for nonsense in ["reallyfakesnapshotid", "snap-9-9", &one] {
        delete(&mut world, nonsense).unwrap();
    }
    assert_eq!(
        world.json(&["volume", "ls"]).len(),
        3,
        "a volume is no snapshot"
    );
}

#[test]
fn root_snapshots_are_listed_by_id_by_source_and_in_pages() {
    let mut world = World::new();
    let [one, two] = ["one", "two"].map(|name| world.create(&create(name)).unwrap().volume_id);
    let all: Vec<_> = [("a", &one), ("b", &one), ("c", &two)]
        .map(|(name, source)| take(&mut world, source, name).unwrap().snapshot_id)
        .into();
    let any = pb::ListSnapshotsRequest::default();
    let by_source = |source: &str| pb::ListSnapshotsRequest {
        source_volume_id: source.to_owned(),
        ..any.clone()
    };
    let by_id = |id: &str| pb::ListSnapshotsRequest {
        snapshot_id: id.to_owned(),
        ..any.clone()
    };
    for (request, wanted) in [
        (any.clone(), &all[..]),
        (by_source(&one), &all[..2]),
        (by_source("none-exist-id"), &[]),
        (by_id(&all[2]), &all[2..]),
        (by_id("none-exist-id"), &[]),
    ] {
        let found = world.ten(|client| list(client, request.clone()));
        assert_eq!(found.unwrap(), wanted);
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListSnapshotsRequest {
            max_entries: 1,
            starting_token: token.clone(),
            ..any.clone()
        };
        let ask = async |client: &mut Services| client.controller.list_snapshots(request).await;
        let page = world.client.run(ask).unwrap();
        seen.extend(
            page.entries
                .into_iter()
                .map(|one| one.snapshot.unwrap().snapshot_id),
        );
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, all);
    let bogus = pb::ListSnapshotsRequest {
        starting_token: "invalid".to_owned(),
        ..any
    };
    let failed = world.ten(|client| list(client, bogus.clone()));
    failed.unwrap_err().is(Code::Aborted, "invalid");
}
