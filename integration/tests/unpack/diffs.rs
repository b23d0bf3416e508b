//! Layers that are made, as containerd's content store gets them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::process::{output, wait_until};
use layerd_integration::snapshots::channel;
use layerd_integration::{Containerd, Daemon, Scratch, Snapshots, Tree, Version};
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::services::diff::v1::{ApplyRequest, DiffRequest};
use layerd_proto::containerd::types::{Descriptor, Mount};
use nix::mount::{MsFlags, mount, umount};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::Request;

use super::{daemon, moved, text};

/// A snapshot `b` over `parent`, and a view of that.
struct World {
    daemon: Daemon,
    containerd: Containerd,
    scratch: Scratch,
    snapshots: Snapshots,
    runtime: Runtime,
    left: Vec<Mount>,
    right: Vec<Mount>,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let daemon = daemon(&scratch, "");
        let dir = scratch.dir("c");
        let containerd = Containerd::start_unpacking(Version::V2_1, &dir, daemon.socket());
        let mut snapshots = daemon.snapshots();
        snapshots.prepare("a", "", &[]).unwrap();
        snapshots.commit("parent", "a", &[]).unwrap();
        Self {
            left: snapshots.view("v", "parent", &[]).unwrap(),
            right: snapshots.prepare("b", "parent", &[]).unwrap(),
            runtime: Builder::new_multi_thread().enable_all().build().unwrap(),
            daemon,
            containerd,
            scratch,
            snapshots,
        }
    }

    /// Where `b` is written to.
    fn upper(&self) -> PathBuf {
        self.daemon.root().join("l/3")
    }

    fn request(&self, media_type: &str) -> Request<DiffRequest> {
        in_namespace(DiffRequest {
            left: self.left.clone(),
            right: self.right.clone(),
            media_type: media_type.into(),
            ..DiffRequest::default()
        })
    }

    fn diff(&self, media_type: &str) -> Descriptor {
        let socket = self.daemon.socket().to_owned();
        let made = self.runtime.block_on(async {
            let mut client = DiffClient::new(channel(socket));
            client.diff(self.request(media_type)).await
        });
        made.unwrap().into_inner().diff.unwrap()
    }

    /// Unpacks a blob over `parent`, and answers the digest of the archive in it.
    fn apply(&mut self, key: &str, diff: &Descriptor) -> String {
        let mounts = self.snapshots.prepare(key, "parent", &[]).unwrap();
        let socket = self.daemon.socket().to_owned();
        let request = in_namespace(ApplyRequest {
            diff: Some(diff.clone()),
            mounts,
            ..ApplyRequest::default()
        });
        let applied = self.runtime.block_on(async {
            let mut client = DiffClient::new(channel(socket));
            client.apply(request).await
        });
        applied.unwrap().into_inner().applied.unwrap().digest
    }

    /// Takes a blob out of containerd and decompresses it with a program into a file.
    fn get(&self, diff: &Descriptor, program: &str, archive: &Path) {
        let blob = self.scratch.path().join("blob");
        let got = self.containerd.try_ctr(&["content", "get", &diff.digest]);
        std::fs::write(&blob, got.stdout).unwrap();
        assert_eq!(digest(&blob), diff.digest);
        let size = std::fs::metadata(&blob).unwrap().len();
        assert_eq!(size, u64::try_from(diff.size).unwrap());
        let mut plain = Command::new(program);
        if program != "cat" {
            plain.args(["--decompress", "--stdout"]);
        }
        let blob = std::fs::File::open(&blob).unwrap();
        let plain = plain.stdin(blob).output().unwrap();
        assert!(plain.status.success(), "{program}");
        std::fs::write(archive, plain.stdout).unwrap();
    }

    /// The ingestions and the leases of layerd that containerd has.
    fn left_behind(&self) -> (bool, bool) {
        let has = |arguments: &[&str]| self.containerd.ctr(arguments).contains("layerd-");
        (has(&["content", "active"]), has(&["leases", "ls"]))
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", "layerd-test".parse().unwrap());
    request
}

fn digest(file: &Path) -> String {
    let said = output(Command::new("sha256sum").arg(file));
    format!("sha256:{}", said.split(' ').next().unwrap())
}

