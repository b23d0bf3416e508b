//! Archives as streams of messages: blocking readers and writers over channels.

use std::io::{self, Cursor, Read, Write};

use layerd_proto::layerd::volumes::v1::ExportChunk;
use tokio::sync::mpsc::{Receiver, Sender};
use tonic::Status;

/// Bytes in one message.
const CHUNK: usize = 64 * 1024;

/// Writes to a stream of messages. Blocks while the client is slow.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    messages: Sender<Result<ExportChunk, Status>>,
    gathered: Vec<u8>,
}

impl ChunkWriter {
    pub(crate) fn new(messages: Sender<Result<ExportChunk, Status>>) -> Self {
        let gathered = Vec::with_capacity(CHUNK);
        Self { messages, gathered }
    }
}

impl Write for ChunkWriter {
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
        let sent = self.messages.blocking_send(Ok(ExportChunk { data }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has hung up"))
    }
}

/// Reads a stream of messages. Blocks while the client is slow.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    current: Cursor<Vec<u8>>,
    messages: Receiver<io::Result<Vec<u8>>>,
}

impl ChunkReader {
    pub(crate) fn new(first: Vec<u8>, messages: Receiver<io::Result<Vec<u8>>>) -> Self {
        let current = Cursor::new(first);
        Self { current, messages }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.messages.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = Cursor::new(piece?),
            }
        }
    }
}
