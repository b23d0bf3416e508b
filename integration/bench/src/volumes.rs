//! Volumes: whether removing one depends on its size, what copy-up costs beside `cp -a`, and how
//! long a restart takes that finds many attachments.

mod attachments;
mod copyup;
mod delete;

use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::attachments_client::AttachmentsClient;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{self as pb};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::place::{Fs, Place};

pub(crate) use attachments::run as run_attachments;

/// Extent of the measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// As little as shows that the program works.
    pub(crate) short: bool,
}

/// Measures removal on each of the file systems and copy-up on an xfs, and prints as it goes.
pub(crate) fn run(systems: &[Fs], extent: Extent) {
    for fs in systems {
        crate::say(&delete::measure(&Place::new(*fs), extent));
    }
    // Writing an image takes longer than the short form itself.
    let fs = if extent.short { Fs::Target } else { Fs::Xfs };
    crate::say(&copyup::measure(&Place::new(fs), extent));
}

/// One who calls, over one connection, one call at a time.
struct Client {
    runtime: Runtime,
    volumes: VolumesClient<Channel>,
    attachments: AttachmentsClient<Channel>,
}

impl Client {
    fn new(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("descriptors are left");
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        Self {
            volumes: VolumesClient::new(channel.clone()),
            attachments: AttachmentsClient::new(channel).max_decoding_message_size(16 << 20),
            runtime,
        }
    }

    /// Creates a volume and answers where its content is.
    fn create(&mut self, name: &str) -> std::path::PathBuf {
        let request = pb::CreateVolumeRequest {
            name: name.to_owned(),
            ..pb::CreateVolumeRequest::default()
        };
        let reply = self.runtime.block_on(self.volumes.create(request));
        let volume = reply.expect("a new name").into_inner().volume;
        volume.expect("the volume that was made").path.into()
    }

    fn delete(&mut self, name: &str) {
        let (name, force) = (name.to_owned(), false);
        let call = self.volumes.delete(pb::DeleteVolumeRequest { name, force });
        let reply = self.runtime.block_on(call);
        assert!(reply.expect("nothing uses it").into_inner().existed);
    }

    fn undelete(&mut self, name: &str) {
        let request = pb::UndeleteVolumeRequest {
            name: name.to_owned(),
            ..pb::UndeleteVolumeRequest::default()
        };
        let reply = self.runtime.block_on(self.volumes.undelete(request));
        reply.expect("it is in the trash");
    }

    fn attach(&mut self, mounts: Vec<pb::AttachSpec>) -> Vec<pb::Attachment> {
        let request = pb::AttachRequest {
            owner: Some(owner()),
            mounts,
        };
        let reply = self.runtime.block_on(self.attachments.attach(request));
        reply.expect("all can be attached").into_inner().attachments
    }

    fn detach(&mut self) -> usize {
        let request = pb::DetachRequest {
            owner: Some(owner()),
            ..pb::DetachRequest::default()
        };
        let reply = self.runtime.block_on(self.attachments.detach(request));
        reply.expect("they are unused").into_inner().detached.len()
    }

    /// All attachments.
    fn list(&mut self) -> Vec<pb::Attachment> {
        self.runtime.block_on(async {
            let request = pb::ListAttachmentsRequest::default();
            let reply = self.attachments.list(request).await;
            let mut stream = reply.expect("it serves").into_inner();
            let mut all = Vec::new();
            while let Some(part) = stream.message().await.expect("the list ends") {
                all.extend(part.attachments);
            }
            all
        })
    }
}

fn owner() -> pb::Owner {
    pb::Owner {
        kind: "container".to_owned(),
        id: "bench".to_owned(),
    }
}
