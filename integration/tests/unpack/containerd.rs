//! containerd 1.7 and 2.1 with layerd as snapshotter and differ; 1.6 on layers that are images.

#[path = "containerd/down.rs"]
mod down;

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use layerd_integration::image;
use layerd_integration::process::{output, wait_until};
use layerd_integration::{Containerd, Daemon, Image, Scratch, Version};

use super::command::layerctl;
use super::{moved, text, trusted};

macro_rules! on_version {
    ($name:ident, $version:expr) => {
        mod $name {
            use super::Version;

            #[test]
            fn unpacks_and_packs() {
                super::unpacks_and_packs($version);
            }

            #[test]
            fn without_containerds_directory() {
                super::without_containerds_directory($version);
            }

            #[test]
            fn overlayfs_is_left_to_containerd() {
                super::overlayfs_is_left_to_containerd($version);
            }

            #[test]
            fn switched_off_containerd_does_it() {
                super::switched_off_containerd_does_it($version);
            }

            #[test]
            fn a_layerd_that_is_down_is_named() {
                super::down::a_layerd_that_is_down_is_named($version);
            }

            #[test]
            fn layers_are_images() {
                super::layers_are_images($version);
            }

            #[test]
            fn a_crash_while_importing_is_made_good() {
                super::down::a_crash_while_importing_is_made_good($version);
            }
        }
    };
}

on_version!(root_containerd_1_7, Version::V1_7);
on_version!(root_containerd_2_1, Version::V2_1);

/// Knows no differ but its own.
mod root_containerd_1_6 {
    use super::Version;

    #[test]
    fn layers_are_images() {
        super::layers_are_images(Version::V1_6);
    }
}

const NAME: &str = "docker.io/test/image:1";

struct World {
    containerd: Containerd,
    daemon: Daemon,
    scratch: Scratch,
    version: Version,
}

impl World {
    fn new(version: Version, more: &str) -> Self {
        let scratch = Scratch::new();
        let arguments = super::configured(&scratch, more);
        Self::start(version, scratch, &arguments)
    }

    fn with_images(version: Version) -> Self {
        let scratch = Scratch::new();
        let arguments = super::configured_with(&scratch, "images", "");
        Self::start(version, scratch, &arguments)
    }

    /// With the driver overlay1.
    fn with_whole_trees(version: Version) -> Self {
        let scratch = Scratch::new();
        let driver = ["--driver", "overlay1"].map(str::to_owned);
        let arguments = [super::configured(&scratch, "").as_slice(), &driver].concat();
        Self::start(version, scratch, &arguments)
    }

    fn start(version: Version, scratch: Scratch, arguments: &[String]) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
        let start = match version {
            Version::V1_6 => Containerd::start,
            _ => Containerd::start_unpacking,
        };
        let containerd = start(version, &scratch.dir("c"), daemon.socket());
        Self {
            containerd,
            daemon,
            scratch,
            version,
        }
    }

    fn image(&self, layers: &[image::Layer]) -> Image {
        Image::build(&self.scratch.dir("i"), NAME, layers)
    }

    /// Commands that import through the diff service, and through the transfer service where the tests
    /// configure that.
    fn imports(&self) -> &[&[&str]] {
        match self.version {
            Version::V1_6 => &[&[]],
            Version::V1_7 => &[&["--local"]],
            Version::V2_1 => &[&["--local"], &[]],
        }
    }

    fn import(&self, image: &Image, snapshotter: &str, how: &[&str]) {
        let import = ["images", "import", "--snapshotter", snapshotter];
        self.containerd
            .ctr(&[&import, how, &[image.archive()]].concat());
    }

    /// Makes the snapshots of an image, so that an import finds them there.
    fn unpack_by_hand(&self, image: &Image, layers: &[image::Layer]) {
        let file = self.scratch.path().join("layer.tar");
        let mut parent: &[String] = &[];
        for (layer, chain) in layers.iter().zip(image.chain()) {
            let below = parent.iter().map(String::as_str).collect::<Vec<_>>();
            self.containerd
                .snapshots(&[&["prepare", "by-hand"], &below[..]].concat());
            let all = self.daemon.snapshots().list();
            let active = all.iter().find(|one| one.name.ends_with("/by-hand"));
            image::write_layer(&file, layer);
            output(&mut layerctl(
                &self.daemon,
                &["layer", "apply", &active.unwrap().name, text(&file)],
            ));
            self.containerd.snapshots(&["commit", chain, "by-hand"]);
            parent = std::slice::from_ref(chain);
        }
    }

    fn assert_tree(&self, image: &Image, snapshotter: &str) {
        let target = self.scratch.dir("m");
        let tree = self.containerd.tree(snapshotter, image.top(), &target);
        tree.assert_equals(image.tree());
    }

    fn remove_image(&self) {
        self.containerd.ctr(&["images", "rm", "--sync", NAME]);
        self.containerd.ctr(&["content", "prune", "references"]);
    }

    fn finish(mut self) {
        let collect = || self.containerd.collect_garbage();
        self.daemon.assert_empty_with(collect);
        self.daemon.assert_no_errors_logged();
        self.daemon.stop();
    }
}

