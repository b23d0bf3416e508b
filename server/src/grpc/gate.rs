//! Who is let in: no service can take all threads from another, no queue grows without bound, and
//! no caller waits for ever.
//!
//! Calls that may wait for the disk go through lanes, one for each kind of work, each with so many
//! places and a queue. What is answered from memory needs no place and is never held up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::calls::{Call, Calls};
use crate::traces::{self, Trace};

/// After this time a call is logged as slow: one that moves no content, and one that does.
const SLOW: Duration = Duration::from_secs(10);
const SLOW_LONG: Duration = Duration::from_secs(300);

/// What a call does that waits for a place.
const QUEUED: &str = "waiting for other calls to end";

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For a call that changes records and makes or renames directories.
    pub(crate) call: Duration,
    /// For one that moves content: it takes as long as there is much of it.
    pub(crate) long_call: Duration,
}

/// The kinds of work. The places of all lanes together stay below the threads that there are for
/// blocking work (512).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes of snapshots.
    Snapshots,
    /// Unpacking and packing of layers.
    Layers,
    /// Volumes, mounts and attachments.
    Volumes,
    /// What a person asks.
    Admin,
}

/// Name of the RPC, its lane, and whether it moves content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    method: &'static str,
    kind: Kind,
    is_long: bool,
}

const fn quick(method: &'static str, kind: Kind) -> Rule {
    Rule {
        method,
        kind,
        is_long: false,
    }
}

const fn long(method: &'static str, kind: Kind) -> Rule {
    Rule {
        method,
        kind,
        is_long: true,
    }
}

/// The rule of a method by its path in a request; none for what is answered from memory, and for
/// what does not exist.
fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let rule = match (service, method) {
        ("containerd.services.snapshots.v1.Snapshots", method) => match method {
            "Prepare" => quick("Prepare", Kind::Snapshots),
            "View" => quick("View", Kind::Snapshots),
            "Remove" => quick("Remove", Kind::Snapshots),
            "Update" => quick("Update", Kind::Snapshots),
            "Commit" => long("Commit", Kind::Snapshots),
            "Usage" => long("Usage", Kind::Snapshots),
            _ => return None,
        },
        ("containerd.services.diff.v1.Diff", method) => match method {
            "Apply" => long("Apply", Kind::Layers),
            "Diff" => long("Diff", Kind::Layers),
            _ => return None,
        },
        ("layerd.volumes.v1.Volumes", method) => match method {
            "Create" => long("Volumes.Create", Kind::Volumes),
            "Snapshot" => long("Volumes.Snapshot", Kind::Volumes),
            "Import" => long("Volumes.Import", Kind::Volumes),
            "Export" => long("Volumes.Export", Kind::Volumes),
            "Usage" => long("Volumes.Usage", Kind::Volumes),
            "Purge" => long("Volumes.Purge", Kind::Volumes),
            "Get" | "List" | "Watch" => return None,
            _ => quick("Volumes", Kind::Volumes),
        },
        ("layerd.volumes.v1.Mounts", "Check") => quick("Mounts.Check", Kind::Volumes),
        ("layerd.volumes.v1.Attachments", method) => match method {
            "Attach" => long("Attach", Kind::Volumes),
            "Reconcile" => long("Reconcile", Kind::Volumes),
            "Detach" | "List" | "Holders" => quick("Attachments", Kind::Volumes),
            _ => return None,
        },
        ("layerd.v1.Layers", method) => match method {
            "Apply" => long("Layers.Apply", Kind::Layers),
            "Diff" => long("Layers.Diff", Kind::Layers),
            _ => return None,
        },
        ("layerd.v1.Admin", method) => match method {
            "Info" | "ListTrash" | "Events" => return None,
            _ => long("Admin", Kind::Admin),
        },
        _ => return None,
    };
    Some(rule)
}

/// The places of one kind of work.
#[derive(Debug)]
struct Lane {
    places: Arc<Semaphore>,
    /// Places of those that wait for a place.
    queue: Arc<Semaphore>,
    places_max: usize,
    queue_max: usize,
    /// What goes on in it, in words.
    what: &'static str,
}

impl Lane {
    fn new(places_max: usize, queue_max: usize, what: &'static str) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places_max)),
            queue: Arc::new(Semaphore::new(queue_max)),
            places_max,
            queue_max,
            what,
        }
    }

    /// Waits for a place, first come, first served.
    async fn enter(&self, until: Instant) -> Result<OwnedSemaphorePermit, Status> {
        let places = self.places.clone();
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let begun = std::time::Instant::now();
        let (most, queue, what) = (self.places_max, self.queue_max, self.what);
        let Ok(_waiting) = self.queue.try_acquire() else {
            let text = format!(
                "{most} calls that {what} are under way and {queue} more wait; try again later"
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        };
        let entered = timeout_at(until, places.acquire_owned()).await;
        traces::waited(QUEUED, begun);
        match entered {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(Status::unavailable("layerd is stopping")),
            Err(_) => {
                let text = format!(
                    "it waited for one of {most} calls that {what} to end; nothing was done"
                );
                Err(Status::new(Code::DeadlineExceeded, text))
            }
        }
    }
}

/// Lets calls in.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Lanes>);

#[derive(Debug)]
struct Lanes {
    limits: Limits,
    calls: Calls,
    snapshots: Lane,
    layers: Lane,
    volumes: Lane,
    admin: Lane,
}

