//! containerd 1.6, 1.7 and 2.1 with layerd as their snapshotter: the whole life of images and
//! containers, also with layerd crashing between any two steps.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "containerd/crash.rs"]
mod crash;
#[path = "containerd/devices.rs"]
mod devices;
#[path = "containerd/import.rs"]
mod import;
#[path = "containerd/instances.rs"]
mod instances;
#[path = "containerd/limits.rs"]
mod limits;
#[path = "containerd/pairs.rs"]
mod pairs;
#[path = "containerd/top.rs"]
mod top;
#[path = "containerd/traces.rs"]
mod traces;
#[path = "containerd/zfs.rs"]
mod zfs;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::image::{self, apply};
use layerd_integration::process::{output, wait_until};
use layerd_integration::{Containerd, Daemon, Entry, Image, Layer, Scratch, Tree, Version};

/// Tests of a containerd, each of a name in [`pairs`].
macro_rules! on_version {
    ($module:ident, $version:expr, $($name:ident)+) => {
        mod $module {
            use super::Version;

            $(
                #[test]
                fn $name() {
                    super::pairs::$name($version);
                }
            )+
        }
    };
}

// Each containerd and each form of layers is met at least once, with crashes too; most layers once.
on_version!(
    root_containerd_1_6,
    Version::V1_6,
    lifecycle
    lifecycle_on_xfs
    lifecycle_with_restarts_of_containerd
    lifecycle_of_subvolumes_with_crashes
    lifecycle_of_devices
    same_trees_as_the_built_in
    layers_128
    crash_while_importing
);
on_version!(
    root_containerd_1_7,
    Version::V1_7,
    lifecycle
    lifecycle_of_whole_trees_on_overlayfs_with_crashes
    lifecycle_of_devices_with_crashes
    same_trees_as_the_built_in
    crash_while_importing
);
on_version!(
    root_containerd_2_1,
    Version::V2_1,
    lifecycle
    lifecycle_with_restarts_of_containerd
    lifecycle_with_crashes
    lifecycle_of_whole_trees_on_tmpfs
    lifecycle_of_subvolumes
    lifecycle_of_devices
    same_trees_as_the_built_in
    layers_500
    crash_while_importing
);

// The other pairs of both: `make test-peers-full`.
on_version!(
    root_full_containerd_1_6,
    Version::V1_6,
    lifecycle_with_crashes
    lifecycle_of_whole_trees_on_tmpfs
    lifecycle_of_whole_trees_on_overlayfs_with_crashes
    lifecycle_of_subvolumes
    layers_500
);
on_version!(
    root_full_containerd_1_7,
    Version::V1_7,
    lifecycle_on_xfs
    lifecycle_with_restarts_of_containerd
    lifecycle_with_crashes
    lifecycle_of_whole_trees_on_tmpfs
    lifecycle_of_subvolumes
    lifecycle_of_subvolumes_with_crashes
    layers_128
    layers_500
);
on_version!(
    root_full_containerd_2_1,
    Version::V2_1,
    lifecycle_on_xfs
    lifecycle_of_whole_trees_on_overlayfs_with_crashes
    lifecycle_of_subvolumes_with_crashes
    layers_128
);

const NAME: &str = "docker.io/test/image:1";
const LARGER: &str = "docker.io/test/larger:1";

/// Changes made by the container of the lifecycle, as a command and as a layer.
const CHANGES: &str = "echo changed > /etc/motd; rm -r /names/hidden; mv /kinds/empty /kinds/full; \
                       mkdir /new; chmod 0710 /new; echo end > /new/file; exec sleep 1000";

fn changes() -> Layer {
    vec![
        Entry::file("etc/motd", "changed\n"),
        Entry::file("names/.wh.hidden", ""),
        Entry::file("kinds/.wh.empty", ""),
        Entry::file("kinds/full", "no longer"),
        Entry::directory("new").mode(0o710),
        Entry::file("new/file", "end\n"),
    ]
}

/// layerd, a containerd that uses it, and where they live. Dropped in this order.
struct World {
    containerd: Containerd,
    daemon: Daemon,
    pool: Option<zfs::Pool>,
    scratch: Scratch,
    /// Set if a differ of containerd cannot read the layer of a container that runs.
    is_device: bool,
}

impl World {
    fn new(version: Version) -> Self {
        Self::below(version, Scratch::new(), "d")
    }

    /// With layerd's data on xfs.
    fn on_xfs(version: Version) -> Self {
        Self::below(version, Scratch::on_xfs(320), "disk/d")
    }

    /// With the driver native, and layerd's data on a tmpfs.
    fn native_on_tmpfs(version: Version) -> Self {
        Self::with_driver(version, Scratch::on_tmpfs(), "native")
    }

