//! A layerd that is down, or killed while it unpacks.

use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::{Entry, Version, image};

use super::World;
use crate::{moved, text};

/// The diff service goes on to the next differ when one says that it is not for it, and only then.
pub(super) fn a_layerd_that_is_down_is_named(version: Version) {
    let mut world = World::new(version, "");
    let image = world.image(&[vec![Entry::file("f", "f")]]);
    world.import(&image, "layerd", &["--local"]);
    world.remove_image();
    world.daemon.kill9();
    for snapshotter in ["layerd", "overlayfs"] {
        let import = [
            "images",
            "import",
            "--local",
            "--snapshotter",
            snapshotter,
            image.archive(),
        ];
        let failed = world.containerd.try_ctr(&import);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success(), "{snapshotter}");
        assert!(
            said.contains(text(world.daemon.socket())),
            "{snapshotter}: {said}"
        );
    }
    world.daemon.restart();
    world.containerd.wait_for_snapshotter();
    world.import(&image, "layerd", &["--local"]);
    world.remove_image();
    world.finish();
}

/// A half-unpacked layer is not committed, and a second import completes it.
pub(super) fn a_crash_while_importing_is_made_good(version: Version) {
    let mut world = World::new(version, "");
    let image = world.image(&image::tiny(60));
    let import = [
        "images",
        "import",
        "--local",
        "--snapshotter",
        "layerd",
        image.archive(),
    ];
    let mut running = world.containerd.command(&import).spawn().unwrap();
    wait_until(
        "the import to be under way",
        Duration::from_secs(20),
        || moved(&world.daemon).0 > 10,
    );
    world.daemon.kill9();
    assert!(
        !running.wait().unwrap().success(),
        "the crash came too late"
    );
    world.daemon.restart();
    world.containerd.wait_for_snapshotter();
    world.import(&image, "layerd", &["--local"]);
    world.assert_tree(&image, "layerd");
    world.remove_image();
    world.finish();
}