/// A layer arrives in the form that was asked for, says what it is, and holds the same again.
#[test]
fn root_layers_are_made_in_every_form() {
    let mut world = World::new();
    let archive = world.scratch.path().join("layer.tar");
    write_layer(&archive, &busybox());
    output(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(world.upper()),
    );
    let made = Tree::read(&world.upper());
    let mut archives = Vec::new();
    for (number, (form, program)) in [("", "cat"), ("+gzip", "gzip"), ("+zstd", "zstd")]
        .into_iter()
        .enumerate()
    {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{form}");
        let diff = world.diff(&media_type);
        assert_eq!(diff.media_type, media_type);
        world.get(&diff, program, &archive);
        let key = format!("again-{number}");
        let uncompressed = world.apply(&key, &diff);
        assert_eq!(digest(&archive), uncompressed);
        let listed = world.containerd.ctr(&["content", "ls"]);
        let line = listed
            .lines()
            .find(|line| line.starts_with(&diff.digest))
            .unwrap();
        assert!(
            line.contains(&format!("containerd.io/uncompressed={uncompressed}")),
            "{line}"
        );
        let id = 4 + number;
        Tree::read(&world.daemon.root().join(format!("l/{id}"))).assert_equals(&made);
        archives.push(uncompressed);
    }
    archives.dedup();
    assert_eq!(archives.len(), 1, "the same archive in each form");
    assert_eq!(moved(&world.daemon), (3, 3));
    assert_eq!(
        world.left_behind(),
        (false, true),
        "blobs are kept by their leases"
    );
    world.daemon.stop();
}

/// Layers with redirect_dir are left to containerd's differ, which mounts them.
#[test]
fn root_a_directory_that_was_renamed_with_redirect_dir_is_in_the_layer() {
    let world = World::new();
    let below = world.daemon.root().join("l/1/old");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("file"), "content").unwrap();
    let target = world.scratch.dir("m");
    let options = format!("{},redirect_dir=on", world.right[0].options.join(","));
    let (kind, flags) = (Some("overlay"), MsFlags::empty());
    mount(kind, &target, kind, flags, Some(&*options)).unwrap();
    std::fs::rename(target.join("old"), target.join("new")).unwrap();
    umount(&target).unwrap();
    let mut request = world.request("application/vnd.oci.image.layer.v1.tar");
    let root = ("containerd.io/gc.root".to_owned(), "test".to_owned());
    request.get_mut().labels.extend([root]);
    let made = world.runtime.block_on(async {
        let mut client = DiffClient::new(channel(world.containerd.socket().to_owned()));
        client.diff(request).await
    });
    let diff = made.unwrap().into_inner().diff.unwrap();
    let archive = world.scratch.path().join("archive");
    world.get(&diff, "cat", &archive);
    let names = output(Command::new("tar").arg("-tf").arg(&archive));
    for name in ["new/file", ".wh.old"] {
        assert!(names.lines().any(|line| line == name), "no {name}: {names}");
    }
    assert_eq!(moved(&world.daemon), (0, 0));
    let log = world.daemon.log();
    assert!(log.contains("redirect_dir"), "{log}");
}

/// A client that goes while a layer is made leaves nothing of it with containerd.
#[test]
fn root_a_client_that_hangs_up_leaves_nothing_in_the_content_store() {
    let mut world = World::new();
    let file = world.upper().join("random");
    let from = "if=/dev/urandom";
    let size = ["bs=1M", "count=192", "status=none"];
    output(
        Command::new("dd")
            .arg(from)
            .arg(format!("of={}", text(&file)))
            .args(size),
    );
    let socket = world.daemon.socket().to_owned();
    let request = world.request("application/vnd.oci.image.layer.v1.tar+gzip");
    let mut calls = JoinSet::new();
    calls.spawn_on(
        async move { DiffClient::new(channel(socket)).diff(request).await },
        world.runtime.handle(),
    );
    let limit = Duration::from_secs(20);
    wait_until("the layer to be on its way", limit, || {
        world.left_behind() == (true, true)
    });
    calls.abort_all();
    let outcome = world.runtime.block_on(calls.join_next()).unwrap();
    assert!(
        outcome.unwrap_err().is_cancelled(),
        "the call was over before"
    );
    wait_until("all of it to be dropped", limit, || {
        world.left_behind() == (false, false)
    });
    assert_eq!(moved(&world.daemon), (0, 0));
    std::fs::remove_file(file).unwrap();
    world.diff("");
    world.daemon.stop();
}
