//! The diff service itself, asked as containerd asks, with a folder of blobs in place of
//! containerd's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use layerd_integration::image::{corpus, write_layer};
use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Entry, Scratch, Snapshots};
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::services::diff::v1::{ApplyRequest, DiffRequest};
use layerd_proto::containerd::types::{Descriptor, Mount};
use prost_types::Any;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{daemon, moved};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// An empty Zstandard frame with a window of 2 MiB.
const WIDE_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0, 11 << 3, 1, 0, 0];

pub(super) struct World {
    pub(super) daemon: Daemon,
    pub(super) scratch: Scratch,
    snapshots: Snapshots,
    runtime: Runtime,
    client: DiffClient<Channel>,
}

impl World {
    fn new(more: &str) -> Self {
        let scratch = Scratch::new();
        let daemon = daemon(&scratch, more);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(daemon.socket().to_owned()) });
        Self {
            snapshots: daemon.snapshots(),
            client: DiffClient::new(channel),
            runtime,
            daemon,
            scratch,
        }
    }

    fn blobs(&self) -> PathBuf {
        self.scratch
            .dir("c/root/io.containerd.content.v1.content/blobs/sha256")
    }

    /// Puts a layer among the blobs and answers what describes it, and the archive's own digest.
    fn blob(&self, layer: &[Entry], media_type: &str) -> (Descriptor, String) {
        let file = self.scratch.path().join("layer");
        write_layer(&file, layer);
        let diff_id = digest(&file);
        if media_type == GZIP {
            output(
                Command::new("gzip")
                    .args(["--force", "--no-name"])
                    .arg(&file),
            );
            std::fs::rename(self.scratch.path().join("layer.gz"), &file).unwrap();
        }
        if media_type == ZSTD {
            std::fs::write(&file, WIDE_FRAME).unwrap();
        }
        let digest = digest(&file);
        let size = std::fs::metadata(&file).unwrap().len();
        std::fs::rename(&file, self.blobs().join(&digest["sha256:".len()..])).unwrap();
        let described = Descriptor {
            media_type: media_type.into(),
            digest,
            size: i64::try_from(size).unwrap(),
            annotations: BTreeMap::new(),
        };
        (described, diff_id)
    }

    fn apply(&mut self, diff: &Descriptor, mounts: &[Mount]) -> Result<Descriptor, Status> {
        self.ask(ApplyRequest {
            diff: Some(diff.clone()),
            mounts: mounts.to_vec(),
            ..ApplyRequest::default()
        })
    }

    fn ask(&mut self, request: ApplyRequest) -> Result<Descriptor, Status> {
        let answer = self.runtime.block_on(self.client.apply(request));
        answer.map(|answer| answer.into_inner().applied.unwrap())
    }

    fn diff(&mut self, left: &[Mount], right: &[Mount], media_type: &str) -> Status {
        let request = DiffRequest {
            left: left.to_vec(),
            right: right.to_vec(),
            media_type: media_type.into(),
            ..DiffRequest::default()
        };
        let answer = self.runtime.block_on(self.client.diff(request));
        answer.unwrap_err()
    }

    fn prepare(&mut self, key: &str, parent: &str) -> Vec<Mount> {
        self.snapshots.prepare(key, parent, &[]).unwrap()
    }
}

fn digest(file: &std::path::Path) -> String {
    let said = output(Command::new("sha256sum").arg(file));
    format!("sha256:{}", said.split(' ').next().unwrap())
}

fn small() -> Vec<Entry> {
    vec![Entry::file("f", "content")]
}

#[test]
fn root_a_stack_is_unpacked_and_described() {
    let mut world = World::new("");
    let mut parent = String::new();
    for (number, layer) in corpus().iter().enumerate() {
        let media_type = if number % 2 == 0 { GZIP } else { TAR };
        let (blob, diff_id) = world.blob(layer, media_type);
        let mounts = world.prepare("a", &parent);
        let applied = world.apply(&blob, &mounts).unwrap();
        assert_eq!((applied.media_type, applied.digest), (TAR.into(), diff_id));
        let name = format!("layer-{number}");
        world.snapshots.commit(&name, "a", &[]).unwrap();
        parent = name;
    }
    assert_eq!(moved(&world.daemon), (corpus().len() as u64, 0));
    assert_eq!(super::trusted(&world.daemon), (corpus().len(), 0));
    world.daemon.stop();
}

