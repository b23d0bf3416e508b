//! A blocking client of volumes and attachments.

use std::path::Path;
use std::time::Duration;

use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::admin_client::AdminClient;
use layerd_proto::layerd::v1::attachments_client::AttachmentsClient;
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{ApplyLayer, ApplyLayerRequest, EmptyTrashRequest};
use layerd_proto::layerd::v1::{
    AttachRequest, AttachSpec, Attachment, CreateVolumeRequest, DeleteVolumeRequest, DetachRequest,
    ExecutePruneRequest, ImportVolumeRequest, ListAttachmentsRequest, ListVolumesRequest, Owner,
    PlanPruneRequest, PruneOutcome, ReconcileRequest, RenameVolumeRequest, SnapshotVolumeRequest,
    UndeleteVolumeRequest, UpdateVolumeRequest, Volume,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

type Answer<T> = Result<T, Status>;

/// Bytes of an archive in one message.
const PIECE: usize = 4096;

/// One connection, made at the first call and made again when it broke.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        Self { runtime, channel }
    }

    fn volumes<T>(
        &mut self,
        calls: impl AsyncFnOnce(VolumesClient<Channel>) -> Answer<T>,
    ) -> Answer<T> {
        let client = VolumesClient::new(self.channel.clone());
        self.runtime.block_on(calls(client))
    }

    fn attachments<T>(
        &mut self,
        calls: impl AsyncFnOnce(AttachmentsClient<Channel>) -> Answer<T>,
    ) -> Answer<T> {
        let client = AttachmentsClient::new(self.channel.clone());
        self.runtime.block_on(calls(client))
    }

    /// Creates a volume; answers whether it is new.
    pub(crate) fn create(&mut self, request: CreateVolumeRequest) -> Answer<(Volume, bool)> {
        let reply =
            self.volumes(async |mut client| Ok(client.create(request).await?.into_inner()))?;
        Ok((reply.volume.unwrap_or_default(), reply.created))
    }

    /// All volumes, or all in the trash.
    pub(crate) fn list(&mut self, deleted: bool) -> Answer<Vec<Volume>> {
        let request = ListVolumesRequest {
            deleted,
            ..ListVolumesRequest::default()
        };
        self.volumes(async |mut client| {
            let mut stream = client.list(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(part) = stream.message().await? {
                found.extend(part.volumes);
            }
            Ok(found)
        })
    }

    pub(crate) fn update(&mut self, name: &str, label: (&str, &str)) -> Answer<()> {
        let request = UpdateVolumeRequest {
            name: name.into(),
            labels: [(label.0.into(), label.1.into())].into(),
            size: String::new(),
            force: false,
        };
        self.volumes(async |mut client| client.update(request).await.map(drop))
    }

    pub(crate) fn rename(&mut self, name: &str, new_name: &str) -> Answer<()> {
        let request = RenameVolumeRequest {
            name: name.into(),
            new_name: new_name.into(),
        };
        self.volumes(async |mut client| client.rename(request).await.map(drop))
    }

    /// Deletes a volume; answers whether there was one.
    pub(crate) fn delete(&mut self, name: &str) -> Answer<bool> {
        let (name, force) = (name.into(), false);
        let request = DeleteVolumeRequest { name, force };
        self.volumes(async |mut client| Ok(client.delete(request).await?.into_inner().existed))
    }

    pub(crate) fn undelete(&mut self, id: &str, new_name: &str) -> Answer<()> {
        let request = UndeleteVolumeRequest {
            id: id.into(),
            new_name: new_name.into(),
            ..UndeleteVolumeRequest::default()
        };
        self.volumes(async |mut client| client.undelete(request).await.map(drop))
    }

    pub(crate) fn snapshot(&mut self, name: &str, snapshot_name: &str) -> Answer<()> {
        let request = SnapshotVolumeRequest {
            name: name.into(),
            snapshot_name: snapshot_name.into(),
        };
        self.volumes(async |mut client| client.snapshot(request).await.map(drop))
    }

    /// Plans to delete unattached anonymous volumes.
    pub(crate) fn plan_prune(&mut self) -> Answer<String> {
        let request = PlanPruneRequest::default();
        self.volumes(async |mut client| Ok(client.plan_prune(request).await?.into_inner().id))
    }

    pub(crate) fn execute_prune(&mut self, id: &str) -> Answer<Vec<PruneOutcome>> {
        let request = ExecutePruneRequest { id: id.into() };
        self.volumes(async |mut client| {
            Ok(client.execute_prune(request).await?.into_inner().outcomes)
        })
    }

    /// Fills a new volume from an archive.
    pub(crate) fn import(&mut self, name: &str, archive: &[u8]) -> Answer<()> {
        let first = ImportVolumeRequest {
            volume: Some(CreateVolumeRequest {
                name: name.into(),
                ..CreateVolumeRequest::default()
            }),
            data: Vec::new(),
        };
        let pieces = archive.chunks(PIECE).map(|piece| ImportVolumeRequest {
            volume: None,
            data: piece.to_vec(),
        });
        let messages: Vec<_> = std::iter::once(first).chain(pieces).collect();
        self.volumes(async |mut client| {
            let messages = tokio_stream::iter(messages);
            client.import(messages).await.map(drop)
        })
    }

    pub(crate) fn attach(
        &mut self,
        owner: &Owner,
        mounts: Vec<AttachSpec>,
    ) -> Answer<Vec<Attachment>> {
        let request = AttachRequest {
            owner: Some(owner.clone()),
            mounts,
        };
        self.attachments(async |mut client| {
            Ok(client.attach(request).await?.into_inner().attachments)
        })
    }

    /// Lets go of attachments; answers the keys of those that were there.
    pub(crate) fn detach(&mut self, keys: &[String]) -> Answer<Vec<String>> {
        let request = DetachRequest {
            keys: keys.to_vec(),
            ..DetachRequest::default()
        };
        self.attachments(async |mut client| Ok(client.detach(request).await?.into_inner().detached))
    }

    /// Lets go of all attachments of an owner but these; answers the keys of those that went, in
    /// the order of keys, or the first that stays.
    pub(crate) fn reconcile(&mut self, owner: &Owner, keys: &[String]) -> Answer<Vec<String>> {
        let request = ReconcileRequest {
            owner: Some(owner.clone()),
            keys: keys.to_vec(),
            ..ReconcileRequest::default()
        };
        self.attachments(async |mut client| {
            let mut answer = client.reconcile(request).await?.into_inner();
            if let Some((key, why)) = answer.failed.into_iter().next() {
                return Ok(vec![format!("skipped {key}: {why}")]);
            }
            answer.released.sort();
            Ok(answer.released)
        })
    }

    /// Everything attached.
    pub(crate) fn attached(&mut self) -> Answer<Vec<Attachment>> {
        let request = ListAttachmentsRequest::default();
        self.attachments(async |mut client| {
            let mut stream = client.list(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(part) = stream.message().await? {
                found.extend(part.attachments);
            }
            Ok(found)
        })
    }

    /// Has a layer unpacked into a snapshot.
    pub(crate) fn unpack(&mut self, key: &str, archive: &[u8]) -> Answer<()> {
        let call = apply(self.channel.clone(), key, archive);
        self.runtime.block_on(call)
    }

    /// As [`unpack`](Self::unpack), but hangs up after a while, which is CANCELLED.
    pub(crate) fn unpack_in(&mut self, limit: Duration, key: &str, archive: &[u8]) -> Answer<()> {
        let call = apply(self.channel.clone(), key, archive);
        let hung_up = |_| Err(Status::cancelled("the client hung up"));
        self.runtime
            .block_on(async { timeout(limit, call).await.unwrap_or_else(hung_up) })
    }

    /// Lets all that is in the trash be deleted.
    pub(crate) fn empty_trash(&mut self) -> Answer<()> {
        let mut client = AdminClient::new(self.channel.clone());
        let request = EmptyTrashRequest::default();
        self.runtime
            .block_on(async { client.empty_trash(request).await.map(drop) })
    }
}

async fn apply(channel: Channel, key: &str, archive: &[u8]) -> Answer<()> {
    let layer = ApplyLayer {
        key: key.into(),
        ..ApplyLayer::default()
    };
    let first = ApplyLayerRequest {
        layer: Some(layer),
        data: Vec::new(),
    };
    let pieces = archive.chunks(PIECE).map(|piece| ApplyLayerRequest {
        layer: None,
        data: piece.to_vec(),
    });
    let messages: Vec<_> = std::iter::once(first).chain(pieces).collect();
    let mut client = LayersClient::new(channel);
    client.apply(tokio_stream::iter(messages)).await.map(drop)
}