/// Import, compare, write, diff, apply the diff again.
fn unpacks_and_packs(version: Version) {
    unpacks_and_packs_in(World::new(version, ""));
}

#[test]
fn root_whole_trees_of_hard_links_are_unpacked_and_packed() {
    unpacks_and_packs_in(World::with_whole_trees(Version::V2_1));
}

fn unpacks_and_packs_in(world: World) {
    let image = world.image(&image::corpus());
    let count = image.chain().len() as u64;
    let mut unpacked = 0;
    for how in world.imports() {
        world.import(&image, "layerd", how);
        unpacked += count;
        assert_eq!(moved(&world.daemon), (unpacked, 0), "{how:?}");
        world.assert_tree(&image, "layerd");
        if world.imports().len() > 1 {
            world.remove_image();
            let collect = || world.containerd.collect_garbage();
            world.daemon.assert_empty_with(collect);
        }
    }
    let (by_memory, by_walk) = trusted(&world.daemon);
    assert_eq!((by_memory as u64, by_walk), (unpacked, 0));
    world.import(&image, "layerd", &["--local"]);
    diff_of_a_container(&world, &image);
    world.remove_image();
    world.finish();
}

/// Import into images, run, write, diff; kill layerd with containers, and after a reboot of the
/// host, for which its mounts are taken away, start one again.
fn layers_are_images(version: Version) {
    let mut world = World::with_images(version);
    let layers = image::corpus();
    let image = world.image(&layers);
    if version == Version::V1_6 {
        world.unpack_by_hand(&image, &layers);
    }
    world.import(&image, "layerd", world.imports()[0]);
    assert_eq!(moved(&world.daemon), (layers.len() as u64, 0));
    let images = names(&world, "i");
    assert_eq!(images.len(), layers.len(), "each layer is an image");
    world.assert_tree(&image, "layerd");
    diff_of_a_container(&world, &image);
    for is_reboot in [false, true] {
        world.daemon.kill9();
        if is_reboot {
            for mounted in names(&world, "x") {
                let target = world.daemon.root().join("x").join(mounted);
                output(Command::new("umount").arg("--lazy").arg(target));
            }
        }
        world.daemon.restart();
        world.containerd.wait_for_snapshotter();
        world.assert_tree(&image, "layerd");
    }
    let said = output(&mut layerctl(&world.daemon, &["fsck", "--content"]));
    assert!(
        said.starts_with(&format!("Layers compared: {} (", layers.len())),
        "{said}"
    );
    world.remove_image();
    if version == Version::V1_6 {
        // Made by hand, and kept for that.
        for chain in image.chain().iter().rev() {
            world.containerd.snapshots(&["rm", chain]);
        }
    }
    world.finish();
}

/// containerd 2 has the kernel map the ids of each layer for a container with a user namespace.
#[test]
fn root_ids_of_images_are_mapped_for_a_user_namespace() {
    ids_are_mapped(World::with_images(Version::V2_1));
}

#[test]
fn root_ids_of_whole_trees_are_mapped_for_a_user_namespace() {
    ids_are_mapped(World::with_whole_trees(Version::V2_1));
}