#[test]
fn root_the_figure_of_a_layer_is_that_of_a_walk() {
    let mut world = World::new("");
    let (blob, _) = world.blob(&corpus()[1], GZIP);
    let mounts = world.prepare("by-memory", "");
    world.apply(&blob, &mounts).unwrap();
    let mounts = world.prepare("by-walk", "");
    world.apply(&blob, &mounts).unwrap();
    world.snapshots.mounts("by-walk").unwrap();
    for active in ["by-memory", "by-walk"] {
        let name = format!("{active}-layer");
        world.snapshots.commit(&name, active, &[]).unwrap();
    }
    assert_eq!(super::trusted(&world.daemon), (1, 1));
    let known = world.snapshots.usage("by-memory-layer").unwrap();
    let walked = world.snapshots.usage("by-walk-layer").unwrap();
    assert_eq!(known, walked);
    world.daemon.stop();
}

#[test]
fn root_what_is_for_others_is_left_to_them() {
    let mut world = World::new("");
    let (blob, _) = world.blob(&small(), TAR);
    let mounts = world.prepare("a", "");
    let good = ApplyRequest {
        diff: Some(blob.clone()),
        mounts: mounts.clone(),
        ..ApplyRequest::default()
    };
    let mounted = |change: &dyn Fn(&mut Vec<Mount>)| {
        let mut request = good.clone();
        change(&mut request.mounts);
        request
    };
    let described = |media_type: &str| {
        let mut request = good.clone();
        request.diff.as_mut().unwrap().media_type = media_type.into();
        request
    };
    let payload = ApplyRequest {
        payloads: [("decrypt".to_owned(), Any::default())].into(),
        ..good.clone()
    };
    for (request, why) in [
        (mounted(&|mounts| mounts.clear()), "0 mounts"),
        (
            mounted(&|mounts| mounts.push(mounts[0].clone())),
            "2 mounts",
        ),
        (
            mounted(&|mounts| mounts[0].source = "/etc".into()),
            "a mount of type",
        ),
        (
            mounted(&|mounts| mounts[0].source += "/../.."),
            "a mount of type",
        ),
        (
            mounted(&|mounts| mounts[0].target = "etc".into()),
            "below the root",
        ),
        (
            mounted(&|mounts| mounts[0].options[0] = "ro".into()),
            "other mounts",
        ),
        (mounted(&|mounts| mounts[0].source += "zz"), "no snapshot's"),
        (
            described("application/vnd.oci.image.layer.v1.tar+encrypted"),
            "media type",
        ),
        (described(""), "media type"),
        (payload, "payloads"),
    ] {
        let status = world.ask(request).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains(why), "{why}: {status}");
    }
    world.ask(good).unwrap();
    world.daemon.stop();
}

#[test]
fn root_what_no_client_should_send_is_refused() {
    let mut world = World::new("");
    let (blob, _) = world.blob(&small(), TAR);
    let mounts = world.prepare("a", "");
    for digest in ["", "sha256:..", "sha256:../../../../etc/passwd", "md5:00"] {
        let other = Descriptor {
            digest: digest.into(),
            ..blob.clone()
        };
        let status = world.apply(&other, &mounts).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let negative = Descriptor {
        size: -1,
        ..blob.clone()
    };
    let status = world.apply(&negative, &mounts).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let nothing = ApplyRequest {
        mounts: mounts.clone(),
        ..ApplyRequest::default()
    };
    assert_eq!(world.ask(nothing).unwrap_err().code(), Code::Unimplemented);
    world.apply(&blob, &mounts).unwrap();
    world.daemon.stop();
}

/// Nothing but a regular file of that name is taken for a blob; for all else containerd is asked.
#[test]
fn root_only_files_are_blobs() {
    let mut world = World::new("");
    let (blob, _) = world.blob(&small(), TAR);
    let mounts = world.prepare("a", "");
    let file = world.blobs().join(&blob.digest["sha256:".len()..]);
    let aside = world.scratch.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    let link = || std::os::unix::fs::symlink(&aside, &file).unwrap();
    let pipe = || drop(output(Command::new("mkfifo").arg(&file)));
    let nothing = || ();
    let others: [&dyn Fn(); 3] = [&nothing, &link, &pipe];
    for make in others {
        make();
        let status = world.apply(&blob, &mounts).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for part in ["containerd.sock cannot be reached", "`containerd.address`"] {
            assert!(status.message().contains(part), "{status}");
        }
        drop(std::fs::remove_file(&file));
    }
    std::fs::rename(&aside, &file).unwrap();
    world.apply(&blob, &mounts).unwrap();
    world.daemon.stop();
}

#[test]
fn root_a_damaged_blob_leaves_a_snapshot_that_can_only_be_removed() {
    let mut world = World::new("");
    // More than fits into all queues, so that something is written before the end is seen.
    let big = Entry::file("big", vec![7; 64 << 20]);
    let layer = [Entry::file("begin", "b"), big];
    let (blob, _) = world.blob(&layer, TAR);
    let file = world.blobs().join(&blob.digest["sha256:".len()..]);
    let whole = std::fs::read(&file).unwrap();
    let mounts = world.prepare("a", "");
    let mut flipped = whole.clone();
    flipped[60 << 20] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let status = world.apply(&blob, &mounts).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(&blob.digest), "{status}");
    std::fs::write(&file, &whole).unwrap();
    let again = world.apply(&blob, &mounts).unwrap_err();
    let commit = world.snapshots.commit("layer", "a", &[]).unwrap_err();
    for status in [again, commit] {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("remove it"), "{status}");
    }
    world.snapshots.remove("a").unwrap();
    let mounts = world.prepare("a", "");
    world.apply(&blob, &mounts).unwrap();
    world.snapshots.commit("layer", "a", &[]).unwrap();
    assert_eq!(moved(&world.daemon), (1, 0));
    world.daemon.stop();
}

