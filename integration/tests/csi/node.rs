//! Publishing and unpublishing, in kubelet's order and out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use layerd_integration::Transcript;
use layerd_integration::process::output;
use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use layerd_proto::csi::v1::volume_capability::{AccessType, BlockVolume, MountVolume};
use layerd_proto::csi::v1::{self as pb};
use nix::mount::{MntFlags, umount2};
use tonic::Code;

use super::client::{capability, create, publish, writer};
use super::world::World;

fn block() -> pb::VolumeCapability {
    pb::VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        ..writer()
    }
}

fn group(gid: &str) -> pb::VolumeCapability {
    pb::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            volume_mount_group: gid.to_owned(),
            ..MountVolume::default()
        })),
        ..writer()
    }
}

#[test]
fn root_a_volume_is_at_its_path_once_and_then_neither_it_nor_the_path_is() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    let request = publish(&id, &target);
    world.publish(&request).unwrap();
    assert_eq!(world.mounts(&target), 1);
    fs::write(target.join("file"), "of the pod").unwrap();
    assert_eq!(world.json(&["attachments"]).len(), 1);
    world.unpublish(&id, &target).unwrap();
    assert_eq!((world.mounts(&target), target.exists()), (0, false));
    assert_eq!(world.json(&["attachments"]).len(), 0);
    // kubelet removes what it made; a late call finds nothing at all.
    world.remove_pod("pod-1");
    world.unpublish(&id, &target).unwrap();
    let target = world.target("pod-2");
    world.publish(&publish(&id, &target)).unwrap();
    assert_eq!(
        fs::read_to_string(target.join("file")).unwrap(),
        "of the pod"
    );
}

#[test]
fn root_a_request_that_breaks_a_rule_names_it_and_makes_nothing() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    let good = publish(&id, &target);
    let with = |capability| pb::NodePublishVolumeRequest {
        volume_capability: capability,
        ..good.clone()
    };
    let at = |id: &str, target: &str| pb::NodePublishVolumeRequest {
        target_path: target.to_owned(),
        ..publish(id, Path::new("/"))
    };
    let (block, staff) = (block(), group("staff"));
    let path = target.to_str().unwrap();
    let away = world.path().join("kubelet/no/pod/mount");
    let data = world.path().join("root/target");
    let link = world.path().join("kubelet/link");
    symlink(target.parent().unwrap(), &link).unwrap();
    let linked = link.join("mount");
    for (request, code, words) in [
        (at("", path), Code::InvalidArgument, "volume_id"),
        (at(&id, ""), Code::InvalidArgument, "target_path"),
        (with(None), Code::InvalidArgument, "volume_capability"),
        (
            with(Some(staff)),
            Code::InvalidArgument,
            "\"staff\" is not a group id",
        ),
        (with(Some(block)), Code::FailedPrecondition, "block"),
        (
            with(Some(capability(Mode::MultiNodeMultiWriter))),
            Code::FailedPrecondition,
            "MULTI_NODE",
        ),
        (at("vol-9-9", "relative"), Code::NotFound, "vol-9-9"),
        (
            at(&id, "relative"),
            Code::InvalidArgument,
            "\"relative\" is not an absolute path",
        ),
        (
            at(&id, away.to_str().unwrap()),
            Code::InvalidArgument,
            "is the orchestrator's to make",
        ),
        (
            at(&id, data.to_str().unwrap()),
            Code::InvalidArgument,
            "layerd's data directory",
        ),
        (
            at(&id, linked.to_str().unwrap()),
            Code::InvalidArgument,
            "link",
        ),
    ] {
        world.publish(&request).unwrap_err().is(code, words);
    }
    assert!(!target.exists() && !away.parent().unwrap().exists() && !data.exists());
    assert_eq!(world.json(&["attachments"]).len(), 0);
}

#[test]
fn root_a_path_that_is_too_long_is_the_caller_s_fault() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    let path = target.to_str().unwrap();
    for (path, words) in [
        (format!("{path}-{}", "n".repeat(300)), "File name too long"),
        (format!("/{}", "n/".repeat(3000)), "of at most 4095 bytes"),
    ] {
        let published = world.publish(&publish(&id, Path::new(&path)));
        published.unwrap_err().is(Code::InvalidArgument, words);
        let unpublished = world.unpublish(&id, Path::new(&path));
        unpublished.unwrap_err().is(Code::InvalidArgument, words);
    }
    assert_eq!(world.json(&["attachments"]).len(), 0);
}

