//! Archives as streams of messages: blocking readers and writers over channels.

use std::io::{self, Cursor, Read, Write};

use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::outgoing::{Outlet, Unsent};

/// Bytes in one message.
const CHUNK: usize = 64 * 1024;

/// Pieces of an archive on their way.
pub(crate) const CHUNKS_WAITING: usize = 16;

/// Writes to a stream of messages. Blocks while the client is slow.
#[derive(Debug)]
pub(crate) struct ChunkWriter<M> {
    messages: Outlet<M>,
    /// Makes a message of a piece.
    wrap: fn(Vec<u8>) -> M,
    gathered: Vec<u8>,
}

impl<M> ChunkWriter<M> {
    pub(crate) fn new(messages: Outlet<M>, wrap: fn(Vec<u8>) -> M) -> Self {
        Self {
            messages,
            wrap,
            gathered: Vec::with_capacity(CHUNK),
        }
    }
}

impl<M> Write for ChunkWriter<M> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.gathered, Vec::with_capacity(CHUNK));
        Ok(self.messages.blocking_send(Ok((self.wrap)(data)))?)
    }
}

/// Hands the pieces of an archive to the thread that reads it, the end as an empty piece. A client
/// that fails, or hangs up before the end, is an error to that thread, so that half an archive is
/// never taken for a whole; so is one that has not sent the end when `end` is cancelled.
pub(crate) async fn forward<M>(
    mut messages: Streaming<M>,
    data: fn(M) -> Vec<u8>,
    sender: Sender<io::Result<Vec<u8>>>,
    end: CancellationToken,
) {
    loop {
        let (piece, is_last) = match end.run_until_cancelled(messages.message()).await {
            Some(Ok(None)) => (Ok(Vec::new()), true),
            Some(Ok(Some(message))) => (Ok(data(message)), false),
            Some(Err(status)) => (Err(io::Error::other(status.message().to_owned())), true),
            None => (Err(Unsent::Stopping.into()), true),
        };
        let is_nothing = !is_last && piece.as_ref().is_ok_and(Vec::is_empty);
        if !is_nothing && (sender.send(piece).await.is_err() || is_last) {
            return;
        }
    }
}

/// Reads what [`forward`] sends. Blocks while the client is slow.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    current: Cursor<Vec<u8>>,
    messages: Receiver<io::Result<Vec<u8>>>,
    ended: bool,
}

impl ChunkReader {
    pub(crate) fn new(first: Vec<u8>, messages: Receiver<io::Result<Vec<u8>>>) -> Self {
        Self {
            current: Cursor::new(first),
            messages,
            ended: false,
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.ended {
                return Ok(count);
            }
            let hung_up = || io::Error::new(io::ErrorKind::UnexpectedEof, "the client has hung up");
            let piece = self.messages.blocking_recv().ok_or_else(hung_up)??;
            self.ended = piece.is_empty();
            self.current = Cursor::new(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn reader(pieces: &[&[u8]]) -> ChunkReader {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        for piece in pieces {
            sender.try_send(Ok(piece.to_vec())).unwrap();
        }
        ChunkReader::new(b"first ".to_vec(), receiver)
    }

    #[test]
    fn an_end_must_be_told() {
        let mut text = String::new();
        reader(&[b"second", b""]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "first second");
        let cut = reader(&[b"second"]).read_to_string(&mut text).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn pieces_are_gathered_up_to_the_size_of_a_message() {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_WAITING);
        let outlet = Outlet::new(sender, CancellationToken::new());
        let mut writer = ChunkWriter::new(outlet, |data| data.len());
        let write = move || {
            for _ in 0..3 {
                writer.write_all(&[7; CHUNK / 2]).unwrap();
            }
            writer.flush().unwrap();
            writer.flush().unwrap();
        };
        crate::tasks::Tasks::default().call(write).await.unwrap();
        let mut sizes = Vec::new();
        while let Some(size) = receiver.recv().await {
            sizes.push(size.unwrap());
        }
        assert_eq!(sizes, [CHUNK, CHUNK / 2]);
    }
}
