//! Layers of an image that are unpacked at the same time, call by call as containerd 2.2 and 2.3 do
//! it with the capability `rebase`: each is prepared without a parent, all are unpacked at once,
//! and Commit names the parents, from the lowest layer on.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use layerd_integration::image::{corpus, write_layer};
use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::wire::Answer;
use layerd_integration::{Daemon, Entry, Layer, Scratch, Snapshots, Tree};
use layerd_proto::containerd::services::diff::v1::ApplyRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::types::{Descriptor, Mount};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::runtime::Builder;
use tonic::Code;

const REF: &str = "containerd.io/snapshot.ref";
const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const PARENT: &str = "containerd.io/snapshot/parent-chain-id";

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const BLOBS: &str = "c/io.containerd.content.v1.content/blobs/sha256";
const REBASE: &str = "[overlayfs]\nrebase = true\n";

struct World {
    client: Snapshots,
    daemon: Daemon,
    scratch: Scratch,
}

/// A layer's blob in the content store.
#[derive(Debug, Clone)]
struct Blob(Descriptor);

impl World {
    fn new() -> Self {
        Self::on(Scratch::new(), REBASE)
    }

    fn on(scratch: Scratch, more: &str) -> Self {
        let file = scratch.path().join("layerd.toml");
        configure(&file, more);
        let _ = scratch.dir(BLOBS);
        // Short paths: five layers and more must fit into the options of a mount.
        let disk = scratch.dir("disk");
        let daemon = Daemon::start_with(&disk, &["--config", file.to_str().unwrap()]);
        Self {
            client: daemon.snapshots(),
            daemon,
            scratch,
        }
    }

    fn restart(&mut self) {
        self.daemon.restart();
        self.client = self.daemon.snapshots();
    }

    fn blob(&self, layer: &Layer) -> Blob {
        let file = self.scratch.path().join("layer.tar");
        write_layer(&file, layer);
        let sum = output(Command::new("sha256sum").arg(&file));
        let digest = sum.split(' ').next().unwrap();
        let size = i64::try_from(std::fs::metadata(&file).unwrap().len()).unwrap();
        std::fs::rename(&file, self.scratch.path().join(BLOBS).join(digest)).unwrap();
        Blob(Descriptor {
            media_type: TAR.to_owned(),
            digest: format!("sha256:{digest}"),
            size,
            ..Descriptor::default()
        })
    }

    fn blobs(&self, layers: &[Layer]) -> Vec<Blob> {
        layers.iter().map(|layer| self.blob(layer)).collect()
    }

