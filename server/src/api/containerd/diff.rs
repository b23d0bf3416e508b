//! `containerd.services.diff.v1.Diff`.
//!
//! UNIMPLEMENTED is not a failure here: containerd then asks its next differ. So everything that
//! layerd leaves to others is found out before anything is changed, and only that gets this code.
//! Clients are not told why, so the log is. Layers of its own snapshots that it cannot read are
//! passed on by layerd itself (`content/differ.rs`), since not all of containerd asks a second differ.

use layerd_engine::Active;
use layerd_engine::Changes;
use layerd_engine::layerd_layers::apply::{Blob as BlobFacts, Compression};
use layerd_engine::layerd_layers::diff::DiffCompression;
use layerd_mounts::Mount;
use layerd_proto::containerd::services::diff::v1::diff_server::Diff;
use layerd_proto::containerd::services::diff::v1::{
    ApplyRequest, ApplyResponse, DiffRequest, DiffResponse,
};
use layerd_proto::containerd::types;
use layerd_store::BadInput;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};
use tracing::info;

use crate::api::chunks::{CHUNKS_WAITING, ChunkReader, ChunkWriter, forward};
use crate::api::outgoing::Outlet;
use crate::api::status;
use crate::api::unpack::{Layer, Unpacker};
use crate::content::{Blob, Caller, Content, Digest, Elsewhere};

/// The archive of a layer, not compressed.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Debug)]
pub(crate) struct Service {
    unpacker: Unpacker,
    content: Content,
    elsewhere: Elsewhere,
    /// Enables unpacking.
    enabled: bool,
}

/// Handling of a layer.
enum Accepted {
    /// It is unpacked here.
    Ours(Active, Compression),
    /// It goes to a snapshot of ours, but another differ must unpack it.
    Passed(Active, String),
}

impl Service {
    pub(crate) fn new(unpacker: Unpacker, content: Content, enabled: bool) -> Self {
        Self {
            unpacker,
            content,
            elsewhere: Elsewhere::default(),
            enabled,
        }
    }
}

#[tonic::async_trait]
impl Diff for Service {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (active, compression) = match self.accept(&request).map_err(declined)? {
            Accepted::Ours(active, compression) => (active, compression),
            Accepted::Passed(active, why) => {
                let caller = Caller::of(&metadata, active.key());
                return self.pass(&caller, &active, request, why).await;
            }
        };
        let caller = Caller::of(&metadata, active.key());
        let (digest, blob) = facts(request.diff.unwrap_or_default())?;
        let _place = self.unpacker.place().await?;
        let opened = self.content.open(&caller, digest).await?;
        let layer = Layer {
            active,
            compression,
            blob,
            sync: request.sync_fs,
        };
        let applied = match opened {
            Blob::File(file) => self.unpacker.apply(layer, file, async {}).await?,
            Blob::Stream(stream) => {
                let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
                let source = ChunkReader::new(Vec::new(), chunks);
                let end = self.unpacker.parts.tasks.peers_end();
                let feed = forward(*stream, |message| message.data, sender, end);
                self.unpacker.apply(layer, source, feed).await?
            }
        };
        let applied = descriptor(TAR, Digest(applied.diff_id), applied.size);
        Ok(Response::new(ApplyResponse {
            applied: Some(applied),
        }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (media_type, compression, changes) = self.accept_diff(&request).map_err(declined)?;
        let epoch = request.source_date_epoch.map(|time| time.seconds);
        let caller = Caller::of(&metadata, changes.key());
        let _place = self.unpacker.place().await?;
        let is_named = !request.r#ref.is_empty();
        let mut ingest = self.content.ingest(caller, request.r#ref).await?;
        let (sender, mut pieces) = mpsc::channel(CHUNKS_WAITING);
        let end = self.unpacker.parts.tasks.peers_end();
        let out = ChunkWriter::new(Outlet::new(sender, end), |piece| piece);
        let upload = async move {
            while let Some(piece) = pieces.recv().await {
                ingest.write(piece?).await?;
            }
            Ok::<_, Status>(ingest)
        };
        let work = self.unpacker.diff(changes, compression, epoch, out);
        let (diffed, uploaded) = tokio::join!(work, upload);
        // Where the upload failed, so did the work, for want of a reader.
        let ingest = uploaded?;
        let diffed = diffed.map_err(|status| for_others(status, is_named))?;
        let (blob, diff_id) = (Digest(diffed.sha256), Digest(diffed.diff_id));
        ingest.commit(blob, diff_id, request.labels).await?;
        Ok(Response::new(DiffResponse {
            diff: Some(descriptor(media_type, blob, diffed.size)),
        }))
    }
}

impl Service {
    fn check_enabled(&self) -> Result<(), Status> {
        if self.enabled {
            return Ok(());
        }
        let text = "`unpack.enabled = false` in layerd's configuration leaves it to others";
        Err(Status::unimplemented(text))
    }

    fn accept_diff(
        &self,
        request: &DiffRequest,
    ) -> Result<(&'static str, DiffCompression, Changes), Status> {
        self.check_enabled()?;
        let (media_type, compression) = diff_compression(&request.media_type)?;
        let (left, right) = (
            mounts(request.left.clone())?,
            mounts(request.right.clone())?,
        );
        let changes = self
            .unpacker
            .parts
            .engine
            .layers
            .changes_between(&left, &right);
        let changes = changes.map_err(|error| status::of(&error))?;
        Ok((media_type, compression, changes))
    }

    /// Has another differ of containerd's unpack a layer into a snapshot of ours.
    async fn pass(
        &self,
        caller: &Caller,
        active: &Active,
        request: ApplyRequest,
        why: String,
    ) -> Result<Response<ApplyResponse>, Status> {
        // They write to the layer as well.
        self.unpacker.parts.engine.layers.left_to_others(active);
        let Some(_asking) = self.elsewhere.ask(active.key()) else {
            return Err(Status::unimplemented(why));
        };
        info!(
            key = active.key().as_str(),
            why, "another differ of containerd's is asked"
        );
        let answer = self.content.apply_elsewhere(caller, request).await;
        match answer {
            // Its own client may know one.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unimplemented) => {
                Err(declined(Status::unimplemented(format!(
                    "{why}; {}",
                    status.message()
                ))))
            }
            other => other.map(Response::new),
        }
    }

    /// Finds out where a layer is to go and how it is compressed, or that it is for others.
    fn accept(&self, request: &ApplyRequest) -> Result<Accepted, Status> {
        let engine = &self.unpacker.parts.engine;
        self.check_enabled()?;
        let mounts = mounts(request.mounts.clone())?;
        let active = engine.layers.active_of(&mounts);
        let active = active.map_err(|error| status::of(&error))?;
        if let Some(processor) = request.payloads.keys().next() {
            let why = format!("layers with payloads, such as for {processor:?}, are not unpacked");
            return Ok(Accepted::Passed(active, why));
        }
        let media_type = request.diff.as_ref().map_or("", |diff| &diff.media_type);
        Ok(match compression(media_type) {
            Some(compression) => Accepted::Ours(active, compression),
            None => {
                let why = format!("layers of media type {media_type:?} are not unpacked");
                Accepted::Passed(active, why)
            }
        })
    }
}

/// Passes UNIMPLEMENTED on, so that the next differ tries; but answers FAILED_PRECONDITION if that one
/// would write to the ingestion of the same name, which is being dropped meanwhile.
fn for_others(status: Status, is_named: bool) -> Status {
    match status.code() {
        Code::Unimplemented if is_named => Status::failed_precondition(status.message()),
        _ => declined(status),
    }
}

/// Notes why a layer is left to containerd's next differ: containerd tells its clients nothing.
fn declined(status: Status) -> Status {
    if status.code() == Code::Unimplemented {
        info!(why = status.message(), "left a layer to the next differ");
    }
    status
}

/// Compression by media type, as containerd interprets it: for compressed types the first bytes
/// decide; Docker's type without a suffix may be wrong.
fn compression(media_type: &str) -> Option<Compression> {
    match media_type {
        TAR | "application/vnd.oci.image.layer.nondistributable.v1.tar" => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Detect),
        _ => None,
    }
}

