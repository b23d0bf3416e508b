//! Connections that outlive layerd.
//!
//! Docker repeats a call whose connection broke, but without the call's content (moby#39331). So no
//! connection breaks: systemd keeps a descriptor of each one (FDSTORE=1 of sd_notify(3)) and hands it to the
//! next layerd, and a request stays in the socket until it is answered. What a layerd that was killed had
//! not answered the next one finds there.
//!
//! A second answer would be taken for that to the client's next call. So all bytes of a request but the last
//! leave the socket before the answer is sent, and the last one follows: an answer that was sent, perhaps
//! but for a kill between two system calls, is told by a byte that begins no request.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::notify::Keeper;

/// Name of the descriptors that systemd keeps (FDNAME of `sd_notify(3)`).
pub(super) const KEPT: &str = "docker-connection";
/// Time for the rest of a request to follow its first bytes. The socket has no room for more of one that is
/// sent in hundreds of pieces: it is taken out then, and not repeated.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for a client that may have its answer to send its next call. A connection that is not used is closed
/// then: its client may wait for an answer that was not sent.
const DOUBT: Duration = Duration::from_secs(5);
/// Pause after a connection that cannot be had.
const PAUSE: Duration = Duration::from_secs(1);
/// Largest piece that is looked at, in bytes.
const PIECE: usize = 64 * 1024;

/// What a connection and the call on it know of each other.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// True once a request has arrived as a whole.
    is_received: AtomicBool,
    /// True if a layerd before this one had the request already, and may have done what it asks for.
    is_repeated: AtomicBool,
}

impl Exchange {
    pub(super) fn note_received(&self) {
        self.is_received.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_repeated(&self) -> bool {
        self.is_repeated.load(Ordering::Relaxed)
    }
}

/// The connections of before, then those that clients make.
pub(super) struct Connections {
    before: Vec<StdStream>,
    socket: UnixListener,
    keeper: Keeper,
    /// Cancelled when layerd stops.
    stop: CancellationToken,
}

impl Connections {
    pub(super) fn new(
        before: Vec<StdStream>,
        socket: StdListener,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Self {
            before,
            socket: UnixListener::from_std(socket)?,
            keeper: Keeper::new(KEPT),
            stop,
        })
    }

