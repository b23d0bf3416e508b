//! Calls served while the records are lost or damaged: those that restore them.
//!
//! Every other call is answered with UNAVAILABLE and the fix, so that clients wait instead of
//! taking an empty store for the truth.

use std::future::{Future, ready};
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use layerd_drivers::Driver;
use layerd_engine::{Error, restore_records};
use layerd_proto::layerd::v1::admin_server::{Admin, AdminServer};
use layerd_proto::layerd::v1::{self as pb, InfoRequest, InfoResponse};
use layerd_store::Error as StoreError;
use tempfile::NamedTempFile;
use tokio_stream::{Empty, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};
use tower::{Layer, Service as TowerService};
use tracing::{error, info};

use crate::api::status;
use crate::tasks::Tasks;

/// Largest export that is taken over the wire.
const UPLOAD_MAX: usize = 1024 * 1024 * 1024;

/// State of the rescue.
#[derive(Debug, Clone)]
pub(crate) struct Rescue {
    pub(crate) root: PathBuf,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) tasks: Tasks,
    /// The error, with its fix.
    pub(crate) trouble: String,
    /// The copy that a restore without a file takes; empty without one.
    pub(crate) newest_copy: String,
    /// Cancelled when the records are back.
    pub(crate) done: CancellationToken,
}

/// The server of a daemon without records.
pub(crate) fn router(
    rescue: Rescue,
    health: HealthServer<impl Health>,
) -> Router<Stack<Refuse, Identity>> {
    let refuse = Refuse {
        trouble: rescue.trouble.clone().into(),
    };
    Server::builder()
        .layer(refuse)
        .add_service(AdminServer::new(rescue))
        .add_service(health)
}

#[tonic::async_trait]
impl Admin for Rescue {
    type ListTrashStream = Empty<Result<pb::ListTrashResponse, Status>>;
    type EventsStream = Empty<Result<pb::EventsResponse, Status>>;
    type FullnessStream = Empty<Result<pb::FullnessResponse, Status>>;
    type BackupStream = Empty<Result<pb::Chunk, Status>>;
    type CheckContentStream = Empty<Result<pb::CheckContentResponse, Status>>;

    async fn info(&self, _request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.root.display().to_string(),
            alarms: vec![self.trouble.clone()],
            newest_copy: self.newest_copy.clone(),
            ..InfoResponse::default()
        }))
    }

    async fn list_trash(
        &self,
        _: Request<pb::ListTrashRequest>,
    ) -> Result<Response<Self::ListTrashStream>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn restore_trash(
        &self,
        _: Request<pb::RestoreTrashRequest>,
    ) -> Result<Response<pb::RestoreTrashResponse>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn empty_trash(
        &self,
        _: Request<pb::EmptyTrashRequest>,
    ) -> Result<Response<pb::EmptyTrashResponse>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn fsck(
        &self,
        _: Request<pb::FsckRequest>,
    ) -> Result<Response<pb::FsckResponse>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn check_content(
        &self,
        _: Request<pb::CheckContentRequest>,
    ) -> Result<Response<Self::CheckContentStream>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn events(
        &self,
        _: Request<pb::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn fullness(
        &self,
        _: Request<pb::FullnessRequest>,
    ) -> Result<Response<Self::FullnessStream>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn backup(
        &self,
        _: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Err(Status::unavailable(&self.trouble))
    }

    async fn restore_records(
        &self,
        request: Request<Streaming<pb::Chunk>>,
    ) -> Result<Response<pb::RestoreRecordsResponse>, Status> {
        let upload = self.receive(request.into_inner()).await?;
        let file = upload.as_ref().map(|upload| upload.path().to_owned());
        let (root, driver) = (self.root.clone(), self.driver.clone());
        let restored = self.tasks.call(move || {
            let file = upload.as_ref().map(NamedTempFile::path);
            restore_records(&root, driver.as_ref(), file)
        });
        let restored = restored.await.map_err(|lost| status::lost(&lost))?;
        let restored = restored.map_err(|error| match error {
            Error::Store(StoreError::Damaged { path, what }) if Some(&path) == file.as_ref() => {
                Status::invalid_argument(format!("the file that was sent is no backup: {what}"))
            }
            other => status::of(&other),
        })?;
        let (snapshots, set_aside) = (restored.snapshots, restored.moved);
        info!(
            snapshots,
            set_aside,
            source = restored.source,
            "the records are back"
        );
        self.done.cancel();
        Ok(Response::new(pb::RestoreRecordsResponse {
            snapshots: snapshots as u64,
            set_aside: set_aside as u64,
            source: restored.source,
        }))
    }
}

impl Rescue {
    /// Keeps an uploaded export in a file; `None` if nothing was sent.
    async fn receive(
        &self,
        mut chunks: Streaming<pb::Chunk>,
    ) -> Result<Option<NamedTempFile>, Status> {
        let trouble = |cause: std::io::Error| {
            error!(
                error = &cause as &dyn std::error::Error,
                "keep an uploaded export"
            );
            Status::internal(format!("keep the uploaded export: {cause}"))
        };
        let mut upload = NamedTempFile::new_in(&self.root).map_err(trouble)?;
        let mut size = 0;
        while let Some(chunk) = chunks.next().await {
            let data = chunk?.data;
            size += data.len();
            if size > UPLOAD_MAX {
                let text = format!("the export is larger than {UPLOAD_MAX} bytes");
                return Err(Status::resource_exhausted(text));
            }
            upload.write_all(&data).map_err(trouble)?;
        }
        Ok((size > 0).then_some(upload))
    }
}

/// Refuses everything but the rescue itself and health checks.
#[derive(Debug, Clone)]
pub(crate) struct Refuse {
    trouble: Arc<str>,
}

impl<S> Layer<S> for Refuse {
    type Service = RefuseService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let trouble = self.trouble.clone();
        RefuseService { inner, trouble }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RefuseService<S> {
    inner: S,
    trouble: Arc<str>,
}

impl<S, I, O> TowerService<HttpRequest<I>> for RefuseService<S>
where
    S: TowerService<HttpRequest<I>, Response = HttpResponse<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = HttpResponse<O>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse<O>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<I>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/layerd.v1.Admin/") || path.starts_with("/grpc.health.v1.Health/") {
            return Box::pin(self.inner.call(request));
        }
        let answer = Status::unavailable(&*self.trouble).into_http();
        Box::pin(ready(Ok(answer)))
    }
}