    fn apply(&self, mounts: Vec<Mount>, blob: &Blob) -> Answer<()> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let request = ApplyRequest {
            diff: Some(blob.0.clone()),
            mounts,
            ..ApplyRequest::default()
        };
        let applied = runtime.block_on(async {
            let mut client = DiffClient::new(channel(self.daemon.socket().to_owned()));
            client.apply(request).await
        })?;
        let applied = applied.into_inner().applied.unwrap();
        assert_eq!(
            (applied.digest, applied.size),
            (blob.0.digest.clone(), blob.0.size)
        );
        Ok(())
    }

    /// One layer after the other, each prepared on the one below. Names begin with `image`.
    fn one_by_one(&mut self, image: &str, blobs: &[Blob]) {
        for (number, blob) in blobs.iter().enumerate() {
            let (name, parent) = (name(image, number), parent(image, number));
            let key = format!("extract {name}");
            // Without the label it is a layer like any, and the lowest one a bind mount.
            let mounts = self.client.prepare(&key, &parent, &[]).unwrap();
            self.apply(mounts, blob).unwrap();
            self.client.commit(&name, &key, &[(REF, &name)]).unwrap();
        }
    }

    /// All at once.
    fn together(&mut self, image: &str, blobs: &[Blob]) {
        self.unpack_together(image, blobs);
        for number in 0..blobs.len() {
            self.commit(image, number).unwrap();
        }
    }

    fn unpack_together(&self, image: &str, blobs: &[Blob]) {
        let start = Barrier::new(blobs.len());
        thread::scope(|scope| {
            for (number, blob) in blobs.iter().enumerate() {
                let (start, world) = (&start, &*self);
                scope.spawn(move || {
                    let mounts = prepare(&mut world.daemon.snapshots(), image, number, blob);
                    start.wait();
                    world.apply(mounts, blob).unwrap();
                });
            }
        });
    }

    fn commit(&mut self, image: &str, number: usize) -> Answer<()> {
        let name = name(image, number);
        let key = format!("extract {name}");
        let parent = parent(image, number);
        self.client
            .commit_onto(&name, &key, &parent, &[(REF, &name)])
    }

    /// Content of a view of a committed snapshot, with the times of all but the root directory.
    fn seen(&mut self, name: &str) -> (Tree, BTreeMap<PathBuf, (i64, i64)>) {
        let key = format!("view {name}");
        let mounts = self.client.view(&key, name, &[]).unwrap();
        let at = self.scratch.dir("mounted");
        mount_all(&mounts, &at);
        let mut times = BTreeMap::new();
        times_below(&at, &at, &mut times);
        let tree = Tree::read(&at);
        umount2(&at, MntFlags::empty()).unwrap();
        self.client.remove(&key).unwrap();
        (tree, times)
    }

    fn assert_same(&mut self, one: &str, other: &str) {
        let ((wanted, wanted_times), (tree, times)) = (self.seen(one), self.seen(other));
        tree.assert_equals(&wanted);
        // Directories that nothing tells anything about have the time at which they were made.
        let made_up = |path: &Path| path.to_str().unwrap().ends_with("ddd");
        let differ = |(path, time): (&PathBuf, _)| !made_up(path) && times.get(path) != Some(time);
        let differing: Vec<_> = wanted_times.iter().filter(|entry| differ(*entry)).collect();
        assert!(differing.is_empty(), "other times: {differing:?}");
    }

    /// Number of Commits that used the results of unpacking, and of those that walked the layer.
    fn trusted(&self) -> (usize, usize) {
        let log = self.daemon.log();
        let lines = |word: &str| log.lines().filter(|line| line.contains(word)).count();
        (lines("trusted=true"), lines("trusted=false"))
    }
}

fn configure(file: &Path, more: &str) {
    let dir = file.parent().unwrap().display();
    let text = format!(
        "[log]\nlevel = \"debug\"\n[containerd]\naddress = \"{dir}/none\"\nroot = \"{dir}/c\"\n{more}"
    );
    std::fs::write(file, text).unwrap();
}

fn name(image: &str, number: usize) -> String {
    format!("{image}/{number}")
}

/// Empty for the lowest layer.
fn parent(image: &str, number: usize) -> String {
    number
        .checked_sub(1)
        .map_or_else(String::new, |below| name(image, below))
}

/// Prepare as containerd 2.3 sends it for a layer whose parent is not there yet.
fn prepare(client: &mut Snapshots, image: &str, number: usize, blob: &Blob) -> Vec<Mount> {
    let (name, parent) = (name(image, number), parent(image, number));
    let mut labels = vec![(REF, &*name), (DIFF_ID, &*blob.0.digest)];
    if number > 0 {
        labels.push((PARENT, &*parent));
    }
    client
        .prepare(&format!("extract {name}"), "", &labels)
        .unwrap()
}

fn mount_all(mounts: &[Mount], at: &Path) {
    let [one] = mounts else {
        panic!("not one mount: {mounts:?}")
    };
    let is_flag = |option: &&String| ["ro", "rw", "rbind"].contains(&option.as_str());
    let data: Vec<_> = one
        .options
        .iter()
        .filter(|option| !is_flag(option))
        .cloned()
        .collect();
    let (kind, flags) = match one.r#type.as_str() {
        "bind" => (None, MsFlags::MS_BIND),
        kind => (Some(kind), MsFlags::empty()),
    };
    mount(Some(&*one.source), at, kind, flags, Some(&*data.join(","))).unwrap();
}

fn times_below(top: &Path, dir: &Path, times: &mut BTreeMap<PathBuf, (i64, i64)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(top).unwrap().to_owned();
        times.insert(relative, (found.mtime(), found.mtime_nsec()));
        if found.is_dir() {
            times_below(top, &path, times);
        }
    }
}