    /// The next connection. One that is not kept yet is lost by a kill, so that comes first.
    async fn next(&mut self) -> io::Result<Connection> {
        if let Some(stream) = self.before.pop() {
            return Connection::again(stream, self.stop.clone());
        }
        let (stream, _) = self.socket.accept().await?;
        self.keeper.keep(&stream);
        Ok(Connection::new(stream, self.stop.clone()))
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            match self.next().await {
                Ok(connection) => return (connection, ()),
                Err(cause) => {
                    error!(
                        error = &cause as &dyn std::error::Error,
                        "accept a connection of Docker's volume plugin"
                    );
                    // Descriptors may come free.
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
pub(super) struct Connection {
    stream: UnixStream,
    exchange: Arc<Exchange>,
    /// Bytes of the socket that were handed on and are still in it.
    seen: usize,
    /// The last one of them.
    last: u8,
    /// True if the request is taken out of the socket while it is read.
    is_taken: bool,
    /// True once bytes of the answer were sent.
    is_answered: bool,
    /// True until bytes come, if it is not certain that the last call was answered.
    is_doubtful: bool,
    /// Limit of the time in which nothing comes.
    patience: Option<Pin<Box<Sleep>>>,
    stop: CancellationToken,
}

impl Connection {
    fn new(stream: UnixStream, stop: CancellationToken) -> Self {
        Self {
            stream,
            exchange: Arc::default(),
            seen: 0,
            last: 0,
            is_taken: false,
            is_answered: false,
            is_doubtful: false,
            patience: None,
            stop,
        }
    }

    /// One that a layerd before this one accepted.
    fn again(stream: StdStream, stop: CancellationToken) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut first = [0; 2];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let count = recv(stream.as_raw_fd(), &mut first, flags).unwrap_or_default();
        let is_last = count > 0 && !begins_request(first[0]);
        let mut connection = Self::new(UnixStream::from_std(stream)?, stop);
        if is_last {
            connection.seen = 1;
            connection.take(0);
            connection.is_doubtful = count == 1;
        }
        let is_repeated = count > 0 && !is_last;
        let exchange = &connection.exchange;
        exchange.is_repeated.store(is_repeated, Ordering::Relaxed);
        debug!(
            is_repeated,
            connection.is_doubtful, "a connection of before is served on"
        );
        Ok(connection)
    }

    pub(super) fn exchange(&self) -> Arc<Exchange> {
        self.exchange.clone()
    }

    /// Id of the process at the other end, or at the end that connected.
    pub(super) fn pid(&self) -> Option<i32> {
        let credentials = self.stream.peer_cred();
        credentials.ok().and_then(|credentials| credentials.pid())
    }

    /// Takes what was handed on out of the socket, but for the last `left` bytes.
    fn take(&mut self, left: usize) {
        let mut taken = vec![0; self.seen.saturating_sub(left)];
        while self.seen > left {
            let count = recv(
                self.stream.as_raw_fd(),
                &mut taken[..self.seen - left],
                MsgFlags::MSG_DONTWAIT,
            );
            match count {
                Ok(count @ 1..) => self.seen -= count,
                // The connection is of no use any more, as the next read finds.
                _ => self.seen = 0,
            }
        }
    }

    /// True if nothing has come for too long.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let is_partial = self.seen > 0 && !self.exchange.is_received.load(Ordering::Relaxed);
        let limit = match (self.is_doubtful, is_partial) {
            (true, _) => DOUBT,
            (false, true) => PATIENCE,
            (false, false) => return false,
        };
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        patience.as_mut().poll(context).is_ready()
    }

    /// Makes room for the answer.
    fn begin_answer(&mut self) {
        if !self.is_answered {
            let left = usize::from(!begins_request(self.last));
            self.take(left);
        }
    }
}

/// True for a byte that the method of a request may begin with.
fn begins_request(byte: u8) -> bool {
    byte.is_ascii_uppercase()
}

/// Reads what lies behind the `seen` bytes that stay in the socket. `is_over` is true if nothing follows
/// what is in it.
fn look(
    stream: &UnixStream,
    seen: &mut usize,
    is_over: bool,
    buffer: &mut ReadBuf<'_>,
) -> io::Result<()> {
    let mut all = vec![0; *seen + buffer.remaining().min(PIECE)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let count = recv(stream.as_raw_fd(), &mut all, flags)?;
    if count > *seen {
        buffer.put_slice(&all[*seen..count]);
        *seen = count;
    } else if !is_over && count > 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(())
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.is_taken {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            if let Poll::Ready(ready) = this.stream.poll_read_ready(context) {
                ready?;
            } else if !this.is_late(context) {
                return Poll::Pending;
            } else if this.is_doubtful {
                debug!("a connection of before is closed: its client may wait for an answer");
                return Poll::Ready(Ok(()));
            } else {
                this.is_taken = true;
                this.take(0);
                continue;
            }
            // Asked before the look: what the client sent before it closed is in the socket then.
            let state = pin!(this.stream.ready(Interest::READABLE)).poll(context);
            let is_over = matches!(&state, Poll::Ready(Ok(state)) if state.is_read_closed());
            let (stream, seen) = (&this.stream, &mut this.seen);
            let read = stream.try_io(Interest::READABLE, || look(stream, seen, is_over, buffer));
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    this.last = buffer.filled().last().copied().unwrap_or_default();
                    this.is_doubtful = false;
                    this.patience = None;
                    return Poll::Ready(read);
                }
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_answer();
        let count = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        this.is_answered |= count > 0;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_answer();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, pieces))?;
        this.is_answered |= count > 0;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_answered) {
            this.take(0);
            this.is_taken = false;
            this.patience = None;
            this.exchange.is_received.store(false, Ordering::Relaxed);
            this.exchange.is_repeated.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// The next layerd serves a connection that is open when this one stops.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stop.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl Drop for Connection {
    /// systemd lets go of one that is shut down.
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            // Fails for one that the client has closed, which is the same.
            let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        }
    }
}
