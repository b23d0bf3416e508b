//! Docker's containers under `limits.container_size`, which is the way to limit them: its client hands on no
//! label of a snapshot.

use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};

use crate::World;

/// 32 MiB.
const WRITE: &str = "dd if=/dev/zero of=/large bs=65536 count=512 2>&1; echo ended with $?";

/// Requires that `--storage-opt size=` is taken and handed on to none: the default is what holds. One other
/// container is there.
fn check_storage_opt(world: &World) {
    let create = [
        "create",
        "--pull",
        "never",
        "--storage-opt",
        "size=20m",
        "base",
        "sh",
    ];
    world.docker(&create);
    let mut active = world.daemon.snapshots().list();
    active.retain(|info| info.kind() == Kind::Active);
    assert_eq!(active.len(), 2, "two containers: {active:?}");
    let size = |info: &Info| {
        info.labels
            .get("containerd.io/snapshot/layerd.size")
            .cloned()
    };
    let sizes: Vec<_> = active.iter().filter_map(size).collect();
    assert_eq!(sizes, ["16777216", "16777216"]);
}

#[test]
fn root_docker_s_containers_are_held_to_the_default() {
    let mut world = World::configured("[limits]\ncontainer_size = \"16m\"\n");
    let run = [
        "run",
        "--detach",
        "--pull",
        "never",
        "--network",
        "none",
        "--name",
        "one",
        "base",
    ];
    world.docker(&[&run[..], &["sleep", "1000"]].concat());
    let shell = |world: &World, command: &str| world.docker(&["exec", "one", "sh", "-c", command]);
    let said = shell(&world, WRITE);
    assert!(said.contains("No space left on device"), "{said}");
    let df = shell(&world, "busybox df -P -k /");
    let size = df
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    let size: u64 = size.parse().unwrap();
    assert!(size <= 16 << 10 && size > 10 << 10, "{df}");
    world.crash(|_| ());
    shell(&world, "rm /large; echo kept > /file");
    world.docker(&["commit", "one", "made"]);
    let cat = [
        "run",
        "--rm",
        "--pull",
        "never",
        "--network",
        "none",
        "made",
        "cat",
        "/file",
    ];
    assert_eq!(world.docker(&cat), "kept\n");
    let built = world.build("last");
    assert!(!built.is_empty());
    check_storage_opt(&world);
    world.finish();
}