/// The corpus, below and above layers that are hard on who does not know what lies below.
fn layers() -> Vec<Layer> {
    let odd = vec![
        Entry::directory("odd")
            .mode(0o1751)
            .owner(5, 6)
            .xattr("user.kind", b"odd"),
        Entry::directory("odd/deep").mode(0o2711).owner(7, 8),
        Entry::file("odd/deep/old", "old"),
        Entry::file("odd/.wh.never", ""),
        Entry::file(".wh.nothing", ""),
        Entry::directory("names"),
        Entry::directory("names/gone").owner(3, 3),
    ];
    let implying = vec![
        Entry::file("odd/deep/new", "new").owner(0, 8),
        Entry::file("odd/.wh.none", ""),
    ];
    let mut layers = corpus();
    let base = layers.remove(0);
    layers.insert(0, [base, odd].concat());
    layers.push(implying);
    layers
}

#[test]
fn root_layers_unpacked_together_are_those_unpacked_one_by_one() {
    let mut world = World::new();
    let blobs = world.blobs(&layers());
    world.one_by_one("slow", &blobs);
    world.together("fast", &blobs);
    for number in 0..blobs.len() {
        world.assert_same(&name("slow", number), &name("fast", number));
        let usage = |world: &mut World, image| world.client.usage(&name(image, number)).unwrap();
        let (slow, fast) = (usage(&mut world, "slow"), usage(&mut world, "fast"));
        assert_eq!(slow, fast, "layer {number}");
    }
    // All knew what they held without looking; the lowest one of the second image held whiteouts,
    // and was looked at once these were gone.
    assert_eq!(world.trusted(), (2 * blobs.len(), 0));
    let stat = world.client.stat(&name("fast", 2)).unwrap();
    assert_eq!(stat.parent, name("fast", 1));
    assert_no_devices(world.daemon.root());
    world.daemon.assert_no_errors_logged();
}

/// No whiteout is left in the lowest layers, which anybody may look at without overlayfs.
fn assert_no_devices(root: &Path) {
    for layer in std::fs::read_dir(root.join("l")).unwrap() {
        let layer = layer.unwrap().path();
        if !layer.join("bin/busybox").exists() {
            continue;
        }
        for name in [".", "odd"] {
            for entry in std::fs::read_dir(layer.join(name)).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                assert!(!kind.is_char_device(), "{:?}", entry.path());
            }
        }
    }
}

