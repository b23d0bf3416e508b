//! layerd unpacking layers side by side, called as containerd calls it from 2.2.3 on where a
//! snapshotter has the capability `rebase`: each layer is prepared without a parent and unpacked,
//! and Commit names the parents, from the lowest layer on.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use layerd_integration::Snapshots;
use layerd_integration::snapshots::channel;
use layerd_proto::containerd::services::diff::v1::ApplyRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::types::{Descriptor, Mount};
use tokio::runtime::Builder;

use super::images::Image;

/// Layers at a time: as many as igzip and tar get.
const AT_A_TIME: usize = 2;

/// Unpacks the image through the socket.
pub(super) fn unpack(socket: &Path, image: &Image) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let mut client = Snapshots::connect(socket);
                while let Some(blob) = image.blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = name(blob);
                    let reference = ("containerd.io/snapshot.ref", &*name);
                    let prepared = client.prepare(&key(&name), "", &[reference]);
                    apply(socket, prepared.expect("Prepare"), blob);
                }
            });
        }
    });
    let (mut client, mut parent) = (Snapshots::connect(socket), String::new());
    for blob in &image.blobs {
        let name = name(blob);
        client
            .commit_onto(&name, &key(&name), &parent, &[])
            .expect("Commit");
        parent = name;
    }
}

/// Name of the layer: that of its blob.
fn name(blob: &Path) -> String {
    let name = blob.file_name().expect("blobs have names");
    name.to_string_lossy().into_owned()
}

fn key(name: &str) -> String {
    format!("bench/1/extract-{name}")
}

fn apply(socket: &Path, mounts: Vec<Mount>, blob: &Path) {
    let size = blob.metadata().expect("it was just made").len();
    let descriptor = Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        digest: format!("sha256:{}", name(blob)),
        size: i64::try_from(size).expect("it fits on a disk"),
        ..Descriptor::default()
    };
    let request = ApplyRequest {
        diff: Some(descriptor),
        mounts,
        ..ApplyRequest::default()
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let applied = runtime.expect("a runtime").block_on(async {
        let mut client = DiffClient::new(channel(socket.to_owned()));
        client.apply(request).await
    });
    applied.expect("Apply");
}
