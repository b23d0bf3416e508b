//! Containers that runc runs on layerd's snapshots, with mounts that
//! `layerctl oci-apply` put into their bundles.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use layerd_integration::Entry;
use layerd_integration::image::{busybox, write_layer};
use layerd_integration::process::{output, wait_until};
use serde_json::{Value, json};

use super::{World, text};

const LIMIT: Duration = Duration::from_secs(60);

/// A bundle whose root file system is a snapshot.
struct Container<'w> {
    world: &'w World,
    name: String,
    bundle: PathBuf,
}

impl World {
    /// Commits `image`: busybox, and a folder to fill volumes from.
    pub(super) fn commit_image(&self) {
        let mounts = self.json(&["snapshot", "prepare", "unpack"]);
        let archive = self.scratch.path().join("layer.tar");
        let mut layer = busybox();
        layer.push(Entry::directory("seed").owner(5, 6).mode(0o750));
        layer.push(Entry::file("seed/file", "from the image"));
        write_layer(&archive, &layer);
        let mut tar = Command::new("tar");
        tar.arg("-xpf").arg(archive).arg("-C");
        output(tar.arg(text(&mounts[0], "source")));
        self.run(&["snapshot", "commit", "image", "unpack"]);
    }

    /// A container that will run `script`.
    fn container(&self, name: &str, script: &str) -> Container<'_> {
        let bundle = self.scratch.dir(name);
        let mounts = self.json(&["snapshot", "prepare", name, "image"]);
        mount(&mounts[0], &self.scratch.dir(&format!("{name}/rootfs")));
        output(Command::new("runc").arg("spec").arg("-b").arg(&bundle));
        let container = Container {
            world: self,
            name: name.to_owned(),
            bundle,
        };
        let mut config = container.config();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-euc", script]);
        config["root"]["readonly"] = json!(false);
        // One parent for all tests, as runc leaves it behind, empty.
        config["linux"]["cgroupsPath"] = json!(format!("/layerd-test/{}", container.id()));
        std::fs::write(container.file(), config.to_string()).unwrap();
        container
    }
}

fn mount(mount: &Value, target: &Path) {
    let options: Vec<&str> = mount["options"]
        .as_array()
        .unwrap()
        .iter()
        .map(|option| option.as_str().unwrap())
        .collect();
    let mut command = Command::new("mount");
    command.args(["-t", &text(mount, "type"), "-o", &options.join(",")]);
    output(command.arg(text(mount, "source")).arg(target));
}

impl Container<'_> {
    fn file(&self) -> PathBuf {
        self.bundle.join("config.json")
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap()
    }

    fn owner(&self) -> String {
        format!("container:{}", self.name)
    }

    fn apply<'a>(&'a self, more: &[&'a str]) -> Vec<Value> {
        let owner = self.owner();
        let apply = [
            "oci-apply",
            self.bundle.to_str().unwrap(),
            "--owner",
            &owner,
        ];
        self.world.json(&[&apply, more].concat())
    }

    /// Unique on the machine.
    fn id(&self) -> String {
        let scratch = self.world.scratch.path().file_name().unwrap();
        format!("{}-{}", scratch.to_str().unwrap(), self.name)
    }

    /// As a supervisor does.
    fn start(&self) -> Child {
        let scratch = self.world.scratch.path();
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(scratch.join("runc"));
        runc.args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(self.id());
        runc.stdin(Stdio::null());
        runc.stdout(Stdio::piped()).stderr(Stdio::piped());
        runc.spawn().unwrap()
    }

    /// Removes everything but what was attached.
    fn remove(&self) {
        output(Command::new("umount").arg(self.bundle.join("rootfs")));
        self.world.run(&["snapshot", "rm", &self.name]);
    }
}

/// Output of a container, once it has ended.
fn printed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

const WRITER: &str = "
    echo one > /data/file
    mkdir /data/sub; echo deep > /data/sub/f
    cat /host/note; echo back > /host/reply
    dd if=/dev/zero of=/fast/big bs=64k count=32 2>/dev/null || echo tmpfs is full
    stat -c %s /fast/big
    cat /tools/etc/motd; touch /tools/x 2>/dev/null || echo image is read-only
    echo layer > /only-in-the-snapshot
    touch /data/ready
    while [ ! -e /data/stop ]; do sleep 0.1; done";

const READER: &str = "
    cat /in/file /sub/f
    touch /in/x 2>/dev/null || echo volume is read-only
    echo two > /sub/g; ls /sub";

