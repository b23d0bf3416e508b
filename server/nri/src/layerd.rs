//! The calls of layerd.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use layerd_proto::layerd::v1::attachments_client::AttachmentsClient;
use layerd_proto::layerd::v1::mounts_client::MountsClient;
use layerd_proto::layerd::v1::{
    AttachRequest, AttachSpec, DetachRequest, Dialect, ListAttachmentsRequest, MountSpec, OciMount,
    Owner, ParseMountsRequest,
};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Kind of the owners of attachments.
const KIND: &str = "container";
/// Largest message, as layerctl accepts: a hundred attachments.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Why layerd did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("layerd: {}", .0.message())]
    Call(#[from] Status),
    #[error("layerd did not answer within {} ms: is layerd.service running?", .0.as_millis())]
    Late(Duration),
    #[error("{0:?} must not ask for type=bind: layerd-nri runs without --allow-binds")]
    Bind(String),
}

/// A connection that is made when it is needed, and again after layerd was away. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Layerd {
    channel: Channel,
    /// The owners' ids begin with it.
    instance: String,
}

impl Layerd {
    pub(crate) fn new(socket: &Path, instance: &str) -> Self {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never looked up; HTTP/2 wants one.
        let endpoint = Endpoint::from_static("http://localhost");
        Self {
            channel: endpoint.connect_with_connector_lazy(connector),
            instance: instance.to_owned(),
        }
    }

    fn owner(&self, container: &str) -> Owner {
        Owner {
            kind: KIND.to_owned(),
            id: format!("{}:{container}", self.instance),
        }
    }

    fn attachments(&self) -> AttachmentsClient<Channel> {
        AttachmentsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Attaches all mounts of a container, or none. Answers them as the runtime is to make them.
    pub(crate) async fn attach(
        &self,
        container: &str,
        mounts: Vec<String>,
        allow_binds: bool,
    ) -> Result<Vec<OciMount>, Failed> {
        let mounts = self.parse(mounts).await?;
        if let Some(bind) = mounts.iter().find(|mount| mount.r#type == "bind")
            && !allow_binds
        {
            return Err(Failed::Bind(bind.canonical.clone()));
        }
        let owner = self.owner(container);
        let specs = mounts.into_iter().map(|mount| AttachSpec {
            key: format!("{}:{}:{}", owner.kind, owner.id, mount.target),
            mount: mount.canonical,
            relabel_by_dialect: mount.relabel_by_dialect,
            ..AttachSpec::default()
        });
        let request = AttachRequest {
            mounts: specs.collect(),
            owner: Some(owner),
        };
        let answer = self.attachments().attach(request).await?.into_inner();
        let attached = answer.attachments.into_iter();
        Ok(attached.flat_map(|one| one.oci_mounts).collect())
    }

    async fn parse(&self, mounts: Vec<String>) -> Result<Vec<MountSpec>, Status> {
        let request = ParseMountsRequest {
            dialect: Dialect::Strict.into(),
            mounts,
            base_dir: "/".to_owned(),
            ..ParseMountsRequest::default()
        };
        let mut client = MountsClient::new(self.channel.clone());
        Ok(client.parse(request).await?.into_inner().mounts)
    }

    /// Lets go of all that a container has; success if it has nothing.
    pub(crate) async fn detach(&self, container: &str) -> Result<(), Status> {
        let request = DetachRequest {
            owner: Some(self.owner(container)),
            ..DetachRequest::default()
        };
        self.attachments().detach(request).await.map(drop)
    }

    /// Containers of this instance that have attachments.
    pub(crate) async fn containers(&self) -> Result<BTreeSet<String>, Status> {
        let request = ListAttachmentsRequest::default();
        let mut stream = self.attachments().list(request).await?.into_inner();
        let mut all = BTreeSet::new();
        while let Some(message) = stream.message().await? {
            let owners = message.attachments.into_iter().filter_map(|one| one.owner);
            all.extend(owners.filter_map(|owner| self.container_of(&owner)));
        }
        Ok(all)
    }

    fn container_of(&self, owner: &Owner) -> Option<String> {
        let (instance, container) = owner.id.split_once(':')?;
        (owner.kind == KIND && instance == self.instance).then(|| container.to_owned())
    }
}

/// Waits for layerd, for as long as the runtime waits for the plugin.
pub(crate) async fn within<T, E: Into<Failed>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(Failed::Late(limit)),
    }
}
