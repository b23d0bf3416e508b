//! Streams events to watchers.
//!
//! One ring buffer holds the latest events for all of them, so that an operation pays for one entry,
//! whatever the number and speed of watchers. A slow watcher is told the number of overwritten events.
//! The same number of events is kept for those who ask later.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use layerd_engine::{Engine, Event, Topic, Watcher};
use layerd_proto::layerd::v1::{EventsRequest, EventsResponse};
use parking_lot::{Mutex, MutexGuard};
use prost_types::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::api::wire::timestamp;

/// Events that a reader may be behind, and events kept. Each holds a key, a few dozen bytes as a rule.
const RING: usize = 1024;
/// Readers at a time.
const WATCHERS_MAX: usize = 64;

/// Stream of a reader.
pub(super) type Watched = Pin<Box<dyn Stream<Item = Result<EventsResponse, Status>> + Send>>;

/// The ring, and the permits of its readers.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    events: Writer,
    permits: Arc<Semaphore>,
}

impl Ring {
    /// Watches the engine for as long as it lives.
    pub(super) fn new(engine: &Engine) -> Self {
        let ring = Self::with(RING, WATCHERS_MAX);
        engine.watch(Box::new(ring.events.clone()));
        ring
    }

    fn with(events: usize, readers: usize) -> Self {
        Self {
            events: Writer {
                live: broadcast::Sender::new(events),
                kept: Arc::default(),
                limit: events,
            },
            permits: Arc::new(Semaphore::new(readers)),
        }
    }

    /// Events from now on, after those since a time.
    pub(super) fn watch(&self, request: EventsRequest) -> Result<Watched, Status> {
        let wanted = Wanted::parse(request)?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{WATCHERS_MAX} others watch already; try again later");
            Status::resource_exhausted(text)
        })?;
        // No event comes between the two.
        let kept = self.events.kept();
        let live = BroadcastStream::new(self.events.live.subscribe());
        let past = kept.since(&wanted);
        drop(kept);
        let past = tokio_stream::iter(past.into_iter().map(Ok));
        Ok(Box::pin(past.chain(filtered(live, wanted, permit))))
    }
}

/// Events of the ring for a reader, which holds its permit until it ends.
fn filtered(
    events: BroadcastStream<Arc<Event>>,
    wanted: Wanted,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<EventsResponse, Status>> + Send {
    events.filter_map(move |next| {
        let _kept = &permit;
        match next {
            Ok(event) => wanted.has(&event).then(|| Ok(message(&event))),
            Err(BroadcastStreamRecvError::Lagged(count)) => Some(Ok(missed(count))),
        }
    })
}

/// The latest events.
#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    /// Number of events that were dropped.
    dropped: u64,
}

impl Kept {
    /// The kept events of a request, after the number of those that it may have missed.
    fn since(&self, wanted: &Wanted) -> Vec<EventsResponse> {
        let Some(since) = wanted.since else {
            return Vec::new();
        };
        let is_since = |event: &Event| {
            let at = timestamp(event.at);
            (at.seconds, at.nanos) >= (since.seconds, since.nanos)
        };
        let begins_later = self.events.front().is_some_and(|oldest| is_since(oldest));
        let lacks = begins_later && self.dropped > 0;
        let kept = self.events.iter().filter(|event| is_since(event));
        let wanted = kept.filter(|event| wanted.has(event));
        lacks
            .then(|| missed(self.dropped))
            .into_iter()
            .chain(wanted.map(|event| message(event)))
            .collect()
    }
}

/// Puts events into the ring.
#[derive(Debug, Clone)]
struct Writer {
    live: broadcast::Sender<Arc<Event>>,
    /// Locked while an event goes to both.
    kept: Arc<Mutex<Kept>>,
    limit: usize,
}

impl Writer {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

impl Watcher for Writer {
    fn wants(&self, _topic: Topic) -> bool {
        true
    }

    fn tell(&self, event: &Event) -> bool {
        // Progress of copies is sent on request only.
        if event.amount.is_some() {
            return true;
        }
        let event = Arc::new(event.clone());
        let mut kept = self.kept();
        if kept.events.len() == self.limit {
            kept.events.pop_front();
            kept.dropped += 1;
        }
        kept.events.push_back(event.clone());
        // Fails only without any reader, which is no error.
        let _ = self.live.send(event);
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
    since: Option<Timestamp>,
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
            since: request.since,
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

/// A message about events that a reader does not get.
fn missed(count: u64) -> EventsResponse {
    EventsResponse {
        missed: count,
        ..EventsResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::Timestamp;
    use tonic::Code;

    use super::*;

    fn ring() -> (Ring, Writer) {
        let ring = Ring::with(4, 1);
        let writer = ring.events.clone();
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
            since: None,
        }
    }

    #[tokio::test]
    async fn readers_get_what_they_asked_for() {
        let (ring, writer) = ring();
        let mut stream = ring.watch(request(&["snapshot", "trash"], "a/")).unwrap();
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
    async fn kept_events_come_first() {
        let since = |seconds| EventsRequest {
            since: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..request(&["snapshot"], "")
        };
        for (from, wanted) in [
            (9, &["7"][..]),
            (6, &["6", "7"]),
            (5, &["5", "6", "7"]),
            (4, &["missed 3", "4", "5", "6", "7"]),
        ] {
            let (ring, writer) = ring();
            let tell = |topic, second: i64| {
                writer.tell(&Event {
                    at: Timestamp(second * 1_000_000_000),
                    ..event(topic, &second.to_string())
                })
            };
            // The ring has room for the last four.
            for second in 1..=6 {
                tell(Topic::Snapshot, second);
            }
            tell(Topic::Volume, 8);
            let mut stream = ring.watch(since(from)).unwrap();
            tell(Topic::Snapshot, 7);
            let mut got = Vec::new();
            while got.len() < wanted.len() {
                let next = stream.next().await.unwrap().unwrap();
                got.push(match next.missed {
                    0 => next.subject,
                    count => format!("missed {count}"),
                });
            }
            assert_eq!(got, wanted);
        }
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