#[test]
fn root_layers_unpacked_together_are_the_same_on_xfs() {
    let mut world = World::on(Scratch::on_xfs(300), REBASE);
    let blobs = world.blobs(&layers());
    world.one_by_one("slow", &blobs);
    world.together("fast", &blobs);
    for number in 0..blobs.len() {
        world.assert_same(&name("slow", number), &name("fast", number));
    }
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_a_layer_that_waits_for_its_parent_is_an_overlay_over_nothing() {
    let mut world = World::new();
    let root = world.daemon.root().canonicalize().unwrap();
    let mounts = world
        .client
        .prepare("waits", "", &[(REF, "chain")])
        .unwrap();
    let [one] = &*mounts else {
        panic!("not one mount: {mounts:?}")
    };
    assert_eq!((&*one.r#type, &*one.source), ("overlay", "overlay"));
    let expected = ["workdir=", "upperdir=", "lowerdir="];
    for (option, name) in one.options.iter().zip(expected) {
        assert!(option.starts_with(name), "{option}");
    }
    assert_eq!(one.options[2], format!("lowerdir={}/e", root.display()));
    assert!(!one.options.iter().any(|option| option == "ro"));
    let at = world.scratch.dir("mounted");
    mount_all(&mounts, &at);
    std::fs::write(at.join("file"), "content").unwrap();
    umount2(&at, MntFlags::empty()).unwrap();
    assert_eq!(world.client.mounts("waits").unwrap(), mounts);

    // What it is stays with it, whatever the configuration and a restart do.
    configure(&world.scratch.path().join("layerd.toml"), "");
    world.daemon.stop();
    world.restart();
    assert_eq!(world.client.mounts("waits").unwrap(), mounts);
    mount_all(&mounts, &at);
    assert_eq!(std::fs::read(at.join("file")).unwrap(), b"content");
    umount2(&at, MntFlags::empty()).unwrap();
    world.client.commit("done", "waits", &[]).unwrap();
    let others = world
        .client
        .prepare("other", "", &[(REF, "chain")])
        .unwrap();
    assert_eq!(others[0].r#type, "bind");
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_only_layers_of_images_wait_for_a_parent() {
    let mut world = World::new();
    let kind = |mounts: Vec<Mount>| mounts[0].r#type.clone();
    let client = &mut world.client;
    assert_eq!(kind(client.prepare("plain", "", &[]).unwrap()), "bind");
    let view = client.view("view", "", &[(REF, "chain")]).unwrap();
    assert_eq!(kind(view), "bind");
    client.commit("base", "plain", &[]).unwrap();
    let child = client.prepare("child", "base", &[(REF, "chain")]).unwrap();
    assert!(
        child[0]
            .options
            .iter()
            .all(|option| !option.ends_with("/e"))
    );
}

#[test]
fn root_a_layer_whose_deletions_are_lost_gets_no_parent() {
    let mut world = World::on(Scratch::new(), "");
    let blobs = world.blobs(&layers()[..2]);
    world.unpack_together("image", &blobs);
    world.commit("image", 0).unwrap();
    let refused = world.commit("image", 1).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("rebase = true"), "{refused}");
    // As the lowest layer it would be whole.
    world
        .client
        .commit("alone", "extract image/1", &[])
        .unwrap();
}

#[test]
fn root_a_parent_that_cannot_be_leaves_the_layer_active() {
    let mut world = World::new();
    let blobs = world.blobs(&layers()[..2]);
    world.unpack_together("image", &blobs);
    let refused = world.commit("image", 1).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let key = "extract image/1";
    let onto = |world: &mut World, parent: &str| {
        world
            .client
            .commit_onto("image/1", key, parent, &[])
            .unwrap_err()
    };
    assert_eq!(
        onto(&mut world, "extract image/0").code(),
        Code::FailedPrecondition
    );
    world.commit("image", 0).unwrap();
    world.commit("image", 1).unwrap();
    // Once more, as after a crash of containerd.
    world.commit("image", 1).unwrap();
    world.one_by_one("slow", &blobs);
    world.assert_same("slow/1", "image/1");
}

#[test]
fn root_two_that_unpack_the_same_layer_do_not_disturb_each_other() {
    let mut world = World::new();
    let blob = world.blob(&layers()[0]);
    let start = Barrier::new(2);
    let labels = [(REF, "chain")];
    let (world_ref, blob_ref, start) = (&world, &blob, &start);
    thread::scope(|scope| {
        for key in ["one", "two"] {
            scope.spawn(move || {
                let mut client = world_ref.daemon.snapshots();
                start.wait();
                let mounts = client.prepare(key, "", &labels).unwrap();
                world_ref.apply(mounts, blob_ref).unwrap();
            });
        }
    });
    world.client.commit("chain", "one", &labels).unwrap();
    let late = world.client.commit("chain", "two", &labels).unwrap_err();
    assert_eq!(late.code(), Code::AlreadyExists, "{late}");
    world.client.remove("two").unwrap();
}

#[test]
fn root_a_crash_before_commit_loses_no_content() {
    let mut world = World::new();
    let blobs = world.blobs(&layers());
    world.unpack_together("image", &blobs);
    world.daemon.kill9();
    world.restart();
    for number in 0..blobs.len() {
        world.commit("image", number).unwrap();
    }
    world.one_by_one("slow", &blobs);
    let top = blobs.len() - 1;
    let (mut whole, _) = world.seen(&name("slow", top));
    let (mut tree, _) = world.seen(&name("image", top));
    // What unpacking knew of these went with the process.
    for path in ["odd", "odd/deep", "etc", "names", "kinds"] {
        assert!(
            tree.0.remove(path).is_some() && whole.0.remove(path).is_some(),
            "{path}"
        );
    }
    tree.assert_equals(&whole);
    assert_eq!(world.trusted().1, 0);
}
