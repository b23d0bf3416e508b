//! Usage and condition of volumes.

use std::fs;
use std::path::Path;

use layerd_proto::csi::v1::volume_usage::Unit;
use layerd_proto::csi::v1::{self as pb};
use nix::mount::{MntFlags, umount2};
use tonic::Code;

use super::client::{Client, Failed, create, publish};
use super::world::World;

fn ask(
    client: &mut Client,
    id: &str,
    path: &str,
) -> Result<pb::NodeGetVolumeStatsResponse, Failed> {
    let request = pb::NodeGetVolumeStatsRequest {
        volume_id: id.to_owned(),
        volume_path: path.to_owned(),
        ..pb::NodeGetVolumeStatsRequest::default()
    };
    client.run(async |client| client.node.node_get_volume_stats(request).await)
}

fn of(stats: &pb::NodeGetVolumeStatsResponse, unit: Unit) -> (i64, i64, i64) {
    let all: Vec<_> = stats
        .usage
        .iter()
        .filter(|usage| usage.unit() == unit)
        .collect();
    assert_eq!(all.len(), 1, "{stats:?}");
    (all[0].used, all[0].available, all[0].total)
}

#[test]
fn root_stats_are_of_the_volume_and_not_of_the_disk() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(target.join(name), vec![1; 1 << 20]).unwrap();
    }
    fs::File::open(&target).unwrap().sync_all().unwrap();
    nix::unistd::sync();
    let path = target.to_str().unwrap();
    let stats = ask(&mut world.client, &id, path).unwrap();
    let (used, available, total) = of(&stats, Unit::Bytes);
    assert!((3 << 20..4 << 20).contains(&used), "{used}");
    // Its file system needs a part of what was asked for.
    assert!((6 << 20..8 << 20).contains(&total), "{total}");
    assert_eq!(available, total - used);
    let (used, available, total) = of(&stats, Unit::Inodes);
    // Those of three files, and the ten of ext4 itself.
    assert_eq!(used, 13);
    assert!(available >= 0 && total >= 0);
    let condition = stats.volume_condition.unwrap();
    assert!(!condition.abnormal, "{condition:?}");
    world
        .ten(|client| ask(client, &id, path).map(|stats| of(&stats, Unit::Bytes).0))
        .unwrap();
}

#[test]
fn root_existence_comes_before_the_path() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    let path = target.to_str().unwrap();
    for (id, path, code, words) in [
        ("", path, Code::InvalidArgument, "volume_id"),
        (&id[..], "", Code::InvalidArgument, "volume_path"),
        ("nothing", "some/path", Code::NotFound, "nothing"),
        (&id, "some/path", Code::NotFound, "some/path"),
        (&id, "/", Code::NotFound, "is not published at"),
    ] {
        let failed = world.ten(|client| ask(client, id, path)).unwrap_err();
        failed.is(code, words);
    }
}

#[test]
fn root_a_volume_that_is_not_in_order_says_why() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    let path = target.to_str().unwrap();
    fs::write(target.join("large"), vec![1; 9 << 20]).unwrap_err();
    umount2(Path::new(path), MntFlags::UMOUNT_NOFOLLOW).unwrap();
    let condition = world.ten(|client| ask(client, &id, path).map(|stats| stats.volume_condition));
    is_abnormal(condition.unwrap(), "not mounted there");
    let request = pb::ControllerGetVolumeRequest {
        volume_id: id.clone(),
    };
    let got = world.ten(|client| {
        client.run(async |client| {
            client
                .controller
                .controller_get_volume(request.clone())
                .await
        })
    });
    is_abnormal(
        got.unwrap().status.unwrap().volume_condition,
        "not mounted there",
    );
    let list = world.client.run(async |client| {
        client
            .controller
            .list_volumes(pb::ListVolumesRequest::default())
            .await
    });
    let status = list.unwrap().entries.remove(0).status.unwrap();
    is_abnormal(status.volume_condition, "not mounted there");
    let missing = pb::ControllerGetVolumeRequest {
        volume_id: "vol-9-9".to_owned(),
    };
    let missing = world
        .client
        .run(async |client| client.controller.controller_get_volume(missing).await);
    missing.unwrap_err().is(Code::NotFound, "vol-9-9");
}

fn is_abnormal(condition: Option<pb::VolumeCondition>, words: &str) {
    let condition = condition.unwrap();
    assert!(
        condition.abnormal && condition.message.contains(words),
        "{condition:?}"
    );
}
