//! The tests of one containerd with one form of layers; `containerd.rs` chooses the pairs.

use layerd_integration::image;

use super::{NAME, Version, World};

pub(super) fn lifecycle(version: Version) {
    super::lifecycle(World::new(version), |_| ());
}

pub(super) fn lifecycle_on_xfs(version: Version) {
    super::lifecycle(World::on_xfs(version), |_| ());
}

pub(super) fn lifecycle_with_restarts_of_containerd(version: Version) {
    super::lifecycle(World::new(version), |world| world.containerd.restart());
}

pub(super) fn lifecycle_with_crashes(version: Version) {
    super::lifecycle(World::new(version), World::crash);
}

pub(super) fn lifecycle_of_whole_trees_on_tmpfs(version: Version) {
    super::lifecycle(World::native_on_tmpfs(version), |_| ());
}

pub(super) fn lifecycle_of_whole_trees_on_overlayfs_with_crashes(version: Version) {
    super::lifecycle(World::native_on_overlayfs(version), World::crash);
}

pub(super) fn lifecycle_of_subvolumes(version: Version) {
    super::lifecycle(World::on_subvolumes(version), |_| ());
}

pub(super) fn lifecycle_of_subvolumes_with_crashes(version: Version) {
    super::lifecycle(World::on_subvolumes(version), World::crash);
}

pub(super) fn lifecycle_of_devices(version: Version) {
    super::devices::lifecycle(version, |_| ());
}

pub(super) fn lifecycle_of_devices_with_crashes(version: Version) {
    super::devices::lifecycle(version, World::crash);
}

pub(super) fn same_trees_as_the_built_in(version: Version) {
    let world = World::new(version);
    let image = world.image(NAME, &image::corpus());
    for snapshotter in ["layerd", "overlayfs"] {
        world.import(&image, snapshotter);
    }
    for chain in image.chain() {
        let ours = world.tree("layerd", chain);
        ours.assert_equals(&world.tree("overlayfs", chain));
    }
    world.remove_image(NAME);
    world.finish();
}

pub(super) fn layers_128(version: Version) {
    super::many_layers(version, 128);
}

pub(super) fn layers_500(version: Version) {
    super::many_layers(version, 500);
}

pub(super) fn crash_while_importing(version: Version) {
    super::crash::while_importing(World::new(version));
}
