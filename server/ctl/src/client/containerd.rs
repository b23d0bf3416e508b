//! The calls to containerd itself: what it knows of the snapshots that it has layerd keep.

mod blobs;
mod leased;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use layerd_proto::containerd::services::containers::v1::containers_client::ContainersClient;
use layerd_proto::containerd::services::containers::v1::{Container, ListContainersRequest};
use layerd_proto::containerd::services::content::v1::content_client::ContentClient;
use layerd_proto::containerd::services::content::v1::{Info, ListContentRequest};
use layerd_proto::containerd::services::images::v1::ListImagesRequest;
use layerd_proto::containerd::services::images::v1::images_client::ImagesClient;
use layerd_proto::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use layerd_proto::containerd::services::introspection::v1::{Plugin, PluginsRequest};
use layerd_proto::containerd::services::leases::v1::leases_client::LeasesClient;
use layerd_proto::containerd::services::leases::v1::{ListRequest, ListResourcesRequest};
use layerd_proto::containerd::services::namespaces::v1::ListNamespacesRequest;
use layerd_proto::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use layerd_proto::containerd::services::snapshots::v1::ListSnapshotsRequest;
use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use layerd_proto::containerd::services::version::v1::version_client::VersionClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};

use super::{MAX_MESSAGE, answer, channel, failed, within};
use crate::error::{Error, Peer};
use crate::snapshot::Snapshot;
pub(crate) use blobs::Blob as NewBlob;
pub(crate) use leased::Leased;

/// Label of a blob that needs another one; a suffix tells several apart.
const CONTENT_LABEL: &str = "containerd.io/gc.ref.content";
/// Label of a blob that needs a snapshot; ends with the name of the snapshotter.
const SNAPSHOT_LABEL: &str = "containerd.io/gc.ref.snapshot.";

/// A connection to containerd. Dropping it closes it.
pub(crate) struct Containerd {
    channel: Channel,
    timeout: Duration,
}

/// Something in containerd that needs a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) namespace: String,
    /// The snapshot, as containerd's clients call it.
    pub(crate) key: String,
    pub(crate) holder: Holder,
}

/// User of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// Its id.
    Container(String),
    /// Digest of the content that stands for the image.
    Image(String),
    /// Its id.
    Lease(String),
}

/// A blob of containerd, as its labels for the garbage collection tell.
#[derive(Debug, Default)]
pub(crate) struct Blob {
    /// Digests of the blobs that it refers to.
    pub(crate) refers_to: Vec<String>,
    /// Its topmost snapshot, if it is the configuration of an unpacked image.
    pub(crate) snapshot: Option<String>,
}

/// Images and containers in a namespace of containerd. Keys are those of its clients.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Names with the digests of their manifests or indexes.
    pub(crate) images: Vec<(String, String)>,
    pub(crate) blobs: HashMap<String, Blob>,
    /// Keys of containers with the names of their images.
    pub(crate) containers: Vec<(String, String)>,
}

impl Containerd {
    /// Connects at once.
    pub(crate) async fn connect(address: &Path, timeout: Duration) -> Result<Self, Error> {
        let channel = channel(Peer::Containerd, address, timeout).await?;
        Ok(Self { channel, timeout })
    }

    /// Such as "v2.1.4".
    pub(crate) async fn version(&self) -> Result<String, Error> {
        let mut client = VersionClient::new(self.channel.clone());
        let call = client.version(());
        let reply = answer("ask containerd for its version", self.timeout, call).await?;
        Ok(reply.version)
    }

