//! `containerd.services.snapshots.v1.Snapshots`.
//!
//! Reads are answered from memory on the spot. Everything that may wait for the disk runs on a
//! thread of its own, to its end, whether or not the client still waits.

use layerd_engine::Listing;
use layerd_proto::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest,
    UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
    snapshots_server::Snapshots,
};
use layerd_store::Key;
use prost::Message as _;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use crate::api::{Parts, status, wire};
use crate::traces;

/// Entries in one message of List, as in containerd.
const ENTRIES_PER_MESSAGE: usize = 100;
/// Bytes after which a message of List takes no further entry: a hundred snapshots with all the
/// labels they may have would pass the limit of a message, and containerd's collector needs List.
const BYTES_PER_MESSAGE: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Service {
    parts: Parts,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts }
    }
}

type Listed = Box<dyn Iterator<Item = Result<ListSnapshotsResponse, Status>> + Send>;

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Iter<Listed>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let create = wire::prepare(request.into_inner())?;
        traces::snapshot(&create.key);
        let mounts = self
            .parts
            .call(move |engine| engine.layers.create(create))
            .await?;
        let mounts = wire::mounts(mounts);
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let create = wire::view(request.into_inner())?;
        traces::snapshot(&create.key);
        let mounts = self
            .parts
            .call(move |engine| engine.layers.create(create))
            .await?;
        let mounts = wire::mounts(mounts);
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let key = key(&request.into_inner().key)?;
        let mounts = self
            .parts
            .engine
            .layers
            .mounts(&key)
            .map_err(|error| status::of(&error))?;
        let mounts = wire::mounts(mounts);
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let commit = wire::commit(request.into_inner())?;
        traces::snapshot(&commit.key);
        self.parts
            .call(move |engine| engine.layers.commit(commit))
            .await
            .map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = key(&request.into_inner().key)?;
        self.parts
            .call(move |engine| engine.layers.remove(&key))
            .await?;
        self.parts.waker.wake();
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = key(&request.into_inner().key)?;
        let entry = self
            .parts
            .engine
            .layers
            .stat(&key)
            .map_err(|error| status::of(&error))?;
        let info = Some(wire::info(entry));
        Ok(Response::new(StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let message = request.into_inner();
        let key = wire::update_key(&message)?;
        traces::snapshot(&key);
        // An unknown snapshot is answered before anything that is wrong with the mask.
        self.parts
            .engine
            .layers
            .stat(&key)
            .map_err(|error| status::of(&error))?;
        let changes = wire::label_changes(message)?;
        let entry = self
            .parts
            .call(move |engine| engine.layers.update(&key, changes))
            .await?;
        let info = Some(wire::info(entry));
        Ok(Response::new(UpdateSnapshotResponse { info }))
    }

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let mut listing = self
            .parts
            .engine
            .layers
            .list(&filters)
            .map_err(|error| status::of(&error))?;
        let messages = std::iter::from_fn(move || next_message(&mut listing).map(Ok));
        let messages: Listed = Box::new(messages);
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let key = key(&request.into_inner().key)?;
        let usage = self
            .parts
            .call(move |engine| engine.layers.usage(&key))
            .await?;
        Ok(Response::new(wire::usage(usage)))
    }

    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        self.parts.waker.wake();
        Ok(Response::new(()))
    }
}

/// The snapshot that a request is about.
fn key(raw: &str) -> Result<Key, Status> {
    let key = wire::key("key", raw)?;
    traces::snapshot(&key);
    Ok(key)
}

/// The next message of a list; none at its end.
fn next_message(listing: &mut Listing) -> Option<ListSnapshotsResponse> {
    let (mut info, mut bytes) = (Vec::new(), 0);
    while info.len() < ENTRIES_PER_MESSAGE && bytes < BYTES_PER_MESSAGE {
        let Some(entry) = listing.next_entries(1).pop() else {
            break;
        };
        let next = wire::info(entry);
        bytes += next.encoded_len();
        info.push(next);
    }
    (!info.is_empty()).then_some(ListSnapshotsResponse { info })
}
