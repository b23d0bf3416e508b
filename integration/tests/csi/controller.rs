//! Creating, deleting, validating and growing volumes.

use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::volume_capability::{AccessType, BlockVolume, MountVolume};
use layerd_proto::csi::v1::{self as pb};
use tonic::Code;

use super::client::{Failed, bytes, capability, create, of_snapshot, of_volume, publish, writer};
use super::world::World;

const MIB: i64 = 1 << 20;

fn delete(world: &mut World, id: &str) -> Result<(), Failed> {
    let request = pb::DeleteVolumeRequest {
        volume_id: id.to_owned(),
        ..pb::DeleteVolumeRequest::default()
    };
    let answer = world.ten(|client| {
        client.run(async |client| client.controller.delete_volume(request.clone()).await)
    });
    answer.map(drop)
}

fn expand(world: &mut World, id: &str, range: Option<pb::CapacityRange>) -> Result<i64, Failed> {
    let request = pb::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: range,
        ..pb::ControllerExpandVolumeRequest::default()
    };
    let answer = world.ten(|client| {
        client.run(async |client| {
            client
                .controller
                .controller_expand_volume(request.clone())
                .await
        })
    });
    answer.map(|answer| {
        assert!(!answer.node_expansion_required);
        answer.capacity_bytes
    })
}

#[test]
fn root_a_volume_is_created_once_by_its_name_and_deleted_once() {
    let mut world = World::new();
    let volume = world.create(&create("pvc-1")).unwrap();
    assert_eq!(volume.capacity_bytes, 8 * MIB);
    assert_eq!(volume.accessible_topology.len(), 1);
    assert_eq!(world.json(&["volume", "ls"]).len(), 1);
    let listed = world.json(&["volume", "inspect", "pvc-1"]).remove(0);
    assert_eq!(listed["options"]["size"], (8 * MIB).to_string());
    delete(&mut world, &volume.volume_id).unwrap();
    for nonsense in ["reallyfakevolumeid", "vol-1-1", "vol-x", &"x".repeat(300)] {
        delete(&mut world, nonsense).unwrap();
    }
    delete(&mut world, "")
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_id");
    let again = world.create(&create("pvc-1")).unwrap();
    assert_ne!(
        again.volume_id, volume.volume_id,
        "a handle is never used again"
    );
    delete(&mut world, &volume.volume_id).unwrap();
    assert_eq!(
        world.json(&["volume", "ls"]).len(),
        1,
        "a late call deletes no other"
    );
}

#[test]
fn root_a_name_with_something_else_is_refused() {
    let mut world = World::new();
    let request = create("pvc-1");
    let volume = world.create(&request).unwrap();
    let with = |range| pb::CreateVolumeRequest {
        capacity_range: range,
        ..request.clone()
    };
    for range in [
        bytes(16 * MIB, 0),
        bytes(0, 4 * MIB),
        bytes(4 * MIB, 6 * MIB),
    ] {
        let refused = world.create(&with(range)).unwrap_err();
        refused.is(Code::AlreadyExists, "capacity_range");
    }
    for range in [
        None,
        bytes(4 * MIB, 0),
        bytes(4 * MIB, 8 * MIB),
        bytes(0, 9 * MIB),
    ] {
        assert_eq!(world.create(&with(range)).unwrap(), volume, "{range:?}");
    }
    let copy = pb::CreateVolumeRequest {
        volume_content_source: of_volume(&volume.volume_id),
        ..request.clone()
    };
    world
        .create(&copy)
        .unwrap_err()
        .is(Code::AlreadyExists, "volume_content_source");
    let other = pb::CreateVolumeRequest {
        parameters: [("uid".to_owned(), "7".to_owned())].into(),
        ..request
    };
    world
        .create(&other)
        .unwrap_err()
        .is(Code::AlreadyExists, "uid");
}

#[test]
fn root_a_request_that_breaks_a_rule_names_field_value_and_rule() {
    let mut world = World::new();
    let rows = ways().into_iter().chain(parameters()).chain(sizes());
    for (request, code, words) in rows {
        let create = world
            .client
            .run(async |client| client.controller.create_volume(request).await);
        create.unwrap_err().is(code, words);
    }
    assert_eq!(world.json(&["volume", "ls"]).len(), 0, "nothing was made");
}

type Row = (pb::CreateVolumeRequest, Code, &'static str);

/// Names, and ways in which a volume is to be used.
fn ways() -> Vec<Row> {
    let mount = |mount: MountVolume| pb::VolumeCapability {
        access_type: Some(AccessType::Mount(mount)),
        ..writer()
    };
    let block = pb::VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        ..writer()
    };
    let fs = mount(MountVolume {
        fs_type: "ext4".to_owned(),
        ..MountVolume::default()
    });
    let flags = mount(MountVolume {
        mount_flags: vec!["noatime".to_owned()],
        ..MountVolume::default()
    });
    let multi = capability(Mode::MultiNodeMultiWriter);
    let used = |ways: Vec<pb::VolumeCapability>, words| {
        let request = pb::CreateVolumeRequest {
            volume_capabilities: ways,
            ..create("pvc-1")
        };
        (request, Code::InvalidArgument, words)
    };
    let named = |name: &str, words| (create(name), Code::InvalidArgument, words);
    vec![
        named("", "name: must not be empty"),
        named(&"n".repeat(129), "129 bytes"),
        named("a\u{1}", "U+0001"),
        used(vec![], "volume_capabilities"),
        used(vec![pb::VolumeCapability::default()], "access_mode"),
        used(vec![writer(), block], "volume_capabilities[1].block"),
        used(vec![fs], "fs_type: \"ext4\""),
        used(vec![flags], "mount_flags[0]: is unknown"),
        used(vec![multi], "MULTI_NODE"),
    ]
}

