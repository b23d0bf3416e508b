//! Limits of writable layers: by label and by configuration, enforced, kept over crashes, refused where
//! nothing enforces them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::{mounts_below, profile};
use layerd_integration::{Daemon, Scratch};
use layerd_proto::containerd::types::Mount;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use tonic::Code;

use crate::{World, upper};

const SIZE: &str = "containerd.io/snapshot/layerd.size";
const INODES: &str = "containerd.io/snapshot/layerd.inodes";
const MIB: u64 = 1 << 20;

/// `base`, and nothing else.
fn world(configuration: &str) -> World {
    let mut world = World::configured(configuration);
    world.client.committed("base", "").unwrap();
    world
}

/// Overlay mount that was answered, mounted until dropped.
struct Seen(PathBuf);

impl Seen {
    fn new(world: &World, mounts: &[Mount]) -> Self {
        let target = world.scratch.dir("seen");
        let options = mounts[0].options.join(",");
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]);
        output(mount.arg(&target));
        Self(target)
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        output(Command::new("umount").arg(&self.0));
    }
}

/// Writes a file of so many bytes, as far as it goes; answers why it ended early.
fn write(path: &Path, bytes: u64) -> Option<Errno> {
    let mut file = File::create(path).unwrap();
    let piece = vec![7; 64 << 10];
    let written = (0..bytes >> 16).try_for_each(|_| file.write_all(&piece));
    let written = written.and_then(|()| file.sync_all());
    let cause = written.err()?;
    Some(Errno::from_raw(cause.raw_os_error().unwrap()))
}

/// Bytes that a file system has in all.
fn size(of: &Path) -> u64 {
    let disk = statvfs(of).unwrap();
    disk.blocks() * disk.fragment_size()
}

fn is_limited(mounts: &[Mount]) -> bool {
    upper(mounts).ends_with("data/u")
}

/// Mounts of images below the root.
fn image_mounts(world: &World) -> Vec<PathBuf> {
    mounts_below(&world.daemon.root().canonicalize().unwrap())
}

fn layerctl(world: &World, arguments: &[&str]) -> String {
    let mut layerctl = Command::new(profile().join("layerctl"));
    layerctl.arg("--address").arg(world.daemon.socket());
    output(layerctl.args(arguments))
}

#[test]
fn root_a_layer_is_held_to_its_label() {
    let mut world = world("");
    let labels = [(SIZE, "16m"), (INODES, "100")];
    let mounts = world.client.prepare("one", "base", &labels).unwrap();
    assert!(is_limited(&mounts));
    assert_eq!(world.client.mounts("one").unwrap(), mounts);
    let seen = Seen::new(&world, &mounts);
    assert!(size(&seen.0) <= 16 * MIB && size(&seen.0) > 10 * MIB);
    assert_eq!(write(&seen.0.join("large"), 32 * MIB), Some(Errno::ENOSPC));
    let other = world.client.prepare("other", "base", &[]).unwrap();
    assert!(!is_limited(&other));
    assert_eq!(write(&upper(&other).join("large"), 32 * MIB), None);
    let usage = world.client.usage("one").unwrap();
    let most = i64::try_from(16 * MIB).unwrap();
    assert!(usage.size > most / 2 && usage.size <= most, "{usage:?}");
    let listed = layerctl(&world, &["snapshot", "ls"]);
    let line = listed.lines().find(|line| line.ends_with(" one")).unwrap();
    assert!(
        line.contains("16m, 100 inodes") && listed.contains("LIMIT"),
        "{listed}"
    );
    let shown = layerctl(&world, &["snapshot", "show", "one"]);
    assert!(shown.contains("Limit: 16m, 100 inodes"), "{shown}");
    let info = layerctl(&world, &["info"]);
    assert!(info.contains("container limits: image files"), "{info}");
    drop(seen);
    world.client.remove("one").unwrap();
    world.client.remove("other").unwrap();
    world.client.remove("base").unwrap();
    world.daemon.assert_empty();
    assert_eq!(image_mounts(&world), Vec::<PathBuf>::new());
    world.assert_no_errors_logged();
}