    /// With the driver native, and layerd's data on overlayfs, as in a container.
    fn native_on_overlayfs(version: Version) -> Self {
        Self::with_driver(version, Scratch::on_overlayfs(), "native")
    }

    /// With the driver btrfs.
    fn on_subvolumes(version: Version) -> Self {
        Self::with_driver(version, Scratch::on("btrfs", 512), "btrfs")
    }

    /// With the driver overlay1.
    fn on_hard_links(version: Version) -> Self {
        Self::with_driver(version, Scratch::on("ext4", 320), "overlay1")
    }

    fn with_driver(version: Version, scratch: Scratch, driver: &str) -> Self {
        let data = scratch.dir("disk/d");
        let daemon = Daemon::start_with(&data, &["--driver", driver]);
        Self::of(version, scratch, daemon)
    }

    fn below(version: Version, scratch: Scratch, data: &str) -> Self {
        let daemon = Daemon::start(&scratch.dir(data));
        Self::of(version, scratch, daemon)
    }

    fn of(version: Version, scratch: Scratch, daemon: Daemon) -> Self {
        let containerd = Containerd::start(version, &scratch.dir("c"), daemon.socket());
        Self {
            containerd,
            daemon,
            pool: None,
            scratch,
            is_device: false,
        }
    }

    /// layerd dies; containerd is refused, not kept waiting; layerd comes back and containerd,
    /// which dials again at its own pace, finds it.
    fn crash(&mut self) {
        let prepare = ["snapshots", "--snapshotter", "layerd", "prepare", "never"];
        self.daemon.kill9();
        let refused = self.containerd.try_ctr(&prepare);
        assert!(!refused.status.success(), "prepared without a snapshotter");
        self.daemon.restart();
        self.containerd.wait_for_snapshotter();
    }

    fn image(&self, name: &str, layers: &[Layer]) -> Image {
        let layers = image::fitting(layers, self.daemon.root().parent().unwrap());
        Image::build(&self.scratch.dir("i"), name, &layers)
    }

    fn import(&self, image: &Image, snapshotter: &str) {
        let import = [
            "images",
            "import",
            "--snapshotter",
            snapshotter,
            image.archive(),
        ];
        self.containerd.ctr(&import);
    }

    /// A name that no other test's container has: their control groups are the machine's.
    fn container(&self) -> &str {
        self.scratch.path().file_name().unwrap().to_str().unwrap()
    }

    fn tree(&self, snapshotter: &str, chain: &str) -> Tree {
        let target = self.scratch.dir("m");
        self.containerd.tree(snapshotter, chain, &target)
    }

    fn run(&self, command: &str) {
        let shell = ["/bin/sh", "-c", command];
        let run = [
            "run",
            "--detach",
            "--null-io",
            "--snapshotter",
            "layerd",
            NAME,
            self.container(),
        ];
        self.containerd.ctr(&[&run[..], &shell].concat());
    }

    /// A container of this name, with options of `ctr run`.
    fn run_with(&self, name: &str, options: &[&str], command: &[&str]) {
        let run = ["run", "--detach", "--null-io", "--snapshotter", "layerd"];
        let all = [&run[..], options, &[NAME, name], command].concat();
        self.containerd.ctr(&all);
    }

    fn kill_and_remove(&self, name: &str) {
        self.containerd.ctr(&["tasks", "rm", "--force", name]);
        self.containerd.ctr(&["containers", "rm", name]);
    }

