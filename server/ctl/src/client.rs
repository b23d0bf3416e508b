//! The connection to the daemon: one method a call, each with its deadline and its error.

mod archives;
mod attachments;
mod containerd;
mod content;
pub(crate) mod csi;
mod events;
mod filling;
mod layers;
mod resolve;
mod volumes;

pub(crate) use archives::Exported;
pub(crate) use containerd::{Blob, Containerd, Holder, Leased, Namespace, NewBlob, Reference};

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use layerd_proto::containerd::services::snapshots::v1 as wire;
use layerd_proto::layerd::v1 as admin;
use layerd_proto::layerd::v1::admin_client::AdminClient;
use layerd_proto::layerd::v1::attachments_client::AttachmentsClient;
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::mounts_client::MountsClient;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{InfoRequest, InfoResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use wire::snapshots_client::SnapshotsClient;

use crate::containerd::SNAPSHOTTER;
use crate::error::{Error, Peer};
use crate::snapshot::{Mount, Snapshot, Usage};
use crate::text::filter_value;

/// Largest message, as containerd's servers accept: a hundred snapshots with full labels.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// As large as a piece of a backup may be.
const CHUNK: usize = 64 * 1024;

/// Key, parent and labels of a new snapshot.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) key: String,
    pub(crate) parent: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A connection. Dropping it closes it.
pub(crate) struct Client {
    snapshots: SnapshotsClient<Channel>,
    admin: AdminClient<Channel>,
    volumes: VolumesClient<Channel>,
    mounts: MountsClient<Channel>,
    attachments: AttachmentsClient<Channel>,
    layers: LayersClient<Channel>,
    timeout: Duration,
}

impl Client {
    /// Connects at once, so that a daemon that is not there is told from a call that failed.
    pub(crate) async fn connect(address: &Path, timeout: Duration) -> Result<Self, Error> {
        let channel = channel(Peer::Layerd, address, timeout).await?;
        Ok(Self {
            snapshots: SnapshotsClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            admin: AdminClient::new(channel.clone()),
            volumes: VolumesClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            mounts: MountsClient::new(channel.clone()),
            layers: LayersClient::new(channel.clone()),
            attachments: AttachmentsClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            timeout,
        })
    }

    pub(crate) async fn info(&mut self) -> Result<InfoResponse, Error> {
        let call = self.admin.info(InfoRequest {});
        answer("ask layerd about itself", self.timeout, call).await
    }

    /// Name of this layerd in containerd's configuration, as far as its data directory tells.
    pub(crate) async fn snapshotter(&mut self) -> Result<String, Error> {
        let root = self.info().await?.root;
        Ok(crate::containerd::snapshotter(Path::new(&root)).to_owned())
    }

    /// Entries of the trash, oldest first.
    pub(crate) async fn trash(&mut self) -> Result<Vec<admin::Removed>, Error> {
        let what = "list the trash";
        let call = self.admin.list_trash(admin::ListTrashRequest {});
        let mut stream = answer(what, self.timeout, call).await?;
        let mut all = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            all.extend(message.removed);
        }
        Ok(all)
    }

    /// Takes removed snapshots back; all if no `ids` are given.
    pub(crate) async fn restore_trash(
        &mut self,
        ids: Vec<String>,
    ) -> Result<Vec<admin::Restored>, Error> {
        let all = ids.is_empty();
        let call = self
            .admin
            .restore_trash(admin::RestoreTrashRequest { ids, all });
        let reply = answer("restore from the trash", self.timeout, call).await?;
        Ok(reply.restored)
    }

    /// Lets the trash be deleted, and answers how many layers are in it.
    /// Answers what is in the trash.
    pub(crate) async fn empty_trash(
        &mut self,
        only_release: bool,
    ) -> Result<admin::EmptyTrashResponse, Error> {
        let call = self
            .admin
            .empty_trash(admin::EmptyTrashRequest { only_release });
        answer("empty the trash", self.timeout, call).await
    }

    pub(crate) async fn fsck(&mut self, repair: bool) -> Result<Vec<admin::Finding>, Error> {
        let call = self.admin.fsck(admin::FsckRequest { repair });
        let reply = answer("compare records and disk", self.timeout, call).await?;
        Ok(reply.findings)
    }

    /// Hands the pieces of a backup to `each`. All of it came if this succeeds.
    pub(crate) async fn backup(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let what = "take a backup";
        let call = self.admin.backup(admin::BackupRequest {});
        let mut stream = answer(what, self.timeout, call).await?;
        while let Some(chunk) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            each(&chunk.data)?;
        }
        Ok(())
    }

    /// Puts `file`, or the daemon's own newest export if there is none, in place of lost records.
    pub(crate) async fn restore_records(
        &mut self,
        file: Option<&[u8]>,
    ) -> Result<admin::RestoreRecordsResponse, Error> {
        let pieces = file.unwrap_or_default().chunks(CHUNK);
        let chunks: Vec<_> = pieces
            .map(|data| admin::Chunk {
                data: data.to_vec(),
            })
            .collect();
        let call = self.admin.restore_records(tokio_stream::iter(chunks));
        answer("restore the records", self.timeout, call).await
    }

    /// Every snapshot that matches one of `filters`, or all; in no order.
    pub(crate) async fn list(&mut self, filters: Vec<String>) -> Result<Vec<Snapshot>, Error> {
        let what = "list snapshots";
        let request = wire::ListSnapshotsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            filters,
        };
        let mut stream = answer(what, self.timeout, self.snapshots.list(request)).await?;
        let mut all = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            all.extend(message.info.into_iter().map(Snapshot::from));
        }
        Ok(all)
    }

    pub(crate) async fn children(&mut self, name: &str) -> Result<Vec<Snapshot>, Error> {
        self.list(vec![format!("parent=={}", filter_value(name))])
            .await
    }

    pub(crate) async fn stat(&mut self, key: &str) -> Result<Snapshot, Error> {
        let what = format!("look at snapshot \"{key}\"");
        let request = wire::StatSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        };
        let reply = answer(&what, self.timeout, self.snapshots.stat(request)).await?;
        let lacks = "the snapshot";
        reply
            .info
            .map(Snapshot::from)
            .ok_or(Error::Malformed { what, lacks })
    }

    pub(crate) async fn usage(&mut self, key: &str) -> Result<Usage, Error> {
        let what = format!("measure snapshot \"{key}\"");
        let request = wire::UsageRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        };
        let reply = answer(&what, self.timeout, self.snapshots.usage(request)).await?;
        Ok(Usage {
            bytes: u64::try_from(reply.size).unwrap_or_default(),
            inodes: u64::try_from(reply.inodes).unwrap_or_default(),
        })
    }

    /// As [`usage`](Self::usage), but none for a snapshot that is gone by now.
    pub(crate) async fn usage_if_there(&mut self, key: &str) -> Result<Option<Usage>, Error> {
        match self.usage(key).await {
            Ok(usage) => Ok(Some(usage)),
            Err(Error::Call { status, .. }) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Each snapshot with what it holds; none for one that is gone by now. A call each.
    pub(crate) async fn measure(
        &mut self,
        found: Vec<Snapshot>,
    ) -> Result<Vec<(Snapshot, Option<Usage>)>, Error> {
        let mut measured = Vec::with_capacity(found.len());
        for snapshot in found {
            let usage = self.usage_if_there(&snapshot.name).await?;
            measured.push((snapshot, usage));
        }
        Ok(measured)
    }

    pub(crate) async fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Error> {
        let what = format!("get the mounts of snapshot \"{key}\"");
        let request = wire::MountsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        };
        let reply = answer(&what, self.timeout, self.snapshots.mounts(request)).await?;
        Ok(reply.mounts.into_iter().map(Mount::from).collect())
    }

    pub(crate) async fn prepare(&mut self, new: New) -> Result<Vec<Mount>, Error> {
        let what = format!("prepare snapshot \"{}\"", new.key);
        let request = wire::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: new.key,
            parent: new.parent,
            labels: new.labels,
        };
        let reply = answer(&what, self.timeout, self.snapshots.prepare(request)).await?;
        Ok(reply.mounts.into_iter().map(Mount::from).collect())
    }

    pub(crate) async fn view(&mut self, new: New) -> Result<Vec<Mount>, Error> {
        let what = format!("make view \"{}\"", new.key);
        let request = wire::ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: new.key,
            parent: new.parent,
            labels: new.labels,
        };
        let reply = answer(&what, self.timeout, self.snapshots.view(request)).await?;
        Ok(reply.mounts.into_iter().map(Mount::from).collect())
    }

    /// Commits the active snapshot `key` under `name`.
    pub(crate) async fn commit(
        &mut self,
        name: &str,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let request = wire::CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
            parent: String::new(),
        };
        let what = format!("commit snapshot \"{key}\" as \"{name}\"");
        answer(&what, self.timeout, self.snapshots.commit(request))
            .await
            .map(drop)
    }

    pub(crate) async fn remove(&mut self, key: &str) -> Result<(), Error> {
        let request = wire::RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
        };
        let what = format!("remove snapshot \"{key}\"");
        answer(&what, self.timeout, self.snapshots.remove(request))
            .await
            .map(drop)
    }

    /// Sets labels; those with an empty value are removed. Others stay.
    pub(crate) async fn label(
        &mut self,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Snapshot, Error> {
        let what = format!("change the labels of snapshot \"{key}\"");
        let paths = labels
            .keys()
            .map(|label| format!("labels.{label}"))
            .collect();
        let request = wire::UpdateSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            info: Some(wire::Info {
                name: key.to_owned(),
                labels,
                ..wire::Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let reply = answer(&what, self.timeout, self.snapshots.update(request)).await?;
        let lacks = "the snapshot";
        reply
            .info
            .map(Snapshot::from)
            .ok_or(Error::Malformed { what, lacks })
    }

    pub(crate) async fn cleanup(&mut self) -> Result<(), Error> {
        let request = wire::CleanupRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
        };
        let call = self.snapshots.cleanup(request);
        answer("start the cleanup", self.timeout, call)
            .await
            .map(drop)
    }
}

/// Runs a conversation with the daemon on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::Io {
            what: "start".to_owned(),
            cause,
        })?
        .block_on(work)
}

/// A connection that is made now, and not again.
async fn channel(peer: Peer, address: &Path, timeout: Duration) -> Result<Channel, Error> {
    let unreachable = |cause| Error::Unreachable {
        peer,
        address: address.display().to_string(),
        cause,
    };
    let what = format!("connect to {peer}");
    let stream = within(&what, timeout, UnixStream::connect(address))
        .await?
        .map_err(unreachable)?;
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_uri| {
        let taken = stream.lock().ok().and_then(|mut stream| stream.take());
        std::future::ready(taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    // The address is never looked up; HTTP/2 wants one.
    let endpoint = Endpoint::from_static("http://localhost");
    within(&what, timeout, endpoint.connect_with_connector(connector))
        .await?
        .map_err(|cause| unreachable(io::Error::other(cause)))
}

async fn answer<T>(
    what: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    let reply = within(what, limit, call).await?;
    reply
        .map(Response::into_inner)
        .map_err(|status| failed(what, status))
}

fn failed(what: &str, status: Status) -> Error {
    Error::Call {
        what: what.to_owned(),
        status: Box::new(status),
    }
}

async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    if limit.is_zero() {
        return Ok(work.await);
    }
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::TimedOut {
            what: what.to_owned(),
            limit,
        })
}
