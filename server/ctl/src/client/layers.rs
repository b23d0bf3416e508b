//! The calls about layers.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use layerd_proto::layerd::v1 as wire;
use sha2::{Digest, Sha256};
use tokio_stream::StreamExt;
use tonic::Code;

use super::archives::in_pieces;
use super::{Client, answer, failed, within};
use crate::error::Error;

impl Client {
    /// Usage of active snapshots and volumes, and their limits, oldest first. Empty from a daemon
    /// of an older release, as while a package is upgraded.
    pub(crate) async fn fullness(&mut self) -> Result<Vec<wire::Fullness>, Error> {
        let what = "ask what limits are used";
        let call = self.admin.fullness(wire::FullnessRequest {});
        let mut stream = match answer(what, self.timeout, call).await {
            Err(Error::Call { status, .. }) if status.code() == Code::Unimplemented => {
                return Ok(Vec::new());
            }
            stream => stream?,
        };
        let mut all = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            all.extend(message.fullness);
        }
        Ok(all)
    }

    /// Unpacks the layer that `input` gives into a snapshot; `read` learns how many bytes of it are
    /// on their way. The time limit begins anew with each piece.
    pub(crate) async fn apply_layer(
        &mut self,
        layer: wire::ApplyLayer,
        input: impl Read + Send + 'static,
        mut read: impl FnMut(u64) + Send + 'static,
    ) -> Result<wire::ApplyLayerResponse, Error> {
        let what = format!("unpack a layer into snapshot \"{}\"", layer.key);
        let (pieces, failure) = in_pieces(input);
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let rest = pieces.map(move |data| {
            let length = data.len() as u64;
            read(length + counted.fetch_add(length, Ordering::Relaxed));
            wire::ApplyLayerRequest { layer: None, data }
        });
        let first = wire::ApplyLayerRequest {
            layer: Some(layer),
            data: Vec::new(),
        };
        let mut call = pin!(self.layers.apply(tokio_stream::once(first).chain(rest)));
        let reply = loop {
            let before = sent.load(Ordering::Relaxed);
            match within(&what, self.timeout, &mut call).await {
                Err(_) if sent.load(Ordering::Relaxed) != before => {}
                outcome => break outcome?,
            }
        };
        reply.map(tonic::Response::into_inner).map_err(|status| {
            // Half a layer is refused; why it was half is what helps.
            let cause = failure.lock().take();
            cause.map_or(failed(&what, status), |cause| Error::Io {
                what: "read the layer".to_owned(),
                cause,
            })
        })
    }

    /// Has the daemon fill an empty active snapshot with a layer in a directory of the host.
    pub(crate) async fn import_layer(
        &mut self,
        key: &str,
        source: &str,
    ) -> Result<wire::ImportLayerResponse, Error> {
        let what = format!("import {source} into snapshot \"{key}\"");
        let request = wire::ImportLayerRequest {
            key: key.to_owned(),
            source: source.to_owned(),
        };
        let call = self.layers.import(request);
        answer(&what, Duration::ZERO, call).await
    }

    /// Hands the pieces of a layer that holds what a snapshot changed to `each`. It is whole, and
    /// what the daemon sent, if this succeeds.
    pub(crate) async fn diff_layer(
        &mut self,
        request: wire::DiffLayerRequest,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<wire::DiffedLayer, Error> {
        let what = format!("make a layer of snapshot \"{}\"", request.key);
        let mut stream = answer(&what, self.timeout, self.layers.diff(request)).await?;
        let (mut hash, mut made) = (Sha256::new(), None);
        while let Some(message) = within(&what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(&what, status))?
        {
            hash.update(&message.data);
            each(&message.data)?;
            made = message.layer.or(made);
        }
        let Some(made) = made else {
            let lacks = "its end";
            return Err(Error::Malformed { what, lacks });
        };
        let digits = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        if made.digest != format!("sha256:{digits}") {
            let cause = io::Error::other("what arrived is not what was sent: the checksums differ");
            return Err(Error::Io { what, cause });
        }
        Ok(made)
    }
}