fn parameters() -> Vec<Row> {
    let parameter = |key: &str, value: &str, words| {
        let request = pb::CreateVolumeRequest {
            parameters: [(key.to_owned(), value.to_owned())].into(),
            ..create("pvc-1")
        };
        (request, Code::InvalidArgument, words)
    };
    let mutable = pb::CreateVolumeRequest {
        mutable_parameters: [("fast".to_owned(), "yes".to_owned())].into(),
        ..create("pvc-1")
    };
    vec![
        parameter("speed", "9", "parameters[\"speed\"]"),
        parameter("uid", "me", "\"me\" is not a user id"),
        parameter("gid", "4294967295", "\"4294967295\" is not a group id"),
        parameter("csi.storage.k8s.io/x", &"v".repeat(4096), "parameters"),
        (mutable, Code::InvalidArgument, "mutable_parameters"),
    ]
}

fn sizes() -> Vec<Row> {
    let sized = |range, code, words| {
        let request = pb::CreateVolumeRequest {
            capacity_range: range,
            ..create("pvc-1")
        };
        (request, code, words)
    };
    vec![
        sized(bytes(-1, 0), Code::InvalidArgument, "required_bytes: is -1"),
        sized(
            bytes(9, 8),
            Code::OutOfRange,
            "9, which is above limit_bytes, 8",
        ),
        sized(bytes(1, 2), Code::OutOfRange, "has at least 4194304"),
        sized(
            bytes(i64::MAX, 0),
            Code::ResourceExhausted,
            "are free on the disk",
        ),
    ]
}

#[test]
fn root_long_and_odd_names_are_names() {
    let mut world = World::new();
    let long = "n".repeat(128);
    let mut handles = std::collections::BTreeSet::new();
    for name in [&long[..], "x", "with space/and ü", "pvc.snapshot"] {
        let volume = world.create(&create(name)).unwrap();
        assert!(volume.volume_id.len() <= 128);
        assert!(handles.insert(volume.volume_id), "{name}");
    }
}

#[test]
fn root_a_volume_is_created_where_it_may_be() {
    let mut world = World::new();
    let place = |node: &str| pb::Topology {
        segments: [("topology.csi.layerd.dev/node".to_owned(), node.to_owned())].into(),
    };
    let at = |name: &str, nodes: &[&str]| pb::CreateVolumeRequest {
        accessibility_requirements: Some(pb::TopologyRequirement {
            requisite: nodes.iter().map(|node| place(node)).collect(),
            preferred: Vec::new(),
        }),
        ..create(name)
    };
    let here = world.create(&at("here", &["node-2", "node-1"])).unwrap();
    assert_eq!(here.accessible_topology, [place("node-1")]);
    let elsewhere = world.create(&at("elsewhere", &["node-2"])).unwrap_err();
    elsewhere.is(Code::ResourceExhausted, "topologies");
    let least = pb::CreateVolumeRequest {
        capacity_range: bytes(1, 0),
        ..create("least")
    };
    assert_eq!(world.create(&least).unwrap().capacity_bytes, 4 << 20);
    let capacity = |topology, ways| pb::GetCapacityRequest {
        accessible_topology: topology,
        volume_capabilities: ways,
        ..pb::GetCapacityRequest::default()
    };
    let mut ask = |request: pb::GetCapacityRequest| {
        let answer = world
            .client
            .run(async |client| client.controller.get_capacity(request).await);
        answer.unwrap()
    };
    let free = ask(capacity(None, vec![]));
    assert!(free.available_capacity > 0);
    assert_eq!(free.maximum_volume_size, Some(free.available_capacity));
    assert_eq!(free.minimum_volume_size, Some(4 << 20));
    assert!(ask(capacity(Some(place("node-1")), vec![writer()])).available_capacity > 0);
    assert_eq!(
        ask(capacity(Some(place("node-2")), vec![])).available_capacity,
        0
    );
    let multi = vec![capability(Mode::MultiNodeReaderOnly)];
    assert_eq!(ask(capacity(None, multi)).available_capacity, 0);
}

