//! containerd itself, asked over its socket to unpack blobs of its content store.

use std::path::Path;
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::snapshots::channel;
use layerd_integration::{Containerd, Scratch, Version};
use layerd_proto::containerd::services::content::v1::content_client::ContentClient;
use layerd_proto::containerd::services::content::v1::{WriteAction, WriteContentRequest};
use layerd_proto::containerd::services::diff::v1::ApplyRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::types::{Descriptor, Mount};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A containerd without layerd.
pub(crate) struct Theirs {
    _containerd: Containerd,
    runtime: Runtime,
    content: ContentClient<Channel>,
    diff: DiffClient<Channel>,
    blob: std::path::PathBuf,
}

impl Theirs {
    pub(crate) fn start(version: Version, scratch: &Scratch) -> Self {
        let dir = scratch.dir("c");
        let containerd = Containerd::start(version, &dir, &dir.join("missing.sock"));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(containerd.socket().to_owned()) });
        Self {
            content: ContentClient::new(channel.clone()),
            diff: DiffClient::new(channel),
            runtime,
            blob: scratch.path().join("blob"),
            _containerd: containerd,
        }
    }

    /// Unpacks into a directory, as the lowest layer.
    pub(crate) fn apply_bound(
        &mut self,
        blob: &[u8],
        media_type: &str,
        dir: &Path,
    ) -> Result<(), String> {
        let mount = Mount {
            r#type: "bind".into(),
            source: dir.display().to_string(),
            options: vec!["rw".into(), "rbind".into()],
            ..Mount::default()
        };
        self.apply(blob, media_type, mount)
    }

    pub(crate) fn apply(
        &mut self,
        blob: &[u8],
        media_type: &str,
        mount: Mount,
    ) -> Result<(), String> {
        std::fs::write(&self.blob, blob).unwrap();
        let said = output(Command::new("sha256sum").arg(&self.blob));
        let digest = format!("sha256:{}", said.split(' ').next().unwrap());
        self.runtime.block_on(async {
            let written = write(&mut self.content, &digest, blob).await;
            written.expect("containerd takes the blob");
            let diff = Descriptor {
                media_type: media_type.into(),
                digest,
                size: i64::try_from(blob.len()).unwrap(),
                ..Descriptor::default()
            };
            let request = ApplyRequest {
                diff: Some(diff),
                mounts: vec![mount],
                ..ApplyRequest::default()
            };
            let answer = self.diff.apply(in_namespace(request)).await;
            answer.map(drop).map_err(|status| status.message().into())
        })
    }
}

async fn write(
    content: &mut ContentClient<Channel>,
    digest: &str,
    data: &[u8],
) -> Result<(), Status> {
    let request = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: digest.into(),
        total: i64::try_from(data.len()).unwrap(),
        expected: digest.into(),
        data: data.to_vec(),
        // Else its collector takes it at once.
        labels: [("containerd.io/gc.root".into(), "test".into())].into(),
        ..WriteContentRequest::default()
    };
    let requests = tokio_stream::iter([request]);
    let answers = async {
        let mut answers = content.write(in_namespace(requests)).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    match answers.await {
        Err(status) if Status::code(&status) == Code::AlreadyExists => Ok(()),
        other => other,
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let name = "odd".parse().unwrap();
    request.metadata_mut().insert("containerd-namespace", name);
    request
}
