//! containerd's content store, as layerd uses it: layers come from it and go to it.
//!
//! A blob is read straight from containerd's directory where layerd can: a file is opened by a
//! checked digest in a folder that the configuration names, never by a path of a client, and its
//! content is verified while it is unpacked. Else it is streamed through the service,
//! as are all writes. Namespace and lease are those of the served call.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_util::rt::TokioIo;
use layerd_proto::containerd::services::content::v1::content_client::ContentClient;
use layerd_proto::containerd::services::content::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, ReadContentResponse, UpdateRequest,
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use layerd_proto::containerd::services::leases::v1::leases_client::LeasesClient;
use layerd_proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use layerd_store::{Key, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tracing::{debug, warn};

use crate::namespace::{self, NAMESPACE};
use crate::tasks::Tasks;
use crate::traces;

mod differ;
mod digest;

pub(crate) use differ::Elsewhere;
pub(crate) use digest::Digest;

/// Largest message that containerd sends and takes.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Blobs, below containerd's data directory.
const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";
/// Metadata of calls.
const LEASE: &str = "containerd-lease";
/// Seconds for which a lease keeps a new blob.
const LEASED_SECS: i64 = 3600;
/// Label of a blob: digest of the archive before compression.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Where containerd's content store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentConfig {
    /// containerd's socket.
    pub(crate) address: PathBuf,
    /// containerd's data directory, if blobs are to be read from it.
    pub(crate) root: Option<PathBuf>,
}

/// containerd's content store. Connects when it is first needed, and again when it has to.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    channel: Channel,
    client: ContentClient<Channel>,
    leases: LeasesClient<Channel>,
    config: Arc<ContentConfig>,
    tasks: Tasks,
}

/// On whose behalf containerd is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller(MetadataMap);

impl Caller {
    /// Namespace and lease of a request about a snapshot. Where containerd does not send them (1.7), the
    /// namespace is the prefix of the snapshot's key.
    pub(crate) fn of(metadata: &MetadataMap, key: &Key) -> Self {
        let mut caller = Self::default();
        for name in [NAMESPACE, LEASE] {
            if let Some(value) = metadata.get(name) {
                caller.0.insert(name, value.clone());
            }
        }
        if !caller.0.contains_key(NAMESPACE)
            && let Some(namespace) = namespace::of_key(key).and_then(|name| name.parse().ok())
        {
            caller.0.insert(NAMESPACE, namespace);
        }
        traces::inject(&mut caller.0);
        caller
    }

    fn asks<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.0.clone();
        request
    }
}

/// A blob, ready to be read.
#[derive(Debug)]
pub(crate) enum Blob {
    /// From containerd's directory.
    File(File),
    /// From containerd itself.
    Stream(Box<Streaming<ReadContentResponse>>),
}

