//! layerd is killed in the middle of an import.

use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::{Version, image};

use super::{NAME, World};

/// Whatever the first import got to, a second one completes it.
pub(crate) fn while_importing(world: World) {
    while_importing_of(world, 60, 20);
}

/// The same with an image of `layers`, killed when there are more than `seen`.
pub(crate) fn while_importing_of(mut world: World, layers: usize, seen: usize) {
    let image = world.image(NAME, &image::tiny(layers));
    let mut import = world
        .containerd
        .command(&[
            "images",
            "import",
            "--snapshotter",
            "layerd",
            image.archive(),
        ])
        .spawn()
        .unwrap();
    let mut client = world.daemon.snapshots();
    wait_until(
        "the import to be under way",
        Duration::from_secs(20),
        || client.list().len() > seen,
    );
    world.daemon.kill9();
    let first = import.wait().unwrap();
    assert!(
        !first.success(),
        "the crash came too late to disturb the import"
    );
    world.daemon.restart();
    world.containerd.wait_for_snapshotter();
    world.import(&image, "layerd");
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    world.remove_image(NAME);
    world.finish();
}

/// Whole trees are copied in the middle of Prepare; none that was not acknowledged stays.
#[test]
fn root_while_importing_whole_trees() {
    while_importing(World::native_on_tmpfs(Version::V2_1));
}
