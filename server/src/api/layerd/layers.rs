//! `layerd.v1.Layers`: layers in and out of snapshots for people.

use layerd_engine::layerd_layers::apply::{Blob, Compression};
use layerd_engine::layerd_layers::diff::{DiffCompression, Diffed};
use layerd_proto::layerd::v1::layers_server::Layers;
use layerd_proto::layerd::v1::{self as pb};
use layerd_store::BadInput;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::api::chunks::{CHUNKS_WAITING, ChunkReader, ChunkWriter, forward};
use crate::api::outgoing::{Outgoing, Outlet};
use crate::api::unpack::{Layer, Unpacker};
use crate::api::{status, wire};
use crate::content::Digest;

#[derive(Debug)]
pub(crate) struct Service {
    unpacker: Unpacker,
}

impl Service {
    pub(crate) fn new(unpacker: Unpacker) -> Self {
        Self { unpacker }
    }
}

#[tonic::async_trait]
impl Layers for Service {
    type DiffStream = Outgoing<pb::DiffLayerResponse>;

    async fn apply(
        &self,
        request: Request<Streaming<pb::ApplyLayerRequest>>,
    ) -> Result<Response<pb::ApplyLayerResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap_or_default();
        let missing = || status::bad(BadInput::new("layer", "must be set in the first message"));
        let wanted = first.layer.ok_or_else(missing)?;
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let key = wire::key("layer.key", &wanted.key)?;
        let active = self.unpacker.parts.engine.layers.active(&key);
        let layer = Layer {
            active: active.map_err(|error| status::of(&error))?,
            compression: compression(wanted.compression)?,
            blob: blob(&wanted.digest)?,
            sync: false,
        };
        let source = ChunkReader::new(first.data, chunks);
        let _place = self.unpacker.place().await?;
        let end = self.unpacker.parts.tasks.peers_end();
        let feed = forward(messages, |message| message.data, sender, end);
        let applied = self.unpacker.apply(layer, source, feed).await?;
        Ok(Response::new(pb::ApplyLayerResponse {
            diff_id: Digest(applied.diff_id).to_string(),
            size: applied.size,
            bytes: applied.bytes,
            inodes: applied.inodes,
        }))
    }

    async fn diff(
        &self,
        request: Request<pb::DiffLayerRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        let request = request.into_inner();
        let compression = diff_compression(request.compression)?;
        let key = wire::key("key", &request.key)?;
        let changes = self.unpacker.parts.engine.layers.changes(&key);
        let changes = changes.map_err(|error| status::of(&error))?;
        let tasks = &self.unpacker.parts.tasks;
        let (outlet, pieces) = Outlet::open(tasks, CHUNKS_WAITING);
        let unpacker = self.unpacker.clone();
        let epoch = request.source_date_epoch;
        tasks.spawn_with_peer(async move {
            let work = async {
                let _place = unpacker.place().await?;
                let out = ChunkWriter::new(outlet.clone(), piece);
                unpacker.diff(changes, compression, epoch, out).await
            };
            tokio::select! {
                diffed = work => outlet.clone().finish(diffed.map(last)).await,
                () = outlet.closed() => {}
            }
        });
        Ok(Response::new(pieces))
    }

    async fn import(
        &self,
        request: Request<pb::ImportLayerRequest>,
    ) -> Result<Response<pb::ImportLayerResponse>, Status> {
        let request = request.into_inner();
        let key = wire::key("key", &request.key)?;
        let active = self.unpacker.parts.engine.layers.active(&key);
        let active = active.map_err(|error| status::of(&error))?;
        let _place = self.unpacker.place().await?;
        let imported = self.unpacker.import(active, request.source.into()).await?;
        Ok(Response::new(pb::ImportLayerResponse {
            files: imported.files,
            copied_bytes: imported.bytes,
            cloned_bytes: imported.cloned_bytes,
        }))
    }
}

fn known(number: i32) -> Result<pb::Compression, Status> {
    pb::Compression::try_from(number).map_err(|_| {
        let rule = format!("{number} is no compression that layerd knows");
        status::bad(BadInput::new("compression", rule))
    })
}

fn compression(number: i32) -> Result<Compression, Status> {
    Ok(match known(number)? {
        pb::Compression::Unspecified => Compression::Detect,
        pb::Compression::None => Compression::None,
        pb::Compression::Gzip => Compression::Gzip,
        pb::Compression::Zstd => Compression::Zstd,
    })
}

fn diff_compression(number: i32) -> Result<DiffCompression, Status> {
    Ok(match known(number)? {
        pb::Compression::None => DiffCompression::None,
        pb::Compression::Unspecified | pb::Compression::Gzip => DiffCompression::Gzip,
        pb::Compression::Zstd => DiffCompression::Zstd,
    })
}

fn blob(digest: &str) -> Result<Blob, Status> {
    let digest = (!digest.is_empty()).then(|| Digest::parse("layer.digest", digest));
    let digest = digest.transpose().map_err(status::bad)?;
    Ok(Blob {
        size: None,
        sha256: digest.map(|digest| digest.0),
    })
}

fn piece(data: Vec<u8>) -> pb::DiffLayerResponse {
    pb::DiffLayerResponse { data, layer: None }
}

fn last(diffed: Diffed) -> pb::DiffLayerResponse {
    let layer = pb::DiffedLayer {
        digest: Digest(diffed.sha256).to_string(),
        size: diffed.size,
        diff_id: Digest(diffed.diff_id).to_string(),
        uncompressed: diffed.uncompressed,
        changed: diffed.changed,
    };
    pb::DiffLayerResponse {
        data: Vec::new(),
        layer: Some(layer),
    }
}
