//! A container with a limit, made by `ctr run --snapshotter-label`: what writes past it ends with ENOSPC
//! in it, and nowhere else.

use layerd_integration::image;
use layerd_integration::{Tree, Version};

use crate::{NAME, World};

const LABEL: &str = "containerd.io/snapshot/layerd.size=16m";
/// 32 MiB.
const WRITE: &str = "dd if=/dev/zero of=/large bs=65536 count=512 2>&1; echo ended with $?";

impl World {
    fn run_as(&self, name: &str, labels: &[&str]) {
        self.run_with(name, labels, &["/bin/sleep", "1000"]);
    }

    fn shell_in(&self, name: &str, command: &str) -> String {
        let exec = [
            "tasks",
            "exec",
            "--exec-id",
            "e",
            name,
            "/bin/sh",
            "-c",
            command,
        ];
        let output = self.containerd.try_ctr(&exec);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// KiB that `df` in a container says its root has.
    fn df(&self, name: &str) -> u64 {
        let said = self.shell_in(name, "/bin/busybox df -P -k /");
        let line = said.lines().last().unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn a_container_is_held_to_its_limit(version: Version) {
    let mut world = World::new(version);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    let (one, other) = (
        format!("{}-one", world.container()),
        format!("{}-other", world.container()),
    );
    world.run_as(&one, &["--snapshotter-label", LABEL]);
    world.run_as(&other, &[]);
    let size = world.df(&one);
    assert!(size <= 16 << 10 && size > 10 << 10, "{size} KiB");
    let said = world.shell_in(&one, WRITE);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("ended with 1"), "{said}");
    let said = world.shell_in(&other, WRITE);
    assert!(said.contains("ended with 0"), "{said}");
    // layerd is no part of what a container writes.
    world.crash();
    let said = world.shell_in(&one, "rm /large; echo more > /file; cat /file");
    assert!(said.contains("more"), "{said}");
    let said = world.shell_in(&one, WRITE);
    assert!(said.contains("No space left on device"), "{said}");
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    let archive = world.scratch.path().join("diff.tar.gz");
    let diff = ["snapshots", "--snapshotter", "layerd", "diff", &one];
    let made = world.containerd.try_ctr(&diff);
    assert!(made.status.success(), "{made:?}");
    std::fs::write(&archive, made.stdout).unwrap();
    let mut tar = std::process::Command::new("tar");
    let names = layerd_integration::process::output(tar.arg("-tzf").arg(archive));
    assert!(names.lines().any(|name| name == "file"), "{names}");
    world.kill_and_remove(&other);
    world.containerd.ctr(&["tasks", "rm", "--force", &one]);
    // As nothing of containerd's does with the snapshot of a container, and others may.
    world.containerd.snapshots(&["commit", "kept", &one]);
    let kept: Tree = world.tree("layerd", "kept");
    assert!(format!("{kept:?}").contains("large"));
    world.containerd.ctr(&["containers", "rm", &one]);
    world.containerd.snapshots(&["rm", "kept"]);
    world.remove_image(NAME);
    let root = world.daemon.root().canonicalize().unwrap();
    world.daemon.assert_empty();
    let left = layerd_integration::scratch::mounts_below(&root);
    assert!(left.is_empty(), "{left:?}");
    world.finish();
}

#[test]
fn root_containerd_1_6_holds_a_container_to_its_limit() {
    a_container_is_held_to_its_limit(Version::V1_6);
}

#[test]
fn root_containerd_1_7_holds_a_container_to_its_limit() {
    a_container_is_held_to_its_limit(Version::V1_7);
}

#[test]
fn root_containerd_2_1_holds_a_container_to_its_limit() {
    a_container_is_held_to_its_limit(Version::V2_1);
}
