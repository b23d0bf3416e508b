//! Streams of messages to clients that may stop reading.
//!
//! A stream that its client does not read holds the work behind it. It ends with UNAVAILABLE when
//! the daemon stops waiting for peers, so that neither the work nor the daemon waits for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status;
use crate::tasks::{Lost, Tasks};

/// Why a message is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsent {
    /// The client has closed the stream.
    #[error("the client has hung up")]
    HungUp,
    /// The daemon is going down.
    #[error("layerd is stopping")]
    Stopping,
}

impl From<Unsent> for io::Error {
    fn from(unsent: Unsent) -> Self {
        Self::new(io::ErrorKind::BrokenPipe, unsent)
    }
}

/// The sending end of a stream of messages.
#[derive(Debug)]
pub(crate) struct Outlet<M> {
    messages: Sender<Result<M, Status>>,
    end: CancellationToken,
}

impl<M> Clone for Outlet<M> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            end: self.end.clone(),
        }
    }
}

impl<M> Outlet<M> {
    /// A stream of at most `waiting` messages that are not read yet, for a response.
    pub(crate) fn open(tasks: &Tasks, waiting: usize) -> (Self, Outgoing<M>) {
        let (messages, receiver) = channel(waiting);
        let outgoing = Outgoing {
            messages: receiver,
            end: Some(Box::pin(tasks.peers_end().cancelled_owned())),
        };
        (Self::new(messages, tasks.peers_end()), outgoing)
    }

    /// Sends to a channel until `end` is cancelled.
    pub(crate) fn new(messages: Sender<Result<M, Status>>, end: CancellationToken) -> Self {
        Self { messages, end }
    }

    /// Waits until the client has taken earlier messages.
    ///
    /// # Errors
    /// [`Unsent`]: it takes no more.
    pub(crate) async fn send(&self, message: Result<M, Status>) -> Result<(), Unsent> {
        let sent = self.end.run_until_cancelled(self.messages.send(message));
        match sent.await {
            Some(sent) => sent.map_err(|_| Unsent::HungUp),
            None => Err(Unsent::Stopping),
        }
    }

    /// As [`send`](Self::send), on a thread for blocking work.
    pub(crate) fn blocking_send(&self, message: Result<M, Status>) -> Result<(), Unsent> {
        Handle::current().block_on(self.send(message))
    }

    /// Sends a message if there is room for it, else drops it.
    pub(crate) fn try_send(&self, message: Result<M, Status>) {
        let _ = self.messages.try_send(message);
    }

    /// Sends the last message. A client that has hung up does not get it, nor one that does not
    /// read before the daemon has to stop.
    pub(crate) async fn finish(self, last: Result<M, Status>) {
        let _ = self.send(last).await;
    }

    /// Waits until the client has closed the stream.
    pub(crate) async fn closed(&self) {
        self.messages.closed().await;
    }

    /// True once the client has gone or the stream was ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_closed() || self.end.is_cancelled()
    }
}

/// The stream that a client gets.
pub(crate) struct Outgoing<M> {
    messages: Receiver<Result<M, Status>>,
    /// None once it has ended with an error.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<M> Stream for Outgoing<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        // First, as what is left in the channel may lack its end.
        if end.as_mut().poll(context).is_ready() {
            self.end = None;
            return Poll::Ready(Some(Err(status::lost(&Lost::Stopping))));
        }
        let next = ready!(self.messages.poll_recv(context));
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_full_stream_holds_its_sender_until_peers_end() {
        let tasks = Tasks::default();
        let (outlet, mut outgoing) = Outlet::open(&tasks, 1);
        outlet.send(Ok(1)).await.unwrap();
        let sender = outlet.clone();
        let blocked = tasks.call(move || sender.blocking_send(Ok(2)));
        let (sent, ()) = tokio::join!(blocked, async { tasks.end_peers() });
        assert_eq!(sent.unwrap(), Err(Unsent::Stopping));
        let status = outgoing.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(outgoing.next().await.is_none());
        assert!(outlet.is_closed());
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_is_no_stop() {
        let (outlet, outgoing) = Outlet::open(&Tasks::default(), 1);
        drop(outgoing);
        assert_eq!(outlet.send(Ok(1)).await, Err(Unsent::HungUp));
    }
}
