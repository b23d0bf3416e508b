//! Short forms of the snapshot calls, and messages that no client would send.

use std::path::Path;

use bytes::{Buf, BufMut};
use layerd_proto::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
    UpdateSnapshotRequest, UsageRequest, UsageResponse, ViewSnapshotRequest,
};
use layerd_proto::containerd::types::Mount;
use prost_types::FieldMask;
use tokio::runtime::Builder;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use crate::snapshots::{Snapshots, channel};

/// Labels as tests write them.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Answer of a call.
pub type Answer<T> = Result<T, Status>;

/// A Prepare message.
#[must_use]
pub fn prepare(key: &str, parent: &str, labels: Labels<'_>) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: "layerd".into(),
        key: key.into(),
        parent: parent.into(),
        labels: owned(labels),
    }
}

fn owned(labels: Labels<'_>) -> std::collections::BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

/// The calls with plain arguments.
///
/// # Errors
/// Each answers the daemon's status.
#[allow(
    clippy::missing_errors_doc,
    reason = "said once, for the block as a whole"
)]
impl Snapshots {
    /// Prepare.
    pub fn prepare(&mut self, key: &str, parent: &str, labels: Labels<'_>) -> Answer<Vec<Mount>> {
        let message = prepare(key, parent, labels);
        self.call(async |client| client.prepare(message).await)
            .map(|reply| reply.into_inner().mounts)
    }

    /// View.
    pub fn view(&mut self, key: &str, parent: &str, labels: Labels<'_>) -> Answer<Vec<Mount>> {
        let message = ViewSnapshotRequest {
            snapshotter: "layerd".into(),
            key: key.into(),
            parent: parent.into(),
            labels: owned(labels),
        };
        self.call(async |client| client.view(message).await)
            .map(|reply| reply.into_inner().mounts)
    }

    /// Mounts.
    pub fn mounts(&mut self, key: &str) -> Answer<Vec<Mount>> {
        let message = MountsRequest {
            key: key.into(),
            ..MountsRequest::default()
        };
        self.call(async |client| client.mounts(message).await)
            .map(|reply| reply.into_inner().mounts)
    }

    /// Commit without a parent of its own.
    pub fn commit(&mut self, name: &str, key: &str, labels: Labels<'_>) -> Answer<()> {
        self.commit_onto(name, key, "", labels)
    }

    /// Commit that names a parent.
    pub fn commit_onto(
        &mut self,
        name: &str,
        key: &str,
        parent: &str,
        labels: Labels<'_>,
    ) -> Answer<()> {
        let message = CommitSnapshotRequest {
            snapshotter: "layerd".into(),
            name: name.into(),
            key: key.into(),
            labels: owned(labels),
            parent: parent.into(),
        };
        self.call(async |client| client.commit(message).await)
            .map(tonic::Response::into_inner)
    }

    /// Prepare and Commit of an empty layer.
    pub fn committed(&mut self, name: &str, parent: &str) -> Answer<()> {
        let key = format!("{name} (active)");
        self.prepare(&key, parent, &[])?;
        self.commit(name, &key, &[])
    }

    /// Remove.
    pub fn remove(&mut self, key: &str) -> Answer<()> {
        let message = RemoveSnapshotRequest {
            key: key.into(),
            ..RemoveSnapshotRequest::default()
        };
        self.call(async |client| client.remove(message).await)
            .map(tonic::Response::into_inner)
    }

    /// Stat.
    ///
    /// # Panics
    /// If the reply has no info, over which containerd would panic.
    pub fn stat(&mut self, key: &str) -> Answer<Info> {
        let message = StatSnapshotRequest {
            key: key.into(),
            ..StatSnapshotRequest::default()
        };
        self.call(async |client| client.stat(message).await)
            .map(|reply| reply.into_inner().info.expect("info is always set"))
    }

    /// Update.
    ///
    /// # Panics
    /// If the reply has no info, over which containerd would panic.
    pub fn update(&mut self, info: Info, mask: Option<&[&str]>) -> Answer<Info> {
        let message = UpdateSnapshotRequest {
            snapshotter: "layerd".into(),
            info: Some(info),
            update_mask: mask.map(|paths| FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            }),
        };
        self.call(async |client| client.update(message).await)
            .map(|reply| reply.into_inner().info.expect("info is always set"))
    }

    /// Update of the labels of one snapshot.
    pub fn relabel(
        &mut self,
        key: &str,
        labels: Labels<'_>,
        mask: Option<&[&str]>,
    ) -> Answer<Info> {
        let info = Info {
            name: key.into(),
            labels: owned(labels),
            ..Info::default()
        };
        self.update(info, mask)
    }

    /// Usage.
    pub fn usage(&mut self, key: &str) -> Answer<UsageResponse> {
        let message = UsageRequest {
            key: key.into(),
            ..UsageRequest::default()
        };
        self.call(async |client| client.usage(message).await)
            .map(tonic::Response::into_inner)
    }

    /// Cleanup.
    pub fn cleanup(&mut self) -> Answer<()> {
        let message = CleanupRequest::default();
        self.call(async |client| client.cleanup(message).await)
            .map(tonic::Response::into_inner)
    }

    /// List, as the messages of its stream.
    pub fn list_messages(&mut self, filters: &[&str]) -> Answer<Vec<ListSnapshotsResponse>> {
        let message = ListSnapshotsRequest {
            filters: filters.iter().map(ToString::to_string).collect(),
            ..ListSnapshotsRequest::default()
        };
        self.call(async |client| {
            let mut stream = client.list(message).await?.into_inner();
            let mut found = Vec::new();
            while let Some(part) = stream.message().await? {
                found.push(part);
            }
            Ok(found)
        })
    }

    /// The names that List answers, sorted.
    pub fn names(&mut self, filters: &[&str]) -> Answer<Vec<String>> {
        let messages = self.list_messages(filters)?;
        let infos = messages.into_iter().flat_map(|message| message.info);
        let mut names: Vec<_> = infos.map(|info| info.name).collect();
        names.sort();
        Ok(names)
    }
}

/// Sends `body` as the request of a method of one reply, whatever it says, and returns the reply's
/// bytes. `method` is a path such as `/package.Service/Method`.
///
/// # Errors
/// The daemon's status.
///
/// # Panics
/// If no runtime can be started.
pub fn raw(socket: &Path, method: &str, body: &[u8]) -> Answer<Vec<u8>> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("descriptors are left");
    let path: PathAndQuery = method.parse().expect("a path");
    runtime.block_on(async {
        let mut client = Grpc::new(channel(socket.to_owned()));
        let ready = client.ready().await;
        ready.map_err(|cause| Status::unavailable(cause.to_string()))?;
        let request = Request::new(body.to_vec());
        let reply = client.unary(request, path, Bytes).await?;
        Ok(reply.into_inner())
    })
}

/// A field of type string or bytes, as it stands in a message.
///
/// # Panics
/// If the number takes more than one byte.
#[must_use]
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(number < 16, "numbers above 15 take two bytes");
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f | 0x80).expect("masked to 8 bits"));
        length >>= 7;
    }
    bytes.push(u8::try_from(length).expect("at most 7 bits are left"));
    bytes.extend(value);
    bytes
}

/// Passes messages as they are.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining()).to_vec()))
    }
}
