//! Layers that only containerd's stream processors can read. The transfer service asks one differ
//! for a snapshotter, which is layerd, and no other.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use layerd_integration::image::write_layer;
use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::{Containerd, Entry, Scratch, Version};
use layerd_proto::containerd::services::diff::v1::ApplyRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::types::{Descriptor, Mount};
use tokio::runtime::Builder;
use tonic::{Request, Status};

use super::{daemon, moved};

const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";

/// Stand-in for encryption: a prefix that the processor drops.
const SECRET: &str = "secret:";

/// A stream processor in the place of the one that containerd has for this media type unless it is told
/// otherwise: of two with different names it takes either. Its garbage collector, which runs once after the
/// start, would take what is ingested and has no label yet.
const PROCESSOR: &str = r#"
[stream_processors."io.containerd.ocicrypt.decoder.v1.tar"]
accepts = ["application/vnd.oci.image.layer.v1.tar+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar"
path = "tail"
args = ["--bytes=+8"]
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "24h"
"#;

fn apply(socket: &Path, request: ApplyRequest) -> Result<String, Status> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut request = Request::new(request);
    let namespace = "layerd-test".parse().unwrap();
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    runtime.block_on(async {
        let answer = DiffClient::new(channel(socket.to_owned()))
            .apply(request)
            .await?;
        Ok(answer.into_inner().applied.unwrap().digest)
    })
}

/// An archive, and the same in containerd's content store as no tar reads it.
fn ingest(scratch: &Scratch, containerd: &Containerd) -> (String, Descriptor) {
    let sum = |file: &Path| {
        let said = output(Command::new("sha256sum").arg(file));
        format!("sha256:{}", said.split(' ').next().unwrap())
    };
    let [archive, blob] = ["layer.tar", "blob"].map(|name| scratch.path().join(name));
    write_layer(&archive, &[Entry::file("file", "content")]);
    let hidden = [SECRET.as_bytes(), &std::fs::read(&archive).unwrap()].concat();
    std::fs::write(&blob, &hidden).unwrap();
    let digest = sum(&blob);
    let mut ingest = containerd.command(&["content", "ingest", "--expected-digest", &digest, "x"]);
    let ingested = ingest.stdin(File::open(&blob).unwrap()).output().unwrap();
    assert!(ingested.status.success(), "{ingested:?}");
    containerd.ctr(&["content", "label", &digest, "containerd.io/gc.root=test"]);
    let descriptor = Descriptor {
        media_type: ENCRYPTED.into(),
        digest,
        size: i64::try_from(hidden.len()).unwrap(),
        ..Descriptor::default()
    };
    (sum(&archive), descriptor)
}

fn request(diff: &Descriptor, mounts: Vec<Mount>) -> ApplyRequest {
    ApplyRequest {
        diff: Some(diff.clone()),
        mounts,
        ..ApplyRequest::default()
    }
}

#[test]
fn root_encrypted_layers_are_passed_on_to_containerds_own_differ() {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, "");
    let dir = scratch.dir("c");
    let containerd =
        Containerd::start_unpacking_with(Version::V2_1, &dir, daemon.socket(), PROCESSOR);
    let (archive, blob) = ingest(&scratch, &containerd);
    let mut snapshots = daemon.snapshots();
    // As the transfer service asks, and as the diff service does.
    for (number, socket) in [daemon.socket(), containerd.socket()]
        .into_iter()
        .enumerate()
    {
        let key = format!("a{number}");
        let mounts = snapshots.prepare(&key, "", &[]).unwrap();
        assert_eq!(apply(socket, request(&blob, mounts)).unwrap(), archive);
        let layer = daemon.root().join(format!("l/{}", number + 1));
        let content = std::fs::read_to_string(layer.join("file"));
        assert_eq!(content.unwrap(), "content");
        snapshots
            .commit(&format!("layer{number}"), &key, &[])
            .unwrap();
    }
    assert_eq!(moved(&daemon), (0, 0), "layerd unpacks none of them itself");
    let log = daemon.log();
    assert!(
        log.contains("another differ of containerd's is asked"),
        "{log}"
    );
    assert!(log.contains(ENCRYPTED), "{log}");

    // What that one cannot read either, it says itself.
    let unknown = Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+other".into(),
        ..blob
    };
    let mounts = snapshots.prepare("b", "", &[]).unwrap();
    let status = apply(daemon.socket(), request(&unknown, mounts)).unwrap_err();
    assert!(
        status.message().contains("containerd's diff service"),
        "{status}"
    );
    daemon.stop();
}
