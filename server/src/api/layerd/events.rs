//! Streams events to watchers.
//!
//! One ring buffer holds the latest events for all of them, so that an operation pays for one entry,
//! whatever the number and speed of watchers. A slow watcher is told the number of overwritten events.

use std::pin::Pin;
use std::sync::Arc;

use layerd_engine::{Engine, Event, Topic, Watcher};
use layerd_proto::layerd::v1::{EventsRequest, EventsResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::api::wire::timestamp;

/// Events that a reader may be behind. Each holds a key, a few dozen bytes as a rule.
const RING: usize = 1024;
/// Readers at a time.
const WATCHERS_MAX: usize = 64;

/// Stream of a reader.
pub(super) type Watched = Pin<Box<dyn Stream<Item = Result<EventsResponse, Status>> + Send>>;

/// The ring, and the places of its readers.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    events: broadcast::Sender<Arc<Event>>,
    places: Arc<Semaphore>,
}

impl Ring {
    /// Watches the engine for as long as it lives.
    pub(super) fn new(engine: &Engine) -> Self {
        let ring = Self {
            events: broadcast::Sender::new(RING),
            places: Arc::new(Semaphore::new(WATCHERS_MAX)),
        };
        engine.watch(Box::new(Writer(ring.events.clone())));
        ring
    }

    /// Events from now on.
    pub(super) fn watch(&self, request: EventsRequest) -> Result<Watched, Status> {
        let wanted = Wanted::parse(request)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{WATCHERS_MAX} others watch already; try again later");
            Status::resource_exhausted(text)
        })?;
        let events = BroadcastStream::new(self.events.subscribe());
        Ok(Box::pin(told(events, wanted, place)))
    }
}

/// Events of the ring for a reader, which holds its permit until it ends.
fn told(
    events: BroadcastStream<Arc<Event>>,
    wanted: Wanted,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<EventsResponse, Status>> + Send {
    events.filter_map(move |next| {
        let _kept = &place;
        match next {
            Ok(event) => wanted.has(&event).then(|| Ok(message(&event))),
            Err(BroadcastStreamRecvError::Lagged(missed)) => Some(Ok(EventsResponse {
                missed,
                ..EventsResponse::default()
            })),
        }
    })
}

/// Puts events into the ring while anybody reads it.
struct Writer(broadcast::Sender<Arc<Event>>);

impl Watcher for Writer {
    fn wants(&self, _topic: Topic) -> bool {
        self.0.receiver_count() > 0
    }

    fn tell(&self, event: &Event) -> bool {
        // Progress of copies is sent on request only. Sending fails only without any reader,
        // which is no error.
        if event.amount.is_none() {
            let _ = self.0.send(Arc::new(event.clone()));
        }
        true
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// Request of a reader.
struct Wanted {
    topics: Vec<Topic>,
    prefix: String,
}

impl Wanted {
    fn parse(request: EventsRequest) -> Result<Self, Status> {
        let known = |name: &String| {
            let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name);
            topic.ok_or_else(|| {
                let names = Topic::ALL.map(Topic::name).join(", ");
                Status::invalid_argument(format!("topics: {name:?} is none of {names}"))
            })
        };
        let topics = request.topics.iter().map(known);
        Ok(Self {
            topics: topics.collect::<Result<_, _>>()?,
            prefix: request.prefix,
        })
    }

    fn has(&self, event: &Event) -> bool {
        (self.topics.is_empty() || self.topics.contains(&event.topic))
            && event.subject.starts_with(&self.prefix)
    }
}

fn message(event: &Event) -> EventsResponse {
    EventsResponse {
        topic: event.topic.name().to_owned(),
        what: event.what.to_owned(),
        subject: event.subject.clone(),
        at: Some(timestamp(event.at)),
        missed: 0,
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::Timestamp;
    use tonic::Code;

    use super::*;

    fn ring() -> (Ring, Writer) {
        let ring = Ring {
            events: broadcast::Sender::new(4),
            places: Arc::new(Semaphore::new(1)),
        };
        let writer = Writer(ring.events.clone());
        (ring, writer)
    }

    fn event(topic: Topic, subject: &str) -> Event {
        Event {
            topic,
            what: "removed",
            subject: subject.to_owned(),
            at: Timestamp(7),
            amount: None,
        }
    }

    fn request(topics: &[&str], prefix: &str) -> EventsRequest {
        EventsRequest {
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            prefix: prefix.to_owned(),
        }
    }

    #[tokio::test]
    async fn readers_get_what_they_asked_for() {
        let (ring, writer) = ring();
        assert!(!writer.wants(Topic::Snapshot), "no reader");
        let mut stream = ring.watch(request(&["snapshot", "trash"], "a/")).unwrap();
        assert!(writer.wants(Topic::Snapshot));
        for (topic, subject) in [
            (Topic::Volume, "a/1"),
            (Topic::Snapshot, "b/1"),
            (Topic::Snapshot, "a/1"),
        ] {
            assert!(writer.tell(&event(topic, subject)));
        }
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(
            (first.topic.as_str(), first.subject.as_str()),
            ("snapshot", "a/1")
        );
        assert_eq!((first.at, first.missed), (Some(timestamp(Timestamp(7))), 0));
    }

    #[tokio::test]
    async fn who_is_slow_is_told_how_much_was_missed() {
        let (ring, writer) = ring();
        let mut stream = ring.watch(request(&[], "")).unwrap();
        for number in 0..10 {
            writer.tell(&event(Topic::Snapshot, &number.to_string()));
        }
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!((first.topic.as_str(), first.missed), ("", 6));
        let next = stream.next().await.unwrap().unwrap();
        assert_eq!(next.subject, "6");
    }

    #[tokio::test]
    async fn places_are_few_and_given_back() {
        let (ring, _writer) = ring();
        let first = ring.watch(request(&[], "")).unwrap();
        let refused = ring.watch(request(&[], "")).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(first);
        assert!(ring.watch(request(&[], "")).is_ok());
        let unknown = ring.watch(request(&["weather"], "")).map(drop).unwrap_err();
        assert_eq!(unknown.code(), Code::InvalidArgument);
    }
}