fn ids_are_mapped(mut world: World) {
    let config = world.scratch.path().join("c/containerd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let proxy = "[proxy_plugins.layerd]\n";
    let able = format!("{proxy}capabilities = [\"remap-ids\"]\n");
    std::fs::write(&config, text.replace(proxy, &able)).unwrap();
    world.containerd.restart();
    let image = world.image(&image::corpus());
    world.import(&image, "layerd", &["--local"]);
    let flags = [
        "--remap-labels",
        "--uidmap",
        "0:100000:65536",
        "--gidmap",
        "0:100000:65536",
    ];
    let script = "/bin/busybox stat -c %u:%g /etc/motd > /seen; echo end > /end; exec sleep 1000";
    run_a_container(&world, &flags, script, &|container| {
        let state = format!("c/state/io.containerd.runtime.v2.task/layerd-test/{container}/rootfs");
        let shown = world.scratch.path().join(state);
        let owner = |name: &str| std::fs::metadata(shown.join(name)).unwrap().uid();
        assert_eq!([owner("etc/motd"), owner("end")], [100_000; 2]);
        let seen = std::fs::read_to_string(shown.join("seen")).unwrap();
        assert_eq!(seen, "0:0\n", "in the container");
    });
    world.assert_tree(&image, "layerd");
    world.remove_image();
    world.finish();
}

fn names(world: &World, folder: &str) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(world.daemon.root().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

fn diff_of_a_container(world: &World, image: &Image) {
    let script = "echo changed > /etc/motd; rm -r /names/hidden; echo end > /end; exec sleep 1000";
    run_a_container(world, &[], script, &|container| {
        if world.version != Version::V1_6 {
            look_at_diffs(world, image, container);
        }
    });
}

/// Looks at a container when its script has written `/end`, and removes it.
fn run_a_container(world: &World, flags: &[&str], script: &str, look: &dyn Fn(&str)) {
    let container = world.scratch.path().file_name().unwrap().to_str().unwrap();
    let run = ["run", "--detach", "--null-io", "--snapshotter", "layerd"];
    let shell = [NAME, container, "/bin/sh", "-c", script];
    world.containerd.ctr(&[&run, flags, &shell].concat());
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "e",
        container,
        "/bin/cat",
        "/end",
    ];
    wait_until("the container's changes", Duration::from_secs(10), || {
        world.containerd.try_ctr(&exec).stdout == b"end\n"
    });
    look(container);
    world
        .containerd
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", container]);
    wait_until("the container to end", Duration::from_secs(10), || {
        world.containerd.ctr(&["tasks", "ls"]).contains("STOPPED")
    });
    world.containerd.ctr(&["tasks", "rm", container]);
    world.containerd.ctr(&["containers", "rm", container]);
}

fn look_at_diffs(world: &World, image: &Image, container: &str) {
    let unpacked = moved(&world.daemon).0;
    for (flags, list, packed) in [
        (&[][..], "-tzf", 1),
        (
            &["--media-type", "application/vnd.oci.image.layer.v1.tar"][..],
            "-tf",
            2,
        ),
    ] {
        let diff = ["snapshots", "--snapshotter", "layerd", "diff"];
        let made = world
            .containerd
            .try_ctr(&[&diff, flags, &[container]].concat());
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let archive = world.scratch.path().join("diff");
        std::fs::write(&archive, made.stdout).unwrap();
        let names = output(Command::new("tar").arg(list).arg(&archive));
        for name in ["etc/motd", "names/.wh.hidden", "end"] {
            assert!(names.lines().any(|line| line == name), "no {name}: {names}");
        }
        assert_eq!(moved(&world.daemon), (unpacked, packed));
    }
    let whole = ["snapshots", "--snapshotter", "layerd", "diff", image.top()];
    assert!(!world.containerd.try_ctr(&whole).stdout.is_empty());
    assert_eq!(moved(&world.daemon).1, 3, "a view of a committed snapshot");
}

/// Blobs come over containerd's socket where layerd cannot read them.
fn without_containerds_directory(version: Version) {
    let scratch = Scratch::new();
    let arguments = super::configured(&scratch, "");
    let file = &arguments[1];
    let text = std::fs::read_to_string(file).unwrap();
    let other = text.replace("/root\"", "/elsewhere\"");
    std::fs::write(file, other).unwrap();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
    let containerd = Containerd::start_unpacking(version, &scratch.dir("c"), daemon.socket());
    let world = World {
        containerd,
        daemon,
        scratch,
        version,
    };
    let image = world.image(&image::corpus());
    world.import(&image, "layerd", &["--local"]);
    assert_eq!(moved(&world.daemon).0, image.chain().len() as u64);
    world.assert_tree(&image, "layerd");
    world.remove_image();
    world.finish();
}

/// The differ is asked for all snapshotters, answers for its own, and says so in its log.
fn overlayfs_is_left_to_containerd(version: Version) {
    let world = World::new(version, "");
    let image = world.image(&image::corpus());
    for how in world.imports() {
        world.import(&image, "overlayfs", how);
        world.assert_tree(&image, "overlayfs");
    }
    assert_eq!(moved(&world.daemon), (0, 0));
    let log = world.daemon.log();
    assert!(log.contains("left a layer to the next differ"), "{log}");
    world.remove_image();
    world.finish();
}

fn switched_off_containerd_does_it(version: Version) {
    let world = World::new(version, "[unpack]\nenabled = false");
    let image = world.image(&image::corpus());
    world.import(&image, "layerd", &["--local"]);
    world.assert_tree(&image, "layerd");
    let active = [
        "snapshots",
        "--snapshotter",
        "layerd",
        "prepare",
        "a",
        image.top(),
    ];
    world.containerd.ctr(&active);
    let diff = ["snapshots", "--snapshotter", "layerd", "diff", "a"];
    assert!(world.containerd.try_ctr(&diff).status.success());
    assert_eq!(moved(&world.daemon), (0, 0));
    world.containerd.snapshots(&["rm", "a"]);
    world.remove_image();
    if version == Version::V2_1 {
        // The transfer service has one differ for a snapshotter and asks no other.
        let import = [
            "images",
            "import",
            "--snapshotter",
            "layerd",
            image.archive(),
        ];
        assert!(!world.containerd.try_ctr(&import).status.success());
        let log = world.daemon.log();
        assert!(log.contains("`unpack.enabled = false`"), "{log}");
        world.remove_image();
    }
    world.finish();
}