#[test]
fn root_containers_share_volumes_that_outlive_them() {
    let world = World::new();
    world.commit_image();
    let host = world.scratch.dir("host");
    std::fs::write(host.join("note"), "from the host\n").unwrap();
    let host_flag = format!("{}:/host", host.display());

    let writer = world.container("writer", WRITER);
    let applied = writer.apply(&[
        "-v",
        "data:/data",
        "-v",
        &host_flag,
        "--tmpfs",
        "/fast:size=1m",
        "--mount",
        "type=image,src=image,dst=/tools",
    ]);
    let created: Vec<(String, bool)> = applied
        .iter()
        .map(|one| (text(&one["mount"], "type"), one["created"] == true))
        .collect();
    assert_eq!(applied.len(), 4);
    assert!(
        created.contains(&("volume".to_owned(), true)),
        "{created:?}"
    );
    let volume = world.path("data");
    let writing = writer.start();
    wait_until("the writer", LIMIT, || volume.join("ready").exists());

    let reader = world.container("reader", READER);
    let sub = "type=volume,src=data,dst=/sub,volume-subpath=sub";
    reader.apply(&["-v", "data:/in:ro", "--mount", sub]);
    let read = printed(reader.start());
    assert_eq!(read, "one\ndeep\nvolume is read-only\nf\ng\n");
    assert_refused_while_used(&world);

    std::fs::write(volume.join("stop"), "").unwrap();
    let written = printed(writing);
    let wanted =
        "from the host\ntmpfs is full\n1048576\nfrom the first layer\nimage is read-only\n";
    assert_eq!(written, wanted);
    assert_eq!(
        std::fs::read_to_string(host.join("reply")).unwrap(),
        "back\n"
    );

    for container in [writer, reader] {
        container.remove();
        world.run(&["detach", "--owner", &container.owner()]);
    }
    world.run(&["snapshot", "rm", "image"]);
    assert_eq!(world.mounts(), [] as [PathBuf; 0]);
    assert_eq!(world.json(&["attachments"]).len(), 0);
    assert_eq!(world.read("data"), "one\n");
    let deep = |file: &str| std::fs::read_to_string(volume.join("sub").join(file)).unwrap();
    assert_eq!(
        (deep("f").as_str(), deep("g").as_str()),
        ("deep\n", "two\n")
    );
    assert!(!volume.join("x").exists());
    world.run(&["volume", "rm", "data"]);
}

fn assert_refused_while_used(world: &World) {
    let error = world.fail(5, &["volume", "rm", "data"]);
    assert!(error.contains("writer"), "names who uses it: {error}");
    assert!(
        error.contains("who-uses 'data'"),
        "and how to see it: {error}"
    );
    let users = world.json(&["who-uses", "data"]);
    let owners: Vec<String> = users.iter().map(|one| text(one, "owner")).collect();
    assert_eq!(
        owners,
        ["container:writer", "container:reader", "container:reader"]
    );
    assert_eq!(world.names(&["-f", "dangling=false"]), ["data"]);
    assert_eq!(world.names(&["-f", "dangling=true"]).len(), 0);
    assert_eq!(world.inspect("data")["attachments"], 3);
    world.run(&["volume", "prune", "--all", "--yes"]);
    assert_eq!(world.names(&[]), ["data"]);
    world.fail(5, &["snapshot", "rm", "image"]);
}

#[test]
fn root_a_container_writes_on_while_layerd_is_gone() {
    let mut world = World::new();
    world.commit_image();
    let script = "touch /data/ready
        while [ ! -e /data/stop ]; do sleep 0.1; done; echo after > /data/file";
    let child = {
        let container = world.container("web", script);
        container.apply(&["-v", "data:/data"]);
        container.start()
    };
    let volume = world.path("data");
    wait_until("the container", LIMIT, || volume.join("ready").exists());
    world.run(&["volume", "rename", "data", "renamed"]);
    world.daemon.kill9();
    std::fs::write(volume.join("stop"), "").unwrap();
    assert_eq!(printed(child), "");
    world.daemon.restart();
    assert_eq!(world.read("renamed"), "after\n");
    assert_eq!(
        world.run(&["detach", "--owner", "container:web"]),
        "container:web:/data\n"
    );
}