impl Gate {
    /// One for all connections. Notes the calls that it lets in among `calls`.
    pub(crate) fn new(limits: Limits, calls: Calls) -> Self {
        Self(Arc::new(Lanes {
            limits,
            calls,
            snapshots: Lane::new(256, 4096, "change snapshots"),
            layers: Lane::new(32, 256, "unpack or pack layers"),
            volumes: Lane::new(64, 1024, "work on volumes"),
            admin: Lane::new(16, 64, "answer operators"),
        }))
    }

    fn lane(&self, kind: Kind) -> &Lane {
        match kind {
            Kind::Snapshots => &self.0.snapshots,
            Kind::Layers => &self.0.layers,
            Kind::Volumes => &self.0.volumes,
            Kind::Admin => &self.0.admin,
        }
    }

    /// Runs `answer` in its lane. Work that was begun goes on after its time is up; only the
    /// client is let go.
    async fn pass<T, E>(
        &self,
        rule: Rule,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Status> {
        let limits = self.0.limits;
        let (limit, slow_after) = if rule.is_long {
            (limits.long_call, SLOW_LONG)
        } else {
            (limits.call, SLOW)
        };
        let until = Instant::now() + limit;
        let place = self.lane(rule.kind).enter(until).await?;
        let observer = Trace::of_this_task().map(Trace::observer);
        let call = self.0.calls.begin(rule.method, slow_after, place, observer);
        let in_time = timeout_at(until, call.clone().scope(answer)).await;
        in_time.map_err(|_| too_late(rule.method, limit, &call))
    }
}

fn too_late(method: &str, limit: Duration, call: &Call) -> Status {
    let (doing, since) = call.phase().now();
    let text = format!(
        "{method} did not end within {} s: for {} s it has been {doing}; it goes on, so ask again",
        limit.as_secs(),
        since.as_secs()
    );
    Status::new(Code::DeadlineExceeded, text)
}

impl<S> Layer<S> for Gate {
    type Service = GateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GateService {
            gate: self.clone(),
            inner,
        }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct GateService<S> {
    gate: Gate,
    inner: S,
}

impl<S, I, O> Service<Request<I>> for GateService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send,
    O: Default + Send,
{
    type Response = Response<O>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<O>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let rule = rule(request.uri().path());
        let answer = self.inner.call(request);
        let Some(rule) = rule else {
            return Box::pin(answer);
        };
        let gate = self.gate.clone();
        Box::pin(async move {
            let passed = gate.pass(rule, answer).await;
            passed.unwrap_or_else(|status| Ok(status.into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const QUICK: Rule = quick("Prepare", Kind::Admin);

    fn gate() -> Gate {
        Gate::new(
            Limits {
                call: Duration::from_millis(50),
                long_call: Duration::from_secs(60),
            },
            Calls::default(),
        )
    }

    async fn never() -> Result<(), Infallible> {
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_end_is_answered_with_what_it_waits_for() {
        let late = gate().pass(QUICK, never()).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert!(late.message().contains("waiting for a thread"), "{late}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_held_until_the_work_ends_not_until_the_client_goes() {
        let gate = gate();
        let mut held = Vec::new();
        for _ in 0..16 {
            let hold = async { Ok::<_, Infallible>(Call::of_this_task().unwrap()) };
            held.push(gate.pass(QUICK, hold).await.unwrap().unwrap());
        }
        let full = gate.pass(QUICK, never()).await.unwrap_err();
        assert!(full.message().contains("one of 16 calls"), "{full}");
        held.pop();
        let passed = gate.pass(QUICK, async { Ok::<_, Infallible>(()) }).await;
        assert!(passed.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_an_end() {
        let gate = gate();
        let tasks = crate::tasks::Tasks::default();
        for _ in 0..16 + 64 {
            let gate = gate.clone();
            tasks.spawn(|_| async move { drop(gate.pass(QUICK, never()).await) });
        }
        // All of them get their turn before time goes on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let refused = gate.pass(QUICK, never()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }

    #[test]
    fn reads_need_no_place() {
        for path in ["Stat", "Mounts", "List", "Cleanup", "Nothing"] {
            let path = format!("/containerd.services.snapshots.v1.Snapshots/{path}");
            assert_eq!(rule(&path), None);
        }
        assert_eq!(rule(""), None);
    }

    #[test]
    fn every_method_has_a_rule_or_is_known_to_need_none() {
        const FROM_MEMORY: [&str; 11] = [
            "Snapshots/Stat",
            "Snapshots/Mounts",
            "Snapshots/List",
            "Snapshots/Cleanup",
            "Volumes/Get",
            "Volumes/List",
            "Volumes/Watch",
            "Mounts/Parse",
            "Admin/Info",
            "Admin/ListTrash",
            "Admin/Events",
        ];
        let files =
            <prost_types::FileDescriptorSet as prost::Message>::decode(layerd_proto::DESCRIPTORS)
                .unwrap();
        for file in &files.file {
            // layerd is a client of containerd's content store.
            let is_ours = file.package() != "containerd.services.content.v1";
            for service in file.service.iter().filter(|_| is_ours) {
                for method in &service.method {
                    let short = format!("{}/{}", service.name(), method.name());
                    let path = format!("/{}.{short}", file.package());
                    let needs_none = FROM_MEMORY.contains(&short.as_str());
                    assert_ne!(rule(&path).is_some(), needs_none, "{path}");
                }
            }
        }
    }
}