#[test]
fn root_unpublishing_needs_a_volume_and_a_path() {
    let mut world = World::new();
    for (id, target, words) in [("", "/x", "volume_id"), ("vol-1-1", "", "target_path")] {
        let request = pb::NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: target.to_owned(),
        };
        let failed = world
            .client
            .run(async |client| client.node.node_unpublish_volume(request).await);
        failed.unwrap_err().is(Code::InvalidArgument, words);
    }
}

#[test]
fn root_read_only_is_read_only_in_the_mount_table() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let ro = pb::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            mount_flags: vec!["ro".to_owned()],
            ..MountVolume::default()
        })),
        ..writer()
    };
    for (pod, readonly, way) in [
        ("flag", true, writer()),
        ("mode", false, capability(Mode::SingleNodeReaderOnly)),
        ("option", false, ro),
    ] {
        let target = world.target(pod);
        let request = pb::NodePublishVolumeRequest {
            readonly,
            volume_capability: Some(way),
            ..publish(&id, &target)
        };
        world.publish(&request).unwrap();
        let options = world.options(&target);
        assert!(
            options.split(',').any(|word| word == "ro"),
            "{pod}: {options}"
        );
        fs::write(target.join("file"), "x").unwrap_err();
    }
    let target = world.target("writer");
    world.publish(&publish(&id, &target)).unwrap();
    fs::write(target.join("file"), "x").unwrap();
}

#[test]
fn root_the_same_path_with_something_else_is_refused_and_stays_as_it_is() {
    let mut world = World::new();
    let [one, two] = ["one", "two"].map(|name| world.create(&create(name)).unwrap().volume_id);
    let target = world.target("pod-1");
    let good = publish(&one, &target);
    world.publish(&good).unwrap();
    let read_only = pb::NodePublishVolumeRequest {
        readonly: true,
        ..good.clone()
    };
    let mode = pb::NodePublishVolumeRequest {
        volume_capability: Some(capability(Mode::SingleNodeMultiWriter)),
        ..good.clone()
    };
    let single = pb::NodePublishVolumeRequest {
        volume_capability: Some(capability(Mode::SingleNodeSingleWriter)),
        ..good.clone()
    };
    for request in [read_only, mode, single, publish(&two, &target)] {
        world
            .publish(&request)
            .unwrap_err()
            .is(Code::AlreadyExists, "csi:");
        assert_eq!(world.mounts(&target), 1);
        fs::write(target.join("file"), "x").unwrap();
    }
    let other = world.unpublish(&two, &target).unwrap_err();
    other.is(Code::FailedPrecondition, "has another volume");
    world.publish(&good).unwrap();
}

#[test]
fn root_a_single_writer_has_one_path_and_others_have_many() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let (one, two) = (world.target("pod-1"), world.target("pod-2"));
    let as_mode = |mode, target: &Path| pb::NodePublishVolumeRequest {
        volume_capability: Some(capability(mode)),
        ..publish(&id, target)
    };
    world
        .publish(&as_mode(Mode::SingleNodeSingleWriter, &one))
        .unwrap();
    for mode in [Mode::SingleNodeSingleWriter, Mode::SingleNodeMultiWriter] {
        let second = world.publish(&as_mode(mode, &two)).unwrap_err();
        second.is(Code::FailedPrecondition, "as its only attachment");
        assert!(!two.exists());
    }
    world.unpublish(&id, &one).unwrap();
    for target in [&one, &two] {
        world
            .publish(&as_mode(Mode::SingleNodeMultiWriter, target))
            .unwrap();
    }
    fs::write(one.join("file"), "x").unwrap();
    assert!(two.join("file").exists());
}

#[test]
fn root_a_reboot_takes_the_mounts_and_leaves_the_records() {
    let mut world = World::new();
    let _transcript = Transcript::begin("csi-node", world.path());
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let targets = ["again", "never", "gone"].map(|pod| world.target(pod));
    for target in &targets {
        world.publish(&publish(&id, target)).unwrap();
    }
    fs::write(targets[0].join("file"), "x").unwrap();
    world.reboot();
    assert_eq!(world.mounts(&targets[0]), 0);
    let deleted = pb::DeleteVolumeRequest {
        volume_id: id.clone(),
        ..pb::DeleteVolumeRequest::default()
    };
    let refused = world
        .client
        .run(async |client| client.controller.delete_volume(deleted).await);
    refused
        .unwrap_err()
        .is(Code::FailedPrecondition, "in use by");
    // The pod goes on: kubelet publishes again.
    world.publish(&publish(&id, &targets[0])).unwrap();
    assert!(targets[0].join("file").exists());
    // It was deleted meanwhile: kubelet only unpublishes.
    world.unpublish(&id, &targets[1]).unwrap();
    assert!(!targets[1].exists());
    // Its directory is gone, too.
    world.remove_pod("gone");
    world.unpublish(&id, &targets[2]).unwrap();
    assert_eq!(world.json(&["attachments"]).len(), 1);
    world.reboot();
    world.unpublish(&id, &targets[0]).unwrap();
    assert_eq!(world.json(&["attachments"]).len(), 0);
}