/// By a quota where the kernel has them, and by an image elsewhere: what a client sees is the same.
#[test]
fn root_a_layer_is_held_to_its_label_on_xfs_with_quotas() {
    let (scratch, has_quotas) = Scratch::on_xfs_with_quotas(512);
    let disk = scratch.dir("disk");
    let mut world = World::configured_in(scratch, &disk, "");
    world.client.committed("base", "").unwrap();
    let labels = [(SIZE, "16m"), (INODES, "100")];
    let mounts = world.client.prepare("one", "base", &labels).unwrap();
    assert_eq!(is_limited(&mounts), !has_quotas, "in an image");
    let seen = Seen::new(&world, &mounts);
    assert!(size(&seen.0) <= 16 * MIB && size(&seen.0) > 10 * MIB);
    assert_eq!(write(&seen.0.join("large"), 32 * MIB), Some(Errno::ENOSPC));
    world.kill9_and_restart();
    assert_eq!(world.client.mounts("one").unwrap(), mounts);
    fs::remove_file(seen.0.join("large")).unwrap();
    assert_eq!(write(&seen.0.join("large"), 32 * MIB), Some(Errno::ENOSPC));
    drop(seen);
    world.client.commit("done", "one", &[]).unwrap();
    let view = world.client.view("view", "done", &[]).unwrap();
    let lower = crate::option(&view[0], "lowerdir").unwrap();
    let top = PathBuf::from(lower.split(':').next().unwrap());
    assert!(top.join("large").exists());
    wait_until("the limit to go", Duration::from_secs(20), || {
        let notes = fs::read_dir(world.daemon.root().join("c")).unwrap();
        notes.count() == 0
    });
    assert_eq!(world.daemon.problems(), None);
    for key in ["view", "done", "base"] {
        world.client.remove(key).unwrap();
    }
    world.daemon.assert_empty();
    world.assert_no_errors_logged();
}

#[test]
fn root_a_large_limit_is_a_file_system_that_grows() {
    let mut world = world("");
    let mounts = world.client.prepare("one", "base", &[(SIZE, "1g")]);
    let seen = Seen::new(&world, &mounts.unwrap());
    assert!(size(&seen.0) > 900 * MIB && size(&seen.0) <= 1024 * MIB);
    assert_eq!(write(&seen.0.join("file"), MIB), None);
}

#[test]
fn root_the_default_is_for_containers_alone() {
    let mut world = world("[limits]\ncontainer_size = \"16m\"\n");
    let client = &mut world.client;
    let mut prepare = |key: &str, parent: &str, labels: &[(&str, &str)]| {
        let mounts = client.prepare(key, parent, labels).unwrap();
        is_limited(&mounts)
    };
    assert!(prepare("default/1/container", "base", &[]));
    assert!(prepare("default/2/other", "base", &[(INODES, "50")]));
    assert!(prepare("default/3/larger", "base", &[(SIZE, "20m")]));
    assert!(!prepare("default/4/exempt", "base", &[(SIZE, "none")]));
    assert!(!prepare("default/5/extract-1 sha256:0f", "base", &[]));
    assert!(!prepare("default/6/lowest", "", &[]));
    world.client.view("view", "base", &[]).unwrap();
    let label = |world: &mut World, key: &str| {
        let info = world.client.stat(key).unwrap();
        info.labels.get(SIZE).cloned()
    };
    let have = label(&mut world, "default/1/container");
    assert_eq!(have.as_deref(), Some("16777216"));
    assert_eq!(
        label(&mut world, "default/4/exempt").as_deref(),
        Some("none")
    );
    // A limit is as long as its layer.
    let field = format!("labels.{SIZE}");
    world.refuses("another limit", Code::InvalidArgument, |client| {
        client.relabel("default/1/container", &[(SIZE, "1g")], Some(&[&field]))
    });
    world
        .client
        .relabel("default/1/container", &[("a", "b")], None)
        .unwrap();
    assert_eq!(label(&mut world, "default/1/container"), have);
    let info = layerctl(&world, &["info"]);
    assert!(
        info.contains("16777216 bytes for each container; 3 held"),
        "{info}"
    );
}

