//! Connections that outlive layerd.
//!
//! Docker repeats a call whose connection broke, but without the call's content (moby#39331). So no
//! connection breaks: systemd keeps a descriptor of each one (FDSTORE=1 of sd_notify(3)) and hands it to the
//! next layerd, and a request stays in the socket until it is answered. What a layerd that was killed had
//! not answered the next one finds there.
//!
//! A second answer would be taken for that to the client's next call. So all bytes of a request but the last
//! leave the socket before the answer is sent, and the last one follows: an answer that was sent, perhaps
//! but for a kill between two system calls, is told by a byte that begins no request. Of a request that had
//! to be taken out before its answer such a byte stays too. A client whose request cannot be had again finds
//! its connection closed.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::serve::Listener;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
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
/// Pause before systemd is asked again to keep a connection, while it does not read what it is told.
const KEEP_PAUSE: Duration = Duration::from_millis(10);
/// Times that it is asked.
const KEEP_TRIES: usize = 100;
/// Begin of a connection of HTTP/2, which has no bytes that stay until they are answered.
const HTTP2: &[u8] = b"PRI ";
/// Begin of an answer that another one follows: the client is to send the content of its request.
const CONTINUE: &[u8] = b"HTTP/1.1 100 ";

/// What a connection and the call on it know of each other.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// True once a request has arrived as a whole.
    is_received: AtomicBool,
    /// Bytes of its content, plus one; 0 if the content was sent in chunks.
    content: AtomicUsize,
    /// True if a layerd before this one had the request already, and may have done what it asks for.
    is_repeated: AtomicBool,
}

impl Exchange {
    /// Notes that a request is whole. Its content has so many bytes as sent; `None` for one in chunks.
    pub(super) fn note_received(&self, content: Option<usize>) {
        let content = content.map_or(0, |bytes| bytes + 1);
        self.content.store(content, Ordering::Relaxed);
        self.is_received.store(true, Ordering::Relaxed);
    }

    fn is_received(&self) -> bool {
        self.is_received.load(Ordering::Relaxed)
    }

    fn content(&self) -> Option<usize> {
        let noted = self
            .is_received()
            .then(|| self.content.load(Ordering::Relaxed));
        noted?.checked_sub(1)
    }

    fn end(&self) {
        self.is_received.store(false, Ordering::Relaxed);
        self.is_repeated.store(false, Ordering::Relaxed);
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
        for _ in 0..KEEP_TRIES {
            if self.keeper.keep(&stream) {
                break;
            }
            sleep(KEEP_PAUSE).await;
        }
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

/// Closes connections that are not served any more, so that systemd lets go of them and their clients do not
/// wait.
pub(super) fn close(connections: Vec<StdStream>) {
    for stream in connections {
        // Fails for one that the client has closed, which is the same.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// One connection.
pub(super) struct Connection {
    stream: UnixStream,
    exchange: Arc<Exchange>,
    /// Bytes of the socket that were handed on and are still in it.
    seen: usize,
    /// Those at their end that belong to the client's next request.
    next: usize,
    /// True if the request is taken out of the socket while it is read, but for the last byte.
    is_taken: bool,
    /// True until the first answer, if a part of a request was in the socket when this layerd began. More of
    /// it may have been taken out by the last one.
    is_rest: bool,
    /// True once bytes of the answer were sent.
    is_answered: bool,
    /// True until bytes come, if it is not certain that the last call was answered.
    is_doubtful: bool,
    /// Reader to be woken after the answer: the end of what the client sends is not announced twice.
    reader: Option<Waker>,
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
            next: 0,
            is_taken: false,
            is_rest: false,
            is_answered: false,
            is_doubtful: false,
            reader: None,
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
        connection.is_rest = count > 0;
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
        let is_partial = self.seen > 0 && !self.is_taken && !self.exchange.is_received();
        let limit = match (self.is_doubtful, is_partial) {
            (true, _) => DOUBT,
            (false, true) => PATIENCE,
            (false, false) => return false,
        };
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        patience.as_mut().poll(context).is_ready()
    }

    /// True if a client that sends nothing more waits for an answer, or may: it is not told how much of its
    /// request is here. The end of the call, or of the time, is the next to happen.
    fn is_awaited(&mut self, context: &mut Context<'_>) -> bool {
        match (self.seen > 0, self.exchange.is_received()) {
            (true, false) => !self.is_taken && !self.is_late(context),
            (is_begun, _) => {
                self.reader = is_begun.then(|| context.waker().clone());
                is_begun
            }
        }
    }

    /// Takes the request out of the socket, but for its last byte.
    fn begin_answer(&mut self) {
        if !self.is_answered {
            self.next = self.following();
            self.take(self.next + 1);
        }
    }

    /// Bytes that were handed on with a request and follow it.
    fn following(&self) -> usize {
        let Some(content) = self.exchange.content() else {
            return 0;
        };
        let mut all = vec![0; self.seen];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let count = recv(self.stream.as_raw_fd(), &mut all, flags).unwrap_or_default();
        let head = head_length(all.get(..count).unwrap_or_default());
        head.map_or(0, |head| self.seen.saturating_sub(head + content))
    }

    /// The bytes of the answer were sent.
    fn end_answer(&mut self) {
        self.take(self.next);
        (self.next, self.is_taken, self.is_rest) = (0, false, false);
        self.patience = None;
        if !self.exchange.is_received() {
            // The rest of the request would be taken for another one.
            let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
        }
        self.exchange.end();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn write_answer(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_last = !pieces
            .first()
            .is_some_and(|first| first.starts_with(CONTINUE));
        if is_last {
            self.begin_answer();
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        self.is_answered |= is_last && count > 0;
        Poll::Ready(Ok(count))
    }
}

/// Length of the head of a request, with the empty line that ends it and those that may come before it.
fn head_length(request: &[u8]) -> Option<usize> {
    let begin = request.iter().position(|byte| !b"\r\n".contains(byte))?;
    let rest = request.get(begin..)?;
    let end = |end: &[u8]| {
        let at = rest.windows(end.len()).position(|part| part == end);
        at.map(|at| begin + at + end.len())
    };
    [end(b"\n\r\n"), end(b"\n\n")].into_iter().flatten().min()
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
    if all.starts_with(HTTP2) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/2"));
    }
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
        let before = buffer.filled().len();
        loop {
            if let Poll::Ready(ready) = this.stream.poll_read_ready(context) {
                ready?;
            } else if !this.is_late(context) {
                return Poll::Pending;
            } else if this.is_doubtful || this.is_rest {
                debug!("a connection of before is closed: its client may wait for an answer");
                return Poll::Ready(Ok(()));
            } else {
                this.is_taken = true;
                this.take(1);
                continue;
            }
            // Asked before the look: what the client sent before it closed is in the socket then.
            let interest = Interest::READABLE | Interest::WRITABLE;
            let state = pin!(this.stream.ready(interest)).poll(context);
            let is =
                |test: fn(Ready) -> bool| matches!(&state, Poll::Ready(Ok(state)) if test(*state));
            let (is_over, is_gone) = (is(Ready::is_read_closed), is(Ready::is_write_closed));
            let (stream, seen) = (&this.stream, &mut this.seen);
            let read = stream.try_io(Interest::READABLE, || look(stream, seen, is_over, buffer));
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Ok(())
                    if buffer.filled().len() == before && !is_gone && this.is_awaited(context) =>
                {
                    return Poll::Pending;
                }
                read => {
                    if this.is_taken {
                        this.take(1);
                    }
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
        self.get_mut()
            .write_answer(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write_answer(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_answered) {
            this.end_answer();
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
