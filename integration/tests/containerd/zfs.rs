//! The life of images and containers on datasets of ZFS, in a machine whose kernel has it: `make test-vm`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::image;
use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Containerd, Daemon, Scratch, Tree, Version};

use crate::crash::while_importing_of;
use crate::{CHANGES, NAME, World, lifecycle, shows_changes, text};

/// A pool in a file. Destroyed when dropped.
pub(crate) struct Pool {
    name: String,
    device: String,
}

impl Pool {
    /// Makes it in a directory, with the dataset `layers`.
    fn new(dir: &Path) -> Self {
        let image = dir.join("pool");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(700 << 20).unwrap();
        let device = output(Command::new("losetup").args(["-f", "--show", text(&image)]));
        let pool = Self {
            name: format!("layerd-test-{}", std::process::id()),
            device: device.trim().to_owned(),
        };
        let options = ["create", "-o", "cachefile=none", "-O", "mountpoint=none"];
        output(
            Command::new("zpool")
                .args(options)
                .args([&pool.name, &pool.device]),
        );
        zfs(&["create", &pool.dataset()]);
        pool
    }

    fn dataset(&self) -> String {
        format!("{}/layers", self.name)
    }

    /// Requires that every dataset goes, and that the log has no warning but those of a slow machine and of
    /// limits.
    pub(crate) fn assert_empty(&self, log: &str) {
        // What is removed stays for the time of the trash.
        wait_until("the datasets to go", Duration::from_secs(60), || {
            self.list().is_empty()
        });
        let known = ["the start waits", "of a limit are used"];
        let bad = |line: &&str| {
            let warns = line.contains(" WARN ") && !known.iter().any(|text| line.contains(text));
            warns || line.contains(" ERROR ") || line.contains("panicked")
        };
        let bad: Vec<&str> = log.lines().filter(bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    /// Datasets and snapshots below that of the layers.
    fn list(&self) -> Vec<String> {
        let said = zfs(&[
            "list",
            "-H",
            "-r",
            "-t",
            "all",
            "-o",
            "name",
            &self.dataset(),
        ]);
        said.lines().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let destroyed = Command::new("zpool")
            .args(["destroy", "-f", &self.name])
            .output();
        let detached = Command::new("losetup").args(["-d", &self.device]).output();
        if !std::thread::panicking() {
            assert!(destroyed.unwrap().status.success());
            assert!(detached.unwrap().status.success());
        }
    }
}

/// Key that layerd knows a snapshot of containerd's by.
fn key_of(world: &World, name: &str) -> String {
    let all = world.daemon.snapshots().list();
    let mut keys = all.into_iter().map(|info| info.name);
    keys.find(|key| key.ends_with(name)).unwrap()
}

fn zfs(arguments: &[&str]) -> String {
    output(Command::new("zfs").args(arguments))
}

impl World {
    /// With the driver zfs.
    fn on_zfs(version: Version) -> Self {
        Self::on_zfs_with(version, Containerd::start)
    }

    fn on_zfs_with(version: Version, start: fn(Version, &Path, &Path) -> Containerd) -> Self {
        let scratch = Scratch::new();
        let pool = Pool::new(&scratch.dir("p"));
        let config = scratch.path().join("zfs.toml");
        let dir = scratch.dir("c");
        let settings = format!(
            "driver = \"zfs\"\n[zfs]\ndataset = {:?}\n[containerd]\naddress = {:?}\nroot = {:?}\n",
            pool.dataset(),
            dir.join("containerd.sock"),
            dir.join("root"),
        );
        std::fs::write(&config, settings).unwrap();
        let daemon = Daemon::start_with(&scratch.dir("d"), &["--config", text(&config)]);
        Self {
            containerd: start(version, &dir, daemon.socket()),
            daemon,
            pool: Some(pool),
            scratch,
            is_device: true,
        }
    }

    fn datasets(&self) -> Vec<String> {
        self.pool.as_ref().unwrap().list()
    }
}

/// The containerd of Debian 12, as the kernel.
#[test]
fn root_full_vm_lifecycle() {
    lifecycle(World::on_zfs(Version::V1_6), |world| {
        assert!(!world.datasets().is_empty());
    });
}

#[test]
fn root_full_vm_lifecycle_with_crashes() {
    lifecycle(World::on_zfs(Version::V1_6), World::crash);
}

/// layerd makes the archive of a container that runs, and unpacks layers.
#[test]
fn root_full_vm_layerd_packs_what_runs() {
    let world = World::on_zfs_with(Version::V1_7, Containerd::start_unpacking);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    world.run(CHANGES);
    wait_until("the container's changes", Duration::from_secs(20), || {
        world.exec(&["/bin/cat", "/new/file"]) == "end\n"
    });
    shows_changes(&world);
    world.end();
    world
        .containerd
        .ctr(&["containers", "rm", world.container()]);
    world.remove_image(NAME);
    world.finish();
}

#[test]
fn root_full_vm_crash_while_importing() {
    // An emulated machine takes seconds for a layer.
    while_importing_of(World::on_zfs(Version::V1_6), 6, 1);
}

/// Whatever call of zfs(8) a kill meets, the next start goes on, and nothing stays.
#[test]
fn root_full_vm_kills_in_the_middle_of_calls_leave_nothing() {
    let mut world = World::on_zfs(Version::V1_6);
    let image = world.image(NAME, &image::tiny(4));
    world.import(&image, "layerd");
    let parent = key_of(&world, image.top());
    for (round, millis) in [5_u64, 60, 150, 400, 700, 1100, 1900, 2800, 4000]
        .into_iter()
        .enumerate()
    {
        let key = format!("killed-{round}");
        let mut client = world.daemon.snapshots();
        let parent = parent.clone();
        let calls = std::thread::spawn(move || {
            // Its end is that of the daemon.
            let _ = client.prepare(&key, &parent, &[]);
            let _ = client.commit(&format!("{key}-kept"), &key, &[]);
            let _ = client.remove(&format!("{key}-kept"));
            let _ = client.cleanup();
        });
        std::thread::sleep(Duration::from_millis(millis));
        world.daemon.kill9();
        calls.join().unwrap();
        world.daemon.restart();
    }
    world.containerd.wait_for_snapshotter();
    let mut client = world.daemon.snapshots();
    let left: Vec<String> = client.list().into_iter().map(|info| info.name).collect();
    for name in left.iter().filter(|name| name.starts_with("killed-")) {
        client.remove(name).unwrap();
    }
    world
        .tree("layerd", image.top())
        .assert_equals(image.tree());
    let layers = image.chain().len();
    // Each has its dataset and its snapshot.
    wait_until("killed layers to go", Duration::from_secs(60), || {
        world.datasets().len() == 2 * layers
    });
    world.remove_image(NAME);
    world.finish();
}

#[test]
fn root_full_vm_a_container_is_held_to_its_limit() {
    let world = World::on_zfs(Version::V1_6);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    let size = "containerd.io/snapshot/layerd.size=16m";
    let inodes = "containerd.io/snapshot/layerd.inodes=1000";
    let name = world.container();
    let sleep = ["/bin/sleep", "1000"];
    world.run_with(name, &["--snapshotter-label", size], &sleep);
    let write = "dd if=/dev/zero of=/large bs=65536 count=640 2>&1; echo ended with $?";
    let write = write.replace("/dev/zero", "/dev/urandom");
    let said = world.exec(&["/bin/sh", "-c", &write]);
    assert!(
        said.contains("quota exceeded") || said.contains("No space left"),
        "{said}"
    );
    assert!(said.contains("ended with 1"), "{said}");
    let refused = world.containerd.try_ctr(&[
        "run",
        "--null-io",
        "--detach",
        "--snapshotter",
        "layerd",
        "--snapshotter-label",
        size,
        "--snapshotter-label",
        inodes,
        NAME,
        "other",
        "/bin/true",
    ]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("of bytes alone"),
        "{said}"
    );
    world.kill_and_remove(name);
    world.remove_image(NAME);
    world.finish();
}

/// `layerd check` and `layerctl info` say what there is, fsck looks at it, and snapshots are mounted by layerctl.
#[test]
fn root_full_vm_tools_know_the_driver() {
    let world = World::on_zfs(Version::V1_6);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    let dataset = world.pool.as_ref().unwrap().dataset();
    let layerctl = |arguments: &[&str]| {
        let mut command = Command::new(profile().join("layerctl"));
        output(
            command
                .arg("--address")
                .arg(world.daemon.socket())
                .args(arguments),
        )
    };
    let info = layerctl(&["info"]);
    for says in ["zfs", "Zpool Health", "ONLINE", &dataset, "quotas of ZFS"] {
        assert!(info.contains(says), "no {says} in {info}");
    }
    let mut check = Command::new(profile().join("layerd"));
    let config = world.scratch.path().join("zfs.toml");
    check.args([
        "check",
        "--config",
        text(&config),
        "--root",
        text(world.daemon.root()),
    ]);
    let said = output(&mut check);
    for says in [
        "ok   zfs module: 2.",
        "ok   zfs program: ",
        "ok   zfs dataset: ",
        "ok   zfs trial: ",
    ] {
        assert!(said.contains(says), "no {says} in {said}");
    }
    layerctl(&["fsck", "--content"]);
    let target = world.scratch.dir("shown");
    let mut client = world.daemon.snapshots();
    let top = key_of(&world, image.top());
    client.view("looked-at", &top, &[]).unwrap();
    layerctl(&["snapshot", "mount", "looked-at", text(&target)]);
    Tree::read(&target).assert_equals(image.tree());
    let written = std::fs::write(target.join("new"), "x");
    assert!(written.is_err(), "it is read-only");
    layerctl(&["snapshot", "umount", text(&target)]);
    client.remove("looked-at").unwrap();
    world.remove_image(NAME);
    world.finish();
}