#[test]
fn root_limits_outlive_crashes_and_reboots() {
    let mut world = world("");
    let mounts = world
        .client
        .prepare("one", "base", &[(SIZE, "16m")])
        .unwrap();
    let seen = Seen::new(&world, &mounts);
    fs::write(seen.0.join("file"), "content").unwrap();
    world.kill9_and_restart();
    assert_eq!(world.client.mounts("one").unwrap(), mounts);
    assert_eq!(image_mounts(&world).len(), 1, "mounted as before");
    fs::write(seen.0.join("later"), "goes on").unwrap();
    drop(seen);
    world.daemon.kill9();
    for target in image_mounts(&world) {
        output(Command::new("umount").arg(target));
    }
    world.daemon.restart();
    world.client = world.daemon.snapshots();
    assert_eq!(image_mounts(&world), Vec::<PathBuf>::new(), "no call asked");
    assert_eq!(world.daemon.problems(), None);
    assert_eq!(world.client.mounts("one").unwrap(), mounts);
    let seen = Seen::new(&world, &mounts);
    let read = |name| fs::read_to_string(seen.0.join(name)).unwrap();
    assert_eq!(
        (read("file"), read("later")),
        ("content".into(), "goes on".into())
    );
    drop(seen);
    world.client.remove("one").unwrap();
    world.kill9_and_restart();
    world.client.remove("base").unwrap();
    world.daemon.assert_empty();
    assert_eq!(image_mounts(&world), Vec::<PathBuf>::new());
}

#[test]
fn root_commit_copies_what_a_limited_layer_holds() {
    let mut world = world("");
    let mounts = world
        .client
        .prepare("one", "base", &[(SIZE, "16m")])
        .unwrap();
    let seen = Seen::new(&world, &mounts);
    fs::write(seen.0.join("file"), "content").unwrap();
    assert_eq!(write(&seen.0.join("large"), 4 * MIB), None);
    drop(seen);
    world.client.commit("done", "one", &[]).unwrap();
    let view = world.client.view("view", "done", &[]).unwrap();
    let lower = crate::option(&view[0], "lowerdir").unwrap();
    let top = PathBuf::from(lower.split(':').next().unwrap());
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "content");
    wait_until("the image to go", Duration::from_secs(20), || {
        image_mounts(&world).is_empty()
    });
    let usage = world.client.usage("done").unwrap();
    assert!(usage.size >= i64::try_from(4 * MIB).unwrap(), "{usage:?}");
    assert_eq!(world.daemon.problems(), None);
    let next = world
        .client
        .prepare("next", "done", &[(SIZE, "8m")])
        .unwrap();
    let seen = Seen::new(&world, &next);
    assert_eq!(fs::read_to_string(seen.0.join("file")).unwrap(), "content");
    world.assert_no_errors_logged();
}

#[test]
fn root_a_bad_limit_is_refused_by_its_label() {
    let mut world = world("");
    for (labels, rule) in [
        (&[(SIZE, "10q")][..], "\"10q\" is not a size above 0"),
        (
            &[(SIZE, "1m")],
            "1048576 bytes, and a layer can be held to 4194304",
        ),
        (
            &[(SIZE, "16m"), (INODES, "many")],
            "\"many\" is not a number",
        ),
        (&[(INODES, "100")], "needs the label"),
        (&[(SIZE, "none"), (INODES, "100")], "needs the label"),
    ] {
        let said = world.refuses("a bad limit", Code::InvalidArgument, |client| {
            client.prepare("one", "base", labels)
        });
        let label = labels.last().unwrap().0;
        assert!(said.contains(rule) && said.contains(label), "{said}");
    }
    let said = world.refuses("no parent", Code::InvalidArgument, |client| {
        client.prepare("one", "", &[(SIZE, "16m")])
    });
    assert!(said.contains("needs a parent"), "{said}");
}

#[test]
fn root_drivers_without_limits_refuse_them() {
    let drivers = [
        ("native", Scratch::on_tmpfs()),
        ("overlay1", Scratch::on("ext4", 64)),
        ("btrfs", Scratch::on("btrfs", 256)),
    ];
    for (driver, scratch) in drivers {
        let data = scratch.dir("disk/d");
        let daemon = Daemon::start_with(&data, &["--driver", driver]);
        let mut client = daemon.snapshots();
        client.committed("base", "").unwrap();
        let refused = client.prepare("one", "base", &[(SIZE, "16m")]).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let said = refused.message();
        assert!(said.contains(SIZE), "{said}");
        assert!(
            said.contains("the driver") && said.contains("overlay does"),
            "{said}"
        );
        client.prepare("one", "base", &[(SIZE, "none")]).unwrap();
    }
}