#[test]
fn root_applying_again_changes_nothing() {
    let world = World::new();
    world.commit_image();
    let shared = world.scratch.dir("shared");
    let mut mount = Command::new("mount");
    output(mount.args(["-t", "tmpfs", "tmpfs"]).arg(&shared));
    output(Command::new("mount").arg("--make-shared").arg(&shared));
    let container = world.container("web", "true");
    let before = container.config();
    // Shared propagation needs a shared mount, whatever the rest of the host is.
    let own = &shared;
    output(Command::new("mount").arg("--bind").arg(own).arg(own));
    output(Command::new("mount").arg("--make-shared").arg(own));
    let shared_flag = format!("{}:/srv/shared:rshared", shared.display());
    let flags = [
        "--tmpfs",
        "/dev/shm:size=1m",
        "-v",
        "data:/srv",
        "-v",
        &shared_flag,
    ];
    let first = container.apply(&flags);
    let once = std::fs::read(container.file()).unwrap();
    let second = container.apply(&flags);
    assert_eq!(std::fs::read(container.file()).unwrap(), once);
    let ids = |all: &[Value]| all.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&second), ids(&first));

    let config = container.config();
    assert_eq!(config["linux"]["rootfsPropagation"], "rshared");
    assert_eq!(config["process"], before["process"]);
    let places = |config: &Value| -> Vec<String> {
        let mounts = config["mounts"].as_array().unwrap();
        mounts
            .iter()
            .map(|mount| text(mount, "destination"))
            .collect()
    };
    let mut wanted = places(&before);
    wanted.retain(|place| place != "/dev/shm");
    let (mut after, place) = (places(&config), |after: &[String], name: &str| {
        after.iter().position(|place| place == name).unwrap()
    });
    assert!(
        place(&after, "/srv") < place(&after, "/srv/shared"),
        "{after:?}"
    );
    assert!(
        place(&after, "/dev") < place(&after, "/dev/shm"),
        "{after:?}"
    );
    after.retain(|place| !["/dev/shm", "/srv", "/srv/shared"].contains(&place.as_str()));
    assert_eq!(after, wanted);
    container.remove();
}

#[test]
fn root_a_bundle_stays_as_it_is_when_something_is_missing() {
    let world = World::new();
    world.commit_image();
    let container = world.container("web", "true");
    let before = std::fs::read(container.file()).unwrap();
    let bundle = container.bundle.to_str().unwrap();
    let apply = ["oci-apply", bundle, "--owner", "container:web"];
    world.fail(
        3,
        &[&apply[..], &["--mount", "type=volume,src=data,dst=/data"]].concat(),
    );
    assert_eq!(std::fs::read(container.file()).unwrap(), before);
    std::fs::write(container.file(), "{\"mounts\": 3}").unwrap();
    world.fail(6, &[&apply[..], &["-v", "data:/data"]].concat());
    assert_eq!(
        (world.names(&[]).len(), world.json(&["attachments"]).len()),
        (0, 0)
    );
    container.remove();
}

#[test]
fn root_a_bundle_that_cannot_be_written_leaves_nothing() {
    let world = World::new();
    world.commit_image();
    let container = world.container("web", "true");
    let file = world.scratch.path().join("config.json");
    std::fs::copy(container.file(), &file).unwrap();
    let small = world.scratch.dir("small");
    // Room for the file as it is, a page, and none for a larger one beside it.
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["mounts"] = json!([]);
    config["linux"] = json!({});
    let bytes = serde_json::to_vec(&config).unwrap();
    assert!(bytes.len() < 4000, "{}", bytes.len());
    let mount = "mount -t tmpfs -o size=8k,nr_inodes=8 small small";
    output(
        Command::new("sh")
            .args(["-euc", mount])
            .current_dir(world.scratch.path()),
    );
    std::fs::write(small.join("config.json"), &bytes).unwrap();
    let attach = |more: &[&str]| {
        let bundle = small.to_str().unwrap();
        world.ctl(&[&["oci-apply", bundle, "--owner", "container:web"], more].concat())
    };
    let long: Vec<String> = (0..40)
        .map(|n| format!("/{}/{n}", "x".repeat(100)))
        .collect();
    let mut flags = vec!["-v", "there:/there", "-v", "made:/made"];
    long.iter()
        .for_each(|target| flags.extend(["--tmpfs", target]));
    world.run(&["volume", "create", "there"]);
    let kept = ["attach", "--owner", "container:web", "-v", "there:/there"];
    world.run(&kept);
    for _ in 0..2 {
        let refused = attach(&flags);
        assert!(refused.error.contains("config.json"), "{refused:?}");
        assert_ne!(refused.code, 0);
        assert_eq!(world.names(&[]), ["there"]);
        let left = world.json(&["attachments"]);
        assert_eq!(left.len(), 1, "what was attached before stays: {left:?}");
        assert_eq!(std::fs::read(small.join("config.json")).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 1);
        // What cannot be written at all is found out first.
        output(Command::new("mount").args(["-o", "remount,ro"]).arg(&small));
    }
    assert_eq!(
        world.names(&["--deleted"]).len(),
        1,
        "made by the first try only"
    );
    output(Command::new("umount").arg(&small));
}
