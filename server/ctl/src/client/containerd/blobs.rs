//! Blobs and names of images that layerctl writes into containerd.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use layerd_proto::containerd::services::content::v1::content_client::ContentClient;
use layerd_proto::containerd::services::content::v1::{WriteAction, WriteContentRequest};
use layerd_proto::containerd::services::images::v1::images_client::ImagesClient;
use layerd_proto::containerd::services::images::v1::{CreateImageRequest, Image};
use layerd_proto::containerd::types::Descriptor;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::leased::Leased;
use super::{answer, failed, within};
use crate::client::archives::in_pieces_of;
use crate::error::Error;

/// Bytes of a message; each is answered.
const PIECE: usize = 1 << 20;

/// A blob that containerd is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Leased<'_> {
    /// Writes the blob that `input` gives, and answers whether it was not there before. Length and digest
    /// are checked by containerd, and it is durable on return. The lease holds it.
    pub(crate) async fn write_blob(
        &self,
        blob: &Blob,
        input: impl Read + Send + 'static,
    ) -> Result<bool, Error> {
        let what = format!("write containerd's blob {}", blob.digest);
        let outcome = self.write(&what, blob, input).await;
        match outcome {
            Err(Error::Call { status, .. }) if status.code() == Code::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    }

    async fn write(
        &self,
        what: &str,
        blob: &Blob,
        input: impl Read + Send + 'static,
    ) -> Result<(), Error> {
        let (requests, stream) = mpsc::channel(1);
        let gone = |_| failed(what, Status::unavailable("containerd ended the call"));
        requests.send(first(blob)).await.map_err(gone)?;
        let mut client = ContentClient::new(self.containerd.channel.clone());
        let call = client.write(self.under_lease(ReceiverStream::new(stream))?);
        let limit = self.containerd.timeout;
        let mut replies = answer(what, limit, call).await?;
        let mut next = async |limit| match within(what, limit, replies.message()).await? {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Error::Malformed {
                what: what.to_owned(),
                lacks: "a reply",
            }),
            Err(status) => Err(failed(what, status)),
        };
        let stands = next(limit).await?;
        // Whole from a run that was interrupted, or of another namespace.
        let is_whole = stands.offset == signed(blob.size) && stands.digest == blob.digest;
        let mut offset = blob.size;
        if !is_whole {
            let (mut pieces, failure) = in_pieces_of(PIECE, input);
            // A first piece at offset 0 drops what an interrupted write left.
            offset = 0;
            while let Some(data) = pieces.next().await {
                let length = data.len() as u64;
                requests.send(piece(offset, data)).await.map_err(gone)?;
                next(limit).await?;
                offset += length;
            }
            if let Some(cause) = failure.lock().take() {
                let what = what.to_owned();
                return Err(Error::Io { what, cause });
            }
        }
        if offset != blob.size {
            let why = format!("it has {offset} bytes, not {}", blob.size);
            let (what, cause) = (what.to_owned(), io::Error::other(why));
            return Err(Error::Io { what, cause });
        }
        let end = WriteContentRequest {
            action: WriteAction::Commit.into(),
            labels: blob.labels.clone(),
            ..piece(offset, Vec::new())
        };
        requests.send(end).await.map_err(gone)?;
        // It waits for the disk.
        next(Duration::ZERO).await.map(drop)
    }

    /// Gives a manifest the name of an image. False if the name is taken.
    pub(crate) async fn name_image(&self, name: &str, target: Descriptor) -> Result<bool, Error> {
        let what = format!("make the image {name} in containerd");
        let image = Image {
            name: name.to_owned(),
            target: Some(target),
        };
        let mut client = ImagesClient::new(self.containerd.channel.clone());
        let request = CreateImageRequest { image: Some(image) };
        let call = client.create(self.under_lease(request)?);
        match answer(&what, self.containerd.timeout, call).await {
            Err(Error::Call { status, .. }) if status.code() == Code::AlreadyExists => Ok(false),
            other => other.map(|_| true),
        }
    }
}

/// Asks where a write stands, and announces the whole.
fn first(blob: &Blob) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: format!("layerctl-import-{}", blob.digest),
        total: signed(blob.size),
        expected: blob.digest.clone(),
        ..WriteContentRequest::default()
    }
}

fn piece(offset: u64, data: Vec<u8>) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Write.into(),
        offset: signed(offset),
        data,
        ..WriteContentRequest::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