#[test]
fn root_limits_are_kept() {
    for (limit, what) in [
        ("max_layer_bytes = 100000", "100000 bytes"),
        ("max_entries = 3", "3 "),
        ("max_ratio = 2", "2 "),
        ("max_directories = 1", "1 directories"),
        (
            "max_window_bytes = 1048576",
            "1048576 bytes in the window of a Zstandard frame",
        ),
    ] {
        let mut world = World::new(&format!("[unpack]\n{limit}"));
        let mut layer: Vec<_> = (0..5).map(|n| Entry::file(n.to_string(), "")).collect();
        // The first 16 MiB are free of the ratio.
        layer.push(Entry::file("big", vec![7; 40 << 20]));
        layer.push(Entry::file("d/below", ""));
        let is_of_zstd = limit.starts_with("max_window");
        let (blob, _) = world.blob(&layer, if is_of_zstd { ZSTD } else { GZIP });
        let mounts = world.prepare("a", "");
        let status = world.apply(&blob, &mounts).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{limit}: {status}");
        let (key, _) = limit.split_once(' ').unwrap();
        for part in [what, &format!("`unpack.{key}`")] {
            assert!(status.message().contains(part), "{limit}: {status}");
        }
        world.snapshots.remove("a").unwrap();
        world.daemon.stop();
    }
}

#[test]
fn root_a_difference_needs_parent_child_and_containerd() {
    let mut world = World::new("");
    let (blob, _) = world.blob(&small(), TAR);
    let base = world.prepare("a", "");
    let empty = world.snapshots.view("empty", "", &[]).unwrap();
    world.apply(&blob, &base).unwrap();
    let status = world.diff(&base, &base, "");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert!(status.message().contains("not the parent"), "{status}");
    let status = world.diff(&empty, &base, "application/x-tar");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    let status = world.diff(&empty, &base, "");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("cannot be reached"), "{status}");
    assert_eq!(moved(&world.daemon), (1, 0));
    world.daemon.stop();
}

#[test]
fn root_switched_off_everything_is_left_to_others() {
    let mut world = World::new("[unpack]\nenabled = false");
    let (blob, _) = world.blob(&small(), TAR);
    let mounts = world.prepare("a", "");
    let empty = world.snapshots.view("empty", "", &[]).unwrap();
    let applied = world.apply(&blob, &mounts).unwrap_err();
    for status in [applied, world.diff(&empty, &mounts, "")] {
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(
            status.message().contains("`unpack.enabled = false`"),
            "{status}"
        );
    }
    world.daemon.stop();
}

/// With `durability = "metadata"` only `sync_fs` waits for the disk; both work.
#[test]
fn root_a_layer_can_be_made_durable_alone() {
    let mut world = World::new("");
    let file = world.scratch.path().join("layerd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("durability = \"metadata\"\n{text}")).unwrap();
    world.daemon.stop();
    world.daemon.restart();
    let (blob, _) = world.blob(&corpus()[1], GZIP);
    for sync_fs in [false, true] {
        let mounts = world.prepare("a", "");
        let request = ApplyRequest {
            diff: Some(blob.clone()),
            mounts,
            sync_fs,
            ..ApplyRequest::default()
        };
        world.ask(request).unwrap();
        let name = format!("layer-{sync_fs}");
        world.snapshots.commit(&name, "a", &[]).unwrap();
    }
    assert_eq!(super::trusted(&world.daemon), (2, 0));
    world.daemon.stop();
}