impl Content {
    pub(crate) fn new(config: ContentConfig, tasks: Tasks) -> Self {
        let address = config.address.clone();
        let connector = tower::service_fn(move |_uri| {
            let address = address.clone();
            async move { UnixStream::connect(address).await.map(TokioIo::new) }
        });
        // The address is never looked up; HTTP/2 wants one.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self {
            leases: LeasesClient::new(channel.clone()),
            client: ContentClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            channel,
            config: Arc::new(config),
            tasks,
        }
    }

    /// Opens a blob.
    pub(crate) async fn open(&self, caller: &Caller, digest: Digest) -> Result<Blob, Status> {
        if let Some(root) = self.config.root.clone() {
            let opened = self.tasks.call(move || open_file(&root, digest)).await;
            match opened {
                Ok(Ok(file)) => return Ok(Blob::File(file)),
                Ok(Err(cause)) => {
                    debug!(%digest, %cause, "containerd is asked for a blob");
                }
                Err(lost) => return Err(Status::unavailable(lost.to_string())),
            }
        }
        let request = caller.asks(ReadContentRequest {
            digest: digest.to_string(),
            ..ReadContentRequest::default()
        });
        let stream = self.client.clone().read(request).await;
        let stream = stream.map_err(|status| self.explain("read a blob from", status))?;
        Ok(Blob::Stream(Box::new(stream.into_inner())))
    }

    /// Begins to write a blob. `name` is that of the ingestion; one is made up if it is empty.
    /// Nothing of it stays unless it is committed.
    pub(crate) async fn ingest(&self, caller: Caller, name: String) -> Result<Ingest, Status> {
        let mut left = Left {
            store: self.clone(),
            caller,
            name: String::new(),
            lease: None,
        };
        left.take_lease().await?;
        let name = if name.is_empty() { unique() } else { name };
        let (messages, outgoing) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: name.clone(),
            ..WriteContentRequest::default()
        };
        // It has room for one.
        let _sent = messages.try_send(first);
        let answers = self
            .client
            .clone()
            .write(left.caller.asks(ReceiverStream::new(outgoing)))
            .await
            .map_err(|status| self.explain(WRITE, status))?;
        let mut ingest = Ingest {
            messages,
            answers: answers.into_inner(),
            offset: 0,
            left,
        };
        ingest.answer().await?;
        // From now on it is ours to drop.
        ingest.left.name = name;
        Ok(ingest)
    }

    /// Sees to it that a blob which was there before says what it is uncompressed.
    async fn note_uncompressed(
        &self,
        caller: &Caller,
        blob: Digest,
        diff_id: Digest,
    ) -> Result<(), Status> {
        let digest = blob.to_string();
        let failed = |status| self.explain("look at a blob in", status);
        let request = caller.asks(InfoRequest { digest });
        let answer = self.client.clone().info(request).await.map_err(failed)?;
        let info = answer.into_inner().info.unwrap_or_default();
        if info.labels.contains_key(UNCOMPRESSED) {
            return Ok(());
        }
        let label = (UNCOMPRESSED.to_owned(), diff_id.to_string());
        let request = caller.asks(UpdateRequest {
            info: Some(Info {
                digest: blob.to_string(),
                labels: [label].into(),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![format!("labels.{UNCOMPRESSED}")],
            }),
        });
        let updated = self.client.clone().update(request).await;
        updated.map(drop).map_err(failed)
    }

    /// Says whose answer it is; for one that does not come, where it was asked.
    fn explain(&self, attempt: &str, status: Status) -> Status {
        self.explain_as(attempt, "content store", status)
    }

    fn explain_as(&self, attempt: &str, service: &str, status: Status) -> Status {
        use std::error::Error as _;
        let address = self.config.address.display();
        let text = match status.source() {
            // Only what did not come from the other side has a cause.
            Some(_) => {
                let text = format!(
                    "{attempt} containerd's {service}: {address} cannot be reached ({}); \
                     `containerd.address` in layerd's configuration names it",
                    crate::with_causes(&status)
                );
                return Status::unavailable(text);
            }
            None => format!("{attempt} containerd's {service}: {}", status.message()),
        };
        Status::new(status.code(), text)
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Ingest {
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    /// Bytes written so far.
    offset: i64,
    /// After the stream, so that it is dropped after it.
    left: Left,
}

impl Ingest {
    /// Appends a piece.
    pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<(), Status> {
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            // The first piece drops what an earlier try under this name may have left.
            offset: self.offset,
            data,
            ..WriteContentRequest::default()
        };
        let answer = self.ask(message).await?;
        self.offset += length;
        if answer.offset == self.offset {
            return Ok(());
        }
        let (has, sent) = (answer.offset, self.offset);
        let text = format!("{WRITE} containerd's content store: it has {has} bytes of {sent}");
        Err(Status::data_loss(text))
    }

    /// Makes what was written a blob. One that is there already will do.
    pub(crate) async fn commit(
        mut self,
        blob: Digest,
        diff_id: Digest,
        mut labels: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        labels.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
        // The store would refuse an expected digest that it has without putting the blob under the
        // caller's lease; so what it got is compared afterwards.
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: self.offset,
            offset: self.offset,
            labels,
            ..WriteContentRequest::default()
        };
        match self.ask(message).await {
            Ok(answer) if answer.digest == blob.to_string() => {
                self.left.name.clear();
                self.left.lease = None;
                Ok(())
            }
            Ok(answer) => {
                let got = answer.digest;
                let text = format!("{WRITE} containerd's content store: it got {got}, not {blob}");
                Err(Status::data_loss(text))
            }
            Err(status) if status.code() == Code::AlreadyExists => {
                let Left { store, caller, .. } = &self.left;
                store.note_uncompressed(caller, blob, diff_id).await?;
                self.left.lease = None;
                Ok(())
            }
            Err(status) => Err(status),
        }
    }

    async fn ask(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // If the other side has gone, the answer says why.
        let _sent = self.messages.send(message).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let closed = || Status::unavailable("containerd closed the stream");
        let answer = self.answers.message().await;
        let answer = answer.and_then(|answer| answer.ok_or_else(closed));
        answer.map_err(|status| self.left.store.explain(WRITE, status))
    }
}

