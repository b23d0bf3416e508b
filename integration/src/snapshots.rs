//! A blocking client of containerd's snapshot service.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use layerd_proto::containerd::services::snapshots::v1::{Info, ListSnapshotsRequest};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The generated client on a unix socket, with a runtime to block on.
#[derive(Debug)]
pub struct Snapshots {
    runtime: Runtime,
    client: SnapshotsClient<Channel>,
}

impl Snapshots {
    /// Prepares a connection, which is made at the first call and made again when it broke.
    ///
    /// # Panics
    /// If no runtime can be started.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("descriptors are left");
        let channel = runtime.block_on(async { channel(socket.to_owned()) });
        Self {
            runtime,
            client: SnapshotsClient::new(channel),
        }
    }

    /// Runs calls on the client and returns what they return.
    pub fn call<T>(&mut self, calls: impl AsyncFnOnce(&mut SnapshotsClient<Channel>) -> T) -> T {
        self.runtime.block_on(calls(&mut self.client))
    }

    /// Lists every snapshot.
    ///
    /// # Panics
    /// If the call fails.
    #[must_use]
    pub fn list(&mut self) -> Vec<Info> {
        self.call(async |client| all(client).await)
            .expect("List answers")
    }
}

async fn all(client: &mut SnapshotsClient<Channel>) -> Result<Vec<Info>, Status> {
    let mut stream = client
        .list(ListSnapshotsRequest::default())
        .await?
        .into_inner();
    let mut found = Vec::new();
    while let Some(part) = stream.message().await? {
        found.extend(part.info);
    }
    Ok(found)
}

/// A channel that dials a unix socket.
#[must_use]
pub fn channel(socket: PathBuf) -> Channel {
    // The address is required and unused: the connector knows where to go.
    Endpoint::from_static("http://layerd.invalid").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}
