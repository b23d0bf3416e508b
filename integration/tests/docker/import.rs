//! A Docker that changes over from containerd's own snapshotter, with its images and without a pull.

use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::scratch::profile;

use crate::World;

#[test]
fn root_docker_28_changes_over_with_its_images() {
    let mut world = World::new();
    world.docker.change_driver("overlayfs");
    let archive = world.scratch.path().join("base.tar");
    world.docker(&["import", archive.to_str().unwrap(), "base"]);
    world.build("last\n");
    let mut import = Command::new(profile().join("layerctl"));
    import.arg("--address").arg(world.daemon.socket());
    import.args(["import", "containerd", "--namespace", "moby", "--force"]);
    import.arg("--containerd-address");
    import.arg(world.docker.containerd().socket());
    let said = output(&mut import);
    assert!(said.starts_with("imported "), "{said}");
    assert!(said.contains(" 0B of them copied"), "{said}");
    world.docker.change_driver("layerd");
    world.start(
        "one",
        "cat /last /kept/file; test ! -e /one; exec sleep 1000",
    );
    assert_eq!(world.cat("one", "/last"), "last\n");
    assert_eq!(world.cat("one", "/kept/file"), "kept\n");
    world.finish();
}
