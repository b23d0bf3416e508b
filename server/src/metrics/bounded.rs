//! A listener with few clients at a time. Each client that reaches the address may connect, and
//! each connection takes a descriptor, of which storage needs its own.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections that are served at a time; others wait in the socket's queue. Prometheus keeps one.
const CONNECTIONS: usize = 32;
/// Time without a byte after which a connection is closed; longer than the pauses of Prometheus, which
/// connects anew where it finds one closed.
const IDLE: Duration = Duration::from_secs(120);

/// A listener that accepts while a place is free.
pub(super) struct Bounded<L> {
    socket: L,
    places: Arc<Semaphore>,
}

impl<L> Bounded<L> {
    pub(super) fn new(socket: L) -> Self {
        Self {
            socket,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Held<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let places = self.places.clone();
        let place = places.acquire_owned().await.expect("it is never closed");
        let (stream, address) = self.socket.accept().await;
        let held = Held {
            stream,
            idle: Box::pin(sleep(IDLE)),
            _place: place,
        };
        (held, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.socket.local_addr()
    }
}

/// A connection with its place, which fails when nothing passes for too long.
pub(super) struct Held<S> {
    stream: S,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Held<S> {
    /// Passes on an outcome of the stream; none yet is a failure once the time is over.
    fn limited<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return outcome;
        }
        let over = self.idle.as_mut().poll(context);
        over.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.limited(context, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::time::{advance, timeout};

    use super::*;

    fn bounded(dir: &tempfile::TempDir) -> Bounded<UnixListener> {
        Bounded::new(UnixListener::bind(dir.path().join("s")).unwrap())
    }

    #[tokio::test]
    async fn one_more_client_waits_for_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = bounded(&dir);
        let mut clients = Vec::new();
        let mut served = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(UnixStream::connect(dir.path().join("s")).await.unwrap());
            served.push(socket.accept().await.0);
        }
        clients.push(UnixStream::connect(dir.path().join("s")).await.unwrap());
        let next = timeout(Duration::from_millis(50), socket.accept()).await;
        assert!(next.is_err(), "no place is free");
        drop(served.pop());
        let (mut next, _) = socket.accept().await;
        clients.last_mut().unwrap().write_all(b"x").await.unwrap();
        assert_eq!(next.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_nothing_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = bounded(&dir);
        let mut client = UnixStream::connect(dir.path().join("s")).await.unwrap();
        let (mut served, _) = socket.accept().await;
        advance(IDLE - Duration::from_secs(1)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'x');
        advance(IDLE - Duration::from_secs(1)).await;
        client.write_all(b"y").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'y', "the time began anew");
        let idle = served.read_u8().await.unwrap_err();
        assert_eq!(idle.kind(), io::ErrorKind::TimedOut);
    }
}
