//! The calls about archives of volumes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use layerd_proto::layerd::v1 as wire;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{CHUNK, Client, answer, failed, volumes, within};
use crate::error::Error;
use crate::volume::Volume;

/// Pieces that are read before they are sent.
const PIECES_WAITING: usize = 4;

/// Result of an export, whose checksum was verified.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) left_out: u64,
    pub(crate) changed: u64,
    /// Hexadecimal.
    pub(crate) sha256: String,
}

/// Why reading a file ended early.
pub(super) type ReadError = Arc<Mutex<Option<io::Error>>>;

impl Client {
    /// Hands the pieces of an archive of a volume to `each`. It is whole, and what the daemon
    /// sent, if this succeeds.
    pub(crate) async fn export_volume(
        &mut self,
        name: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Exported, Error> {
        let what = format!("export volume \"{name}\"");
        let request = wire::ExportVolumeRequest {
            name: name.to_owned(),
        };
        let call = answer(&what, self.timeout, self.volumes.export(request)).await;
        let mut stream = volumes::about(call)?;
        let (mut hash, mut bytes, mut done) = (Sha256::new(), 0, None);
        while let Some(chunk) = within(&what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(&what, status))?
        {
            hash.update(&chunk.data);
            bytes += chunk.data.len() as u64;
            each(&chunk.data)?;
            done = chunk.done.or(done);
        }
        let Some(done) = done else {
            let lacks = "its end";
            return Err(Error::Malformed { what, lacks });
        };
        if (done.bytes, &*done.sha256) != (bytes, &*hash.finalize()) {
            let cause = io::Error::other("what arrived is not what was sent: the checksums differ");
            return Err(Error::Io { what, cause });
        }
        let digits = done.sha256.iter().map(|byte| format!("{byte:02x}"));
        Ok(Exported {
            bytes,
            files: done.files,
            left_out: done.left_out,
            changed: done.changed,
            sha256: digits.collect(),
        })
    }

    /// Creates a volume from the archive that `input` gives; `read` learns how many bytes of it
    /// are on their way. Answers the volume, and what was put into it.
    pub(crate) async fn import_volume(
        &mut self,
        request: wire::CreateVolumeRequest,
        input: impl Read + Send + 'static,
        mut read: impl FnMut(u64) + Send + 'static,
    ) -> Result<(Volume, wire::ImportVolumeResponse), Error> {
        let what = format!("import volume \"{}\"", request.name);
        let filling = self.filling(vec![request.name.clone()], false).await?;
        let (pieces, failure) = in_pieces(input);
        let sent = filling.sent.clone();
        let rest = pieces.map(move |data| {
            let length = data.len() as u64;
            read(length + sent.fetch_add(length, Ordering::Relaxed));
            wire::ImportVolumeRequest { volume: None, data }
        });
        let first = wire::ImportVolumeRequest {
            volume: Some(request),
            data: Vec::new(),
        };
        let call = self.volumes.import(tokio_stream::once(first).chain(rest));
        let reply = filling.answer(&what, self.timeout, call).await;
        let mut reply = reply.map_err(|refused| {
            // Half an archive is refused; why it was half is what helps.
            let cause = failure.lock().take();
            cause.map_or(refused, |cause| Error::Io {
                what: "read the archive".to_owned(),
                cause,
            })
        })?;
        let lacks = "the volume";
        let volume = reply.volume.take();
        let volume = volume.ok_or(Error::Malformed { what, lacks })?;
        Ok((volume.into(), reply))
    }
}

/// Reads on a thread of its own, because a pipe may keep it waiting while the daemon has something
/// to say. The thread ends with the input, or with the one who wants it.
pub(super) fn in_pieces(input: impl Read + Send + 'static) -> (ReceiverStream<Vec<u8>>, ReadError) {
    in_pieces_of(CHUNK, input)
}

/// As [`in_pieces`], with at most `size` bytes in a piece.
pub(super) fn in_pieces_of(
    size: usize,
    mut input: impl Read + Send + 'static,
) -> (ReceiverStream<Vec<u8>>, ReadError) {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    let failure = ReadError::default();
    let failed = failure.clone();
    thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(size);
            match input.by_ref().take(size as u64).read_to_end(&mut piece) {
                Ok(0) => return,
                Ok(_) => {}
                Err(cause) => {
                    *failed.lock() = Some(cause);
                    return;
                }
            }
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    (ReceiverStream::new(pieces), failure)
}