#[test]
fn root_what_is_mounted_without_a_record_goes_if_it_is_a_volume() {
    let mut world = World::new();
    // Without a size it is a folder, which this test can bind wherever layerd mounts.
    let request = pb::CreateVolumeRequest {
        capacity_range: None,
        ..create("pvc-1")
    };
    let id = world.create(&request).unwrap().volume_id;
    let target = world.target("pod-1");
    let path = world.json(&["volume", "inspect", "pvc-1"]).remove(0);
    fs::create_dir(&target).unwrap();
    let bind = |source: &Path| {
        output(Command::new("mount").arg("--bind").args([source, &target]));
    };
    bind(Path::new(path["path"].as_str().unwrap()));
    world.unpublish(&id, &target).unwrap();
    assert_eq!((world.mounts(&target), target.exists()), (0, false));
    fs::create_dir(&target).unwrap();
    bind(&world.path().join("kubelet/pods"));
    let refused = world.unpublish(&id, &target).unwrap_err();
    refused.is(Code::FailedPrecondition, "mount point");
    assert_eq!(world.mounts(&target), 1);
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    fs::write(target.join("file"), "another's").unwrap();
    let refused = world.unpublish(&id, &target).unwrap_err();
    refused.is(Code::FailedPrecondition, "not an empty directory");
    assert!(target.join("file").exists());
}

#[test]
fn root_what_layerd_mounted_for_itself_is_not_unpublished() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let volume = world.json(&["volume", "inspect", "pvc-1"]).remove(0);
    let data = Path::new(volume["path"].as_str().unwrap()).to_owned();
    let (root, published) = (world.path().join("root"), world.target("pod-1"));
    let inside = [&data, &root.join("mnt"), &root.join("volumes/missing")];
    assert!(world.is_mounted_for_layerd(&data));
    for id in [id.as_str(), "vol-9-9"] {
        for path in inside {
            let refused = world.unpublish(id, path).unwrap_err();
            refused.is(Code::InvalidArgument, "layerd's data directory");
            let refused = world.publish(&publish(id, path)).unwrap_err();
            assert!(
                matches!(refused.code, Code::InvalidArgument | Code::NotFound),
                "{refused:?}"
            );
        }
        assert!(world.is_mounted_for_layerd(&data));
    }
    world.publish(&publish(&id, &published)).unwrap();
    // A path in a volume that is published is the pods'.
    let other = world.create(&create("pvc-2")).unwrap().volume_id;
    let inner = published.join("inner");
    world.publish(&publish(&other, &inner)).unwrap();
    world.unpublish(&other, &inner).unwrap();
    world.unpublish(&id, &published).unwrap();
}

#[test]
fn root_a_mount_that_was_taken_away_is_made_again() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    world.publish(&publish(&id, &target)).unwrap();
    assert_eq!(world.mounts(&target), 1);
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    world.unpublish(&id, &target).unwrap();
    assert!(!target.exists());
}

#[test]
fn root_a_group_owns_the_content_and_what_is_made_in_it() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    let request = pb::NodePublishVolumeRequest {
        volume_capability: Some(group("4711")),
        ..publish(&id, &target)
    };
    world.publish(&request).unwrap();
    fs::write(target.join("file"), "x").unwrap();
    let of = |path: &Path| fs::metadata(path).unwrap();
    assert_eq!(
        (of(&target).gid(), of(&target).mode() & 0o7777),
        (4711, 0o2775)
    );
    assert_eq!(of(&target.join("file")).gid(), 4711);
    // The top has the group: nothing else is looked at.
    std::os::unix::fs::chown(target.join("file"), None, Some(0)).unwrap();
    world.publish(&request).unwrap();
    assert_eq!(of(&target.join("file")).gid(), 0);
    let none = pb::NodePublishVolumeRequest {
        volume_capability: Some(group("4294967295")),
        ..request
    };
    let refused = world.publish(&none).unwrap_err();
    refused.is(Code::InvalidArgument, "\"4294967295\" is not a group id");
}