    /// Its plugins of this name, of any type.
    pub(crate) async fn plugins(&self, name: &str) -> Result<Vec<Plugin>, Error> {
        let mut client = IntrospectionClient::new(self.channel.clone());
        // Filters are for one field a selector; the name is compared here.
        let call = client.plugins(PluginsRequest::default());
        let reply = answer("list containerd's plugins", self.timeout, call).await?;
        let plugins = reply.plugins.into_iter();
        Ok(plugins.filter(|plugin| plugin.id == name).collect())
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<String>, Error> {
        let mut client = NamespacesClient::new(self.channel.clone());
        let call = client.list(ListNamespacesRequest::default());
        let reply = answer("list containerd's namespaces", self.timeout, call).await?;
        Ok(reply.namespaces.into_iter().map(|one| one.name).collect())
    }

    /// The snapshots that containerd has in a namespace and that their snapshotter has, too:
    /// containerd leaves the others out.
    pub(crate) async fn snapshots(
        &self,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Vec<Snapshot>, Error> {
        let what = format!("list the snapshots in containerd's namespace {namespace}");
        let mut client =
            SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let request = ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            filters: Vec::new(),
        };
        let call = client.list(within_namespace(namespace, request)?);
        let mut stream = answer(&what, self.timeout, call).await?;
        let mut all = Vec::new();
        while let Some(message) = self.next(&what, &mut stream).await? {
            all.extend(message.info.into_iter().map(Snapshot::from));
        }
        Ok(all)
    }

    /// References to snapshots in a namespace, in no order.
    pub(crate) async fn references(
        &self,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Vec<Reference>, Error> {
        let mut all = self.of_containers(namespace, snapshotter).await?;
        all.extend(self.of_images(namespace, snapshotter).await?);
        all.extend(self.of_leases(namespace, snapshotter).await?);
        Ok(all)
    }

    /// Images and containers of a namespace, as far as they concern a snapshotter.
    pub(crate) async fn images(
        &self,
        namespace: String,
        snapshotter: &str,
    ) -> Result<Namespace, Error> {
        let what = format!("list the images in containerd's namespace {namespace}");
        let mut client =
            ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let request = within_namespace(&namespace, ListImagesRequest::default())?;
        let images = answer(&what, self.timeout, client.list(request))
            .await?
            .images;
        let images = images.into_iter().map(|image| {
            let target = image.target.unwrap_or_default();
            (image.name, target.digest)
        });
        let containers = self.containers(&namespace, snapshotter).await?.into_iter();
        let blobs = self.content(&namespace, Vec::new()).await?.into_iter();
        Ok(Namespace {
            images: images.collect(),
            containers: containers
                .map(|one| (one.snapshot_key, one.image))
                .filter(|(_, image)| !image.is_empty())
                .collect(),
            blobs: blobs.map(|info| blob(info, snapshotter)).collect(),
            name: namespace,
        })
    }

    /// Containers with a snapshot.
    pub(crate) async fn containers(
        &self,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Vec<Container>, Error> {
        let what = format!("list the containers in containerd's namespace {namespace}");
        let mut client =
            ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let request = within_namespace(namespace, ListContainersRequest::default())?;
        let call = client.list_stream(request);
        let mut stream = answer(&what, self.timeout, call).await?;
        let mut all = Vec::new();
        while let Some(message) = self.next(&what, &mut stream).await? {
            let container = message.container.unwrap_or_default();
            if container.snapshotter == snapshotter && !container.snapshot_key.is_empty() {
                all.push(container);
            }
        }
        Ok(all)
    }

    async fn content(&self, namespace: &str, filters: Vec<String>) -> Result<Vec<Info>, Error> {
        let what = format!("list the content in containerd's namespace {namespace}");
        let mut client =
            ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let call = client.list(within_namespace(namespace, ListContentRequest { filters })?);
        let mut stream = answer(&what, self.timeout, call).await?;
        let mut all = Vec::new();
        while let Some(message) = self.next(&what, &mut stream).await? {
            all.extend(message.info);
        }
        Ok(all)
    }

    async fn of_containers(
        &self,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Vec<Reference>, Error> {
        let containers = self.containers(namespace, snapshotter).await?.into_iter();
        Ok(containers
            .map(|one| reference(namespace, &one.snapshot_key, Holder::Container(one.id)))
            .collect())
    }

    /// The configuration of an image that was unpacked is labelled with its topmost layer.
    pub(crate) async fn of_images(
        &self,
        namespace: &str,
        snapshotter: &str,
    ) -> Result<Vec<Reference>, Error> {
        let label = format!("{SNAPSHOT_LABEL}{snapshotter}");
        let filters = vec![format!("labels.\"{label}\"")];
        let labelled = self.content(namespace, filters).await?.into_iter();
        Ok(labelled
            .filter_map(|info| {
                let key = info.labels.get(&label)?;
                Some(reference(
                    namespace,
                    key,
                    Holder::Image(info.digest.clone()),
                ))
            })
            .collect())
    }

    async fn of_leases(&self, namespace: &str, snapshotter: &str) -> Result<Vec<Reference>, Error> {
        let what = format!("list the leases in containerd's namespace {namespace}");
        let kind = format!("snapshots/{snapshotter}");
        let mut client = LeasesClient::new(self.channel.clone());
        let call = client.list(within_namespace(namespace, ListRequest::default())?);
        let leases = answer(&what, self.timeout, call).await?.leases;
        let mut all = Vec::new();
        for lease in leases {
            let request = ListResourcesRequest {
                id: lease.id.clone(),
            };
            let call = client.list_resources(within_namespace(namespace, request)?);
            let resources = match answer(&what, self.timeout, call).await {
                Ok(reply) => reply.resources,
                Err(Error::Call { status, .. }) if status.code() == Code::NotFound => continue,
                Err(other) => return Err(other),
            };
            let snapshots = resources.iter().filter(|resource| resource.r#type == kind);
            all.extend(snapshots.map(|snapshot| {
                reference(namespace, &snapshot.id, Holder::Lease(lease.id.clone()))
            }));
        }
        Ok(all)
    }

    async fn next<T>(&self, what: &str, stream: &mut Streaming<T>) -> Result<Option<T>, Error> {
        within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))
    }
}

/// Digest of a blob, and what its labels refer to.
fn blob(info: Info, snapshotter: &str) -> (String, Blob) {
    let mut blob = Blob::default();
    for (label, value) in info.labels {
        if label.starts_with(CONTENT_LABEL) {
            blob.refers_to.push(value);
        } else if label.strip_prefix(SNAPSHOT_LABEL) == Some(snapshotter) {
            blob.snapshot = Some(value);
        }
    }
    (info.digest, blob)
}

fn reference(namespace: &str, key: &str, holder: Holder) -> Reference {
    Reference {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        holder,
    }
}

fn within_namespace<T>(namespace: &str, message: T) -> Result<Request<T>, Error> {
    let value = namespace.parse().map_err(|_| Error::Malformed {
        what: format!("ask containerd about its namespace {namespace:?}"),
        lacks: "a name that metadata can hold",
    })?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}
