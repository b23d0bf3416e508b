//! Changes of containerd's snapshots, which a lease keeps from its garbage collector until an image refers
//! to them.

use std::collections::BTreeMap;

use layerd_proto::containerd::services::content::v1::content_client::ContentClient;
use layerd_proto::containerd::services::content::v1::{Info, UpdateRequest};
use layerd_proto::containerd::services::leases::v1::leases_client::LeasesClient;
use layerd_proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use layerd_proto::containerd::services::snapshots::v1 as wire;
use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use prost_types::{FieldMask, Timestamp};
use tonic::Request;
use tonic::transport::Channel;

use super::{Containerd, MAX_MESSAGE, SNAPSHOT_LABEL, answer, within_namespace};
use crate::client::New;
use crate::error::Error;
use crate::snapshot::Mount;

/// Label of a lease with the time at which the collector takes it.
const EXPIRES: &str = "containerd.io/gc.expire";

/// A lease in a namespace of containerd. It stays until its time is over unless it is [ended](Self::end).
pub(crate) struct Leased<'c> {
    pub(super) containerd: &'c Containerd,
    namespace: &'c str,
    id: String,
}

impl Containerd {
    /// Makes a lease that the collector takes at `expires`, in seconds since 1970.
    pub(crate) async fn lease<'c>(
        &'c self,
        namespace: &'c str,
        id: &str,
        expires: i64,
    ) -> Result<Leased<'c>, Error> {
        let what = format!("make a lease in containerd's namespace {namespace}");
        let time = Timestamp {
            seconds: expires,
            nanos: 0,
        };
        let request = CreateRequest {
            id: id.to_owned(),
            labels: [(EXPIRES.to_owned(), time.to_string())].into(),
        };
        let mut client = LeasesClient::new(self.channel.clone());
        let call = client.create(within_namespace(namespace, request)?);
        let made = answer(&what, self.timeout, call).await?.lease;
        Ok(Leased {
            containerd: self,
            namespace,
            id: made.unwrap_or_default().id,
        })
    }

    /// Bytes of a snapshot, as its snapshotter has them.
    pub(crate) async fn usage(
        &self,
        namespace: &str,
        snapshotter: &str,
        key: &str,
    ) -> Result<u64, Error> {
        let what = format!("measure containerd's snapshot \"{key}\"");
        let request = wire::UsageRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let mut client = SnapshotsClient::new(self.channel.clone());
        let call = client.usage(within_namespace(namespace, request)?);
        let reply = answer(&what, self.timeout, call).await?;
        Ok(u64::try_from(reply.size).unwrap_or_default())
    }
}

impl Leased<'_> {
    /// Makes a view, and answers its mounts.
    pub(crate) async fn view(&self, snapshotter: &str, new: New) -> Result<Vec<Mount>, Error> {
        let what = format!("make view \"{}\" in containerd", new.key);
        let request = wire::ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: new.key,
            parent: new.parent,
            labels: new.labels,
        };
        let (mut client, request) = (self.snapshots(), self.under_lease(request)?);
        let reply = answer(&what, self.containerd.timeout, client.view(request)).await?;
        Ok(reply.mounts.into_iter().map(Mount::from).collect())
    }

    pub(crate) async fn prepare(&self, snapshotter: &str, new: New) -> Result<(), Error> {
        let what = format!("prepare snapshot \"{}\" in containerd", new.key);
        let request = wire::PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: new.key,
            parent: new.parent,
            labels: new.labels,
        };
        let (mut client, request) = (self.snapshots(), self.under_lease(request)?);
        let call = client.prepare(request);
        answer(&what, self.containerd.timeout, call).await.map(drop)
    }

    /// Commits the active snapshot `key` under `name`.
    pub(crate) async fn commit(
        &self,
        snapshotter: &str,
        name: &str,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let what = format!("commit containerd's snapshot \"{key}\" as \"{name}\"");
        let request = wire::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
            parent: String::new(),
        };
        let (mut client, request) = (self.snapshots(), self.under_lease(request)?);
        let call = client.commit(request);
        answer(&what, self.containerd.timeout, call).await.map(drop)
    }

    pub(crate) async fn remove(&self, snapshotter: &str, key: &str) -> Result<(), Error> {
        let what = format!("remove containerd's snapshot \"{key}\"");
        let request = wire::RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let (mut client, request) = (self.snapshots(), self.under_lease(request)?);
        let call = client.remove(request);
        answer(&what, self.containerd.timeout, call).await.map(drop)
    }

    /// Notes at the configuration of an image that `chain` is its topmost layer in a snapshotter. So
    /// the image keeps that, and clients take it for unpacked.
    pub(crate) async fn refer(
        &self,
        config: &str,
        snapshotter: &str,
        chain: &str,
    ) -> Result<(), Error> {
        let what = format!("label containerd's blob {config}");
        let label = format!("{SNAPSHOT_LABEL}{snapshotter}");
        let request = UpdateRequest {
            update_mask: Some(FieldMask {
                paths: vec![format!("labels.{label}")],
            }),
            info: Some(Info {
                digest: config.to_owned(),
                labels: [(label, chain.to_owned())].into(),
                ..Info::default()
            }),
        };
        let mut client = ContentClient::new(self.containerd.channel.clone());
        let call = client.update(self.under_lease(request)?);
        answer(&what, self.containerd.timeout, call).await.map(drop)
    }

    /// Deletes the lease.
    pub(crate) async fn end(self) -> Result<(), Error> {
        let what = format!("delete the lease {}", self.id);
        let request = DeleteRequest {
            id: self.id.clone(),
        };
        let mut client = LeasesClient::new(self.containerd.channel.clone());
        let call = client.delete(within_namespace(self.namespace, request)?);
        answer(&what, self.containerd.timeout, call).await.map(drop)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        let channel = self.containerd.channel.clone();
        SnapshotsClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn under_lease<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = within_namespace(self.namespace, message)?;
        let value = self.id.parse().map_err(|_| Error::Malformed {
            what: format!("use the lease {:?}", self.id),
            lacks: "a name that metadata can hold",
        })?;
        request.metadata_mut().insert("containerd-lease", value);
        Ok(request)
    }
}