/// Media type and compression of a new layer; gzip by default.
fn diff_compression(media_type: &str) -> Result<(&'static str, DiffCompression), Status> {
    match media_type {
        TAR => Ok((TAR, DiffCompression::None)),
        "" | "application/vnd.oci.image.layer.v1.tar+gzip" => Ok((
            "application/vnd.oci.image.layer.v1.tar+gzip",
            DiffCompression::Gzip,
        )),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok((
            "application/vnd.oci.image.layer.v1.tar+zstd",
            DiffCompression::Zstd,
        )),
        other => {
            let text = format!("layers of media type {other:?} are not made");
            Err(Status::unimplemented(text))
        }
    }
}

fn facts(descriptor: types::Descriptor) -> Result<(Digest, BlobFacts), Status> {
    let digest = Digest::parse("diff.digest", &descriptor.digest).map_err(status::bad)?;
    let size = u64::try_from(descriptor.size).map_err(|_| {
        let rule = format!("must be a number of bytes, not {}", descriptor.size);
        status::bad(BadInput::new("diff.size", rule))
    })?;
    let facts = BlobFacts {
        size: Some(size),
        sha256: Some(digest.0),
    };
    Ok((digest, facts))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> types::Descriptor {
    types::Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..types::Descriptor::default()
    }
}

fn mounts(messages: Vec<types::Mount>) -> Result<Vec<Mount>, Status> {
    let mount = |message: types::Mount| {
        if message.target.is_empty() {
            return Ok(Mount {
                kind: message.r#type,
                source: message.source,
                options: message.options,
            });
        }
        let text = "a mount below the root file system is none of layerd's";
        Err(Status::unimplemented(text))
    };
    messages.into_iter().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_say_how_layers_are_compressed() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        for (media_type, wanted) in [
            (layer.to_owned(), Some(Compression::None)),
            (format!("{layer}+gzip"), Some(Compression::Detect)),
            (format!("{layer}+zstd"), Some(Compression::Detect)),
            (docker.to_owned(), Some(Compression::Detect)),
            (format!("{docker}.gzip"), Some(Compression::Detect)),
            (format!("{layer}+encrypted"), None),
            (format!("{layer}+gzip+encrypted"), None),
            (format!("{layer}+xz"), None),
            ("application/vnd.erofs.layer.v1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(compression(&media_type), wanted, "{media_type}");
        }
    }

    #[test]
    fn a_mount_with_a_target_is_left_to_others() {
        let mount = types::Mount {
            target: "etc".to_owned(),
            ..types::Mount::default()
        };
        let status = mounts(vec![mount]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
    }
}