#[test]
fn root_capabilities_are_confirmed_or_not() {
    let mut world = World::new();
    let volume = world.create(&create("pvc-1")).unwrap();
    let request =
        |id: &str, ways: Vec<pb::VolumeCapability>| pb::ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: ways,
            ..pb::ValidateVolumeCapabilitiesRequest::default()
        };
    let mut ask = |request: pb::ValidateVolumeCapabilitiesRequest| {
        world.ten(|client| {
            client.run(async |client| {
                client
                    .controller
                    .validate_volume_capabilities(request.clone())
                    .await
            })
        })
    };
    let id = &volume.volume_id;
    let confirmed = ask(request(id, vec![writer()])).unwrap().confirmed.unwrap();
    assert_eq!(confirmed.volume_capabilities, [writer()]);
    let not = ask(request(id, vec![capability(Mode::MultiNodeMultiWriter)])).unwrap();
    assert_eq!(not.confirmed, None);
    assert!(not.message.contains("MULTI_NODE_MULTI_WRITER"), "{not:?}");
    ask(request("", vec![writer()]))
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_id");
    ask(request(id, vec![]))
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_capabilities");
    ask(request("some-volume-id", vec![writer()]))
        .unwrap_err()
        .is(Code::NotFound, "some-volume-id");
}

#[test]
fn root_volumes_grow_and_do_not_shrink() {
    let mut world = World::new();
    let id = world.create(&large("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    assert_eq!(
        expand(&mut world, &id, bytes(400 * MIB, 0)),
        Ok(400 * MIB),
        "online"
    );
    assert_eq!(
        expand(&mut world, &id, bytes(360 * MIB, 0)),
        Ok(400 * MIB),
        "it is large enough"
    );
    let too_large = pb::ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: bytes(i64::MAX, 0),
        ..pb::ControllerExpandVolumeRequest::default()
    };
    let too_large = world
        .client
        .run(async |client| client.controller.controller_expand_volume(too_large).await);
    too_large
        .unwrap_err()
        .is(Code::OutOfRange, "free on the disk");
    expand(&mut world, &id, bytes(0, 4 * MIB))
        .unwrap_err()
        .is(Code::OutOfRange, "does not shrink");
    expand(&mut world, &id, None)
        .unwrap_err()
        .is(Code::InvalidArgument, "capacity_range");
    expand(&mut world, "", bytes(1, 0))
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_id");
    expand(&mut world, "vol-1-1", bytes(1, 0))
        .unwrap_err()
        .is(Code::NotFound, "vol-1-1");
}

#[test]
fn root_volumes_grow_where_they_are_used() {
    let mut world = World::new();
    let id = world.create(&large("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    let node = |id: &str, path: &str| pb::NodeExpandVolumeRequest {
        volume_id: id.to_owned(),
        volume_path: path.to_owned(),
        capacity_range: bytes(480 * MIB, 0),
        ..pb::NodeExpandVolumeRequest::default()
    };
    let mut ask = |request: pb::NodeExpandVolumeRequest| {
        world.ten(|client| {
            client.run(async |client| client.node.node_expand_volume(request.clone()).await)
        })
    };
    let path = target.to_str().unwrap();
    assert_eq!(ask(node(&id, path)).unwrap().capacity_bytes, 480 * MIB);
    ask(node("", path))
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_id");
    ask(node(&id, ""))
        .unwrap_err()
        .is(Code::InvalidArgument, "volume_path");
    ask(node("nothing", "some/path"))
        .unwrap_err()
        .is(Code::NotFound, "nothing");
    ask(node(&id, "some/path"))
        .unwrap_err()
        .is(Code::NotFound, "some/path");
    let shown = world.json(&["volume", "inspect", "pvc-1"]).remove(0);
    assert_eq!(shown["options"]["size"], (480 * MIB).to_string());
}

/// A volume that grows while it is used, whatever capabilities this test has.
fn large(name: &str) -> pb::CreateVolumeRequest {
    pb::CreateVolumeRequest {
        capacity_range: bytes(320 * MIB, 0),
        ..create(name)
    }
}

#[test]
fn root_sources_that_are_missing_or_larger_are_refused() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let copy = |name: &str, source, range| pb::CreateVolumeRequest {
        volume_content_source: source,
        capacity_range: range,
        ..create(name)
    };
    for (request, code, words) in [
        (
            copy("a", of_volume("vol-9-9"), None),
            Code::NotFound,
            "volume_id",
        ),
        (
            copy("a", of_snapshot("snap-9-9"), None),
            Code::NotFound,
            "snapshot_id",
        ),
        (
            copy("a", of_snapshot(&id), None),
            Code::NotFound,
            "snapshot_id",
        ),
        (
            copy("a", of_volume(""), None),
            Code::InvalidArgument,
            "volume_content_source",
        ),
        (
            copy("a", of_volume(&id), bytes(MIB, 0)),
            Code::OutOfRange,
            "the source has 8388608",
        ),
    ] {
        world.create(&request).unwrap_err().is(code, words);
    }
    let larger = world
        .create(&copy("b", of_volume(&id), bytes(16 * MIB, 0)))
        .unwrap();
    assert_eq!(larger.capacity_bytes, 16 * MIB);
    let same = world.create(&copy("c", of_volume(&id), None)).unwrap();
    assert_eq!(same.capacity_bytes, 8 * MIB);
    assert_eq!(same.content_source, of_volume(&id));
}