    fn exec(&self, command: &[&str]) -> String {
        let exec = ["tasks", "exec", "--exec-id", "e", self.container()];
        let output = self.containerd.try_ctr(&[&exec[..], command].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn end(&self) {
        self.containerd
            .ctr(&["tasks", "kill", "--signal", "SIGKILL", self.container()]);
        wait_until("the container to end", Duration::from_secs(10), || {
            self.containerd.ctr(&["tasks", "ls"]).contains("STOPPED")
        });
        self.containerd.ctr(&["tasks", "rm", self.container()]);
    }

    /// Removes an image and what only it needs.
    fn remove_image(&self, name: &str) {
        self.containerd.ctr(&["images", "rm", "--sync", name]);
        self.containerd.ctr(&["content", "prune", "references"]);
    }

    fn finish(mut self) {
        let collect = || self.containerd.collect_garbage();
        self.daemon.assert_empty_with(collect);
        match &self.pool {
            None => self.daemon.assert_no_errors_logged(),
            Some(pool) => pool.assert_empty(&self.daemon.log()),
        }
        self.daemon.stop();
    }
}

/// Import, look, run, write, compare, commit, remove; `between` happens between any two of them.
fn lifecycle(mut world: World, between: fn(&mut World)) {
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    between(&mut world);
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    between(&mut world);
    world.run(CHANGES);
    between(&mut world);
    wait_until("the container's changes", Duration::from_secs(10), || {
        world.exec(&["/bin/cat", "/new/file"]) == "end\n"
    });
    between(&mut world);
    if !world.is_device {
        shows_changes(&world);
        between(&mut world);
    }
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    between(&mut world);
    world.end();
    between(&mut world);
    shows_changes(&world);
    commit(&mut world, &image, between);
    world
        .containerd
        .ctr(&["containers", "rm", world.container()]);
    between(&mut world);
    world.remove_image(NAME);
    between(&mut world);
    world.finish();
}

/// Commits what the container wrote and looks at it as a layer over the image.
fn commit(world: &mut World, image: &Image, between: fn(&mut World)) {
    world
        .containerd
        .snapshots(&["commit", "kept", world.container()]);
    between(world);
    let mut wanted = image.tree().clone();
    apply(&mut wanted, &changes());
    world.tree("layerd", "kept").assert_equals(&wanted);
    between(world);
    world.containerd.snapshots(&["prepare", "next", "kept"]);
    between(world);
    let refused = world
        .containerd
        .try_ctr(&["snapshots", "--snapshotter", "layerd", "rm", "kept"]);
    assert!(
        !refused.status.success(),
        "removed a snapshot that has a child"
    );
    between(world);
    world.containerd.snapshots(&["rm", "next"]);
    between(world);
    world.containerd.snapshots(&["rm", "kept"]);
    between(world);
}

fn shows_changes(world: &World) {
    let diff = diff(world);
    for line in [
        "etc/motd",
        "names/.wh.hidden",
        "kinds/.wh.empty",
        "kinds/full",
        "new/file",
    ] {
        let is_there = diff.lines().any(|have| have == line);
        assert!(is_there, "no {line} in:\n{diff}");
    }
}

/// The names in the archive that containerd makes of a container's changes.
fn diff(world: &World) -> String {
    let archive = world.scratch.path().join("diff.tar.gz");
    let arguments = [
        "snapshots",
        "--snapshotter",
        "layerd",
        "diff",
        world.container(),
    ];
    let made = world.containerd.try_ctr(&arguments);
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    std::fs::write(&archive, made.stdout).unwrap();
    output(Command::new("tar").arg("-tzf").arg(archive))
}

/// `ctr` mounts all the layers. A container runs on one less: from 1.7 on, containerd looks into
/// its root through a mount that takes the writable layer for one more lower one, and the kernel
/// takes 500 of those.
fn many_layers(version: Version, count: usize) {
    let world = World::new(version);
    let most = world.image(LARGER, &image::tiny(count));
    assert_eq!(most.chain().len(), count);
    world.import(&most, "layerd");
    let target = world.scratch.dir("m");
    let mount = [
        "images",
        "mount",
        "--snapshotter",
        "layerd",
        LARGER,
        text(&target),
    ];
    world.containerd.ctr(&mount);
    Tree::read(&target).assert_equals(most.tree());
    let unmount = [
        "images",
        "unmount",
        "--snapshotter",
        "layerd",
        "--rm",
        text(&target),
    ];
    world.containerd.ctr(&unmount);
    world.import(&world.image(NAME, &image::tiny(count - 1)), "layerd");
    world.run("echo changed > /n/1; exec sleep 1000");
    wait_until("the container's change", Duration::from_secs(10), || {
        world.exec(&["/bin/cat", "/n/1"]) == "changed\n"
    });
    let last = (count - 2).to_string();
    assert_eq!(world.exec(&["/bin/cat", "/n/last"]), last);
    world.end();
    world
        .containerd
        .ctr(&["containers", "rm", world.container()]);
    world.remove_image(LARGER);
    world.remove_image(NAME);
    world.finish();
}

#[test]
fn root_lifecycle_of_hard_links_with_crashes() {
    lifecycle(World::on_hard_links(Version::V1_7), World::crash);
}

/// `make demo`, which people look at first.
#[test]
fn root_demo_shows_the_layer_below_untouched() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demos/demo.sh");
    let said = output(&mut Command::new(script));
    let shows = |start: &str, end: &str| {
        let mut lines = said.lines();
        lines.any(|line| line.starts_with(start) && line.ends_with(end))
    };
    assert!(
        shows("in the container:", "changed by the container"),
        "{said}"
    );
    assert!(
        shows("in the container's layer", "changed by the container"),
        "{said}"
    );
    assert!(
        shows("in the image's layer", "hello from the image"),
        "{said}"
    );
    assert!(shows("snapshots: 0, directories: 0", ""), "{said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
