//! The two ttrpc connections that NRI has on one socket.
//!
//! A frame is the number of the connection and the length of the payload, 32 bits each in network byte order,
//! and the payload: a piece of that connection's stream. Connection 1 carries the runtime's calls of the
//! plugin, connection 2 the plugin's calls of the runtime.
//!
//! Frames sent hold at most 4096 bytes: a peer in Go reads each into a buffer of that size, and gives up if
//! it does not fit. Frames received are bounded by ttrpc's largest message; memory for each
//! connection is bounded by its pipe, and a reader that is slow holds up the socket rather than filling memory.

use std::io;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf,
    WriteHalf, duplex, split,
};
use tokio::sync::Mutex;

/// Connection of the runtime's calls of the plugin.
const PLUGIN: u32 = 1;
/// Connection of the plugin's calls of the runtime.
const RUNTIME: u32 = 2;
/// Bytes before a payload.
const HEADER: usize = 8;
/// Longest payload that is received: ttrpc's longest message, and its header.
const RECEIVED_MAX: usize = 4 * 1024 * 1024 + 10;
/// Longest payload that is sent.
const SENT_MAX: usize = 4096;
/// Bytes that a connection holds on their way.
const PIPE: usize = 64 * 1024;

/// Why the socket is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxError {
    #[error("read from the runtime's socket")]
    Read(#[source] io::Error),
    #[error("write to the runtime's socket")]
    Write(#[source] io::Error),
    #[error("a frame of {bytes} bytes for connection {connection} is longer than {RECEIVED_MAX}")]
    TooLong { connection: u32, bytes: usize },
}

/// The connections on a socket.
#[derive(Debug)]
pub(crate) struct Connections {
    /// The runtime calls the plugin.
    pub(crate) plugin: DuplexStream,
    /// The plugin calls the runtime.
    pub(crate) runtime: DuplexStream,
}

/// The inner ends of the connections, and the socket.
#[derive(Debug)]
pub(crate) struct Mux<S> {
    socket: S,
    plugin: DuplexStream,
    runtime: DuplexStream,
}

/// Lays the connections over a socket; [`Mux::run`] carries what is on them.
pub(crate) fn multiplex<S>(socket: S) -> (Connections, Mux<S>) {
    let (plugin, plugin_end) = duplex(PIPE);
    let (runtime, runtime_end) = duplex(PIPE);
    let mux = Mux {
        socket,
        plugin: plugin_end,
        runtime: runtime_end,
    };
    (Connections { plugin, runtime }, mux)
}

impl<S: AsyncRead + AsyncWrite> Mux<S> {
    /// Carries both ways until the peer closes the socket.
    ///
    /// # Errors
    /// [`MuxError`]; also if the peer closes within a frame.
    pub(crate) async fn run(self) -> Result<(), MuxError> {
        let (from, to) = split(self.socket);
        let to = Mutex::new(to);
        let (plugin_out, plugin_in) = split(self.plugin);
        let (runtime_out, runtime_in) = split(self.runtime);
        tokio::select! {
            ended = receive(from, plugin_in, runtime_in) => ended,
            failed = send(PLUGIN, plugin_out, &to) => Err(failed),
            failed = send(RUNTIME, runtime_out, &to) => Err(failed),
        }
    }
}

/// Takes frames apart. Those of other connections are passed over, as are those of one that was closed here.
async fn receive<S: AsyncRead>(
    mut from: ReadHalf<S>,
    mut plugin: WriteHalf<DuplexStream>,
    mut runtime: WriteHalf<DuplexStream>,
) -> Result<(), MuxError> {
    let mut payload = Vec::new();
    while let Some((connection, bytes)) = header(&mut from).await? {
        payload.resize(bytes, 0);
        from.read_exact(&mut payload)
            .await
            .map_err(MuxError::Read)?;
        let taken = match connection {
            PLUGIN => plugin.write_all(&payload).await,
            RUNTIME => runtime.write_all(&payload).await,
            _ => Ok(()),
        };
        if let Err(cause) = taken {
            tracing::debug!(connection, %cause, "drop a frame of a connection that was closed");
        }
    }
    Ok(())
}

/// The connection and the length of the next frame; `None` at the end of the stream.
async fn header<S: AsyncRead>(from: &mut ReadHalf<S>) -> Result<Option<(u32, usize)>, MuxError> {
    let mut header = [0; HEADER];
    let first = from.read(&mut header).await.map_err(MuxError::Read)?;
    if first == 0 {
        return Ok(None);
    }
    let (_, rest) = header.split_at_mut(first);
    from.read_exact(rest).await.map_err(MuxError::Read)?;
    let [a, b, c, d, e, f, g, h] = header;
    let connection = u32::from_be_bytes([a, b, c, d]);
    let bytes = u32::from_be_bytes([e, f, g, h]);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    match bytes {
        0..=RECEIVED_MAX => Ok(Some((connection, bytes))),
        _ => Err(MuxError::TooLong { connection, bytes }),
    }
}

/// Sends what is written to a connection; one that was closed here sends nothing more, and stays.
async fn send<S: AsyncWrite>(
    connection: u32,
    mut out: ReadHalf<DuplexStream>,
    to: &Mutex<WriteHalf<S>>,
) -> MuxError {
    let mut frame = vec![0; HEADER + SENT_MAX];
    loop {
        let taken = match out.read(frame.get_mut(HEADER..).unwrap_or_default()).await {
            Ok(0) => return std::future::pending().await,
            Ok(taken) => taken,
            Err(cause) => return MuxError::Read(cause),
        };
        let length = u32::try_from(taken).unwrap_or(u32::MAX);
        let header = [connection.to_be_bytes(), length.to_be_bytes()].concat();
        if let Some(place) = frame.get_mut(..HEADER) {
            place.copy_from_slice(&header);
        }
        let whole = frame.get(..HEADER + taken).unwrap_or_default();
        // A frame is written at once, so that frames of the other connection do not come in between.
        let mut to = to.lock().await;
        let written = async {
            to.write_all(whole).await?;
            to.flush().await
        };
        if let Err(cause) = written.await {
            return MuxError::Write(cause);
        }
    }
}

#[cfg(test)]
mod tests;