const WRITE: &str = "write a blob to";

/// Drops what was ingested and not committed, and the lease that was made for it.
#[derive(Debug)]
struct Left {
    store: Content,
    caller: Caller,
    /// Empty if there is nothing to drop.
    name: String,
    /// None if the caller's was used, or a blob lives by it now.
    lease: Option<String>,
}

impl Left {
    /// containerd does not say which lease its own caller has, so the blob gets one that ends by
    /// itself: containerd's collector must not be faster than who asked for the blob.
    async fn take_lease(&mut self) -> Result<(), Status> {
        if self.caller.0.contains_key(LEASE) {
            return Ok(());
        }
        let end = prost_types::Timestamp {
            seconds: Timestamp::now().0 / 1_000_000_000 + LEASED_SECS,
            nanos: 0,
        };
        let id = unique();
        // A client that goes while this is answered leaves nothing either.
        self.lease = Some(id.clone());
        let request = self.caller.asks(CreateRequest {
            id,
            labels: [("containerd.io/gc.expire".to_owned(), end.to_string())].into(),
        });
        let answer = self.store.leases.clone().create(request).await;
        let answer = answer.map_err(|status| self.store.explain("lease a blob in", status))?;
        let lease = answer.into_inner().lease.unwrap_or_default().id.parse();
        let unfit = |_| Status::internal("containerd names a lease as no metadata can");
        self.caller.0.insert(LEASE, lease.map_err(unfit)?);
        Ok(())
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        let lease = self.lease.take();
        if name.is_empty() && lease.is_none() {
            return;
        }
        let (store, caller) = (self.store.clone(), self.caller.clone());
        self.store.tasks.spawn_with_peer(async move {
            if !name.is_empty() {
                let request = caller.asks(AbortRequest { r#ref: name });
                gone(store.client.clone().abort(request).await.map(drop));
            }
            if let Some(id) = lease {
                let request = caller.asks(DeleteRequest { id });
                gone(store.leases.clone().delete(request).await.map(drop));
            }
        });
    }
}

/// Logs a failed drop; one that is gone already was dropped by containerd itself.
fn gone(dropped: Result<(), Status>) {
    if let Err(status) = dropped
        && status.code() != Code::NotFound
    {
        let why = status.message();
        warn!(
            why,
            "drop what is left of an unfinished blob from containerd's content store"
        );
    }
}

/// A name that no other has.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("layerd-{}-{count}", Timestamp::now().0)
}

/// Opens the file of a blob.
fn open_file(root: &Path, digest: Digest) -> Result<File, Errno> {
    let folder = open(
        &root.join(BLOBS),
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: OwnedFd = openat(&folder, digest.hex().as_str(), flags, Mode::empty())?;
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFREG {
        Ok(File::from(file))
    } else {
        Err(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::Key;
    use tonic::metadata::MetadataMap;

    use super::{Caller, NAMESPACE};

    #[test]
    fn the_namespace_is_the_callers_or_the_snapshots() {
        let named: MetadataMap = {
            let mut metadata = MetadataMap::new();
            metadata.insert(NAMESPACE, "theirs".parse().unwrap());
            metadata
        };
        for (metadata, key, wanted) in [
            (&named, "k8s.io/12/sha256:a", Some("theirs")),
            (&MetadataMap::new(), "k8s.io/12/sha256:a", Some("k8s.io")),
            (&MetadataMap::new(), "default/3/a/b", Some("default")),
            (&MetadataMap::new(), "default/3", None),
            (&MetadataMap::new(), "default//a", None),
            (&MetadataMap::new(), "default/x/a", None),
            (&MetadataMap::new(), "mine", None),
        ] {
            let caller = Caller::of(metadata, &Key::parse("key", key).unwrap());
            let found = caller.0.get(NAMESPACE).map(|value| value.to_str().unwrap());
            assert_eq!(found, wanted, "{key}");
        }
    }
}
