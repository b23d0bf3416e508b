//! Admission control of RPCs: bounds on calls under way, on calls queued, and on their duration.
//!
//! Calls that may wait for the disk take a permit of one pool a kind of work, so that a disk that
//! hangs under volumes takes no thread from snapshots. A pool has a fixed number of permits and a
//! bounded queue. Calls answered from memory need no permit and never queue.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::calls::{Call, Calls};
use crate::traces::Trace;

use pool::Pool;

mod pool;

/// Duration after which a call is logged as slow: one that moves no content, and one that does.
const SLOW: Duration = Duration::from_secs(10);
const SLOW_LONG: Duration = Duration::from_secs(300);

/// Deadlines of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Deadline of a call that changes records and makes or renames directories.
    pub(crate) call: Duration,
    /// Deadline of a call that moves content, in proportion to which it takes time.
    pub(crate) long_call: Duration,
}

/// Kinds of work, one pool each. The permits of all pools together stay below the number of
/// threads for blocking work (512).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes of snapshots.
    Snapshots,
    /// Apply, Diff, import and export of layers.
    Layers,
    /// Volumes, mounts and attachments.
    Volumes,
    /// Administrative calls of layerctl.
    Admin,
}

/// Name of an RPC, its pool, the deadline that applies, and the fate of its work at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    method: &'static str,
    kind: Kind,
    is_long: bool,
    at_deadline: AtDeadline,
}

/// The fate of work that has not ended by the deadline of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtDeadline {
    /// It ends, and its outcome is seen by asking again.
    GoesOn,
    /// It ends without an outcome, as when the client hangs up; with what is left and what to do.
    IsCancelled(&'static str),
}

/// Hint about a partly unpacked layer.
const PART_OF_A_LAYER: &str =
    "the snapshot may hold part of the layer: remove it, prepare it anew and apply the layer again";

const fn quick(method: &'static str, kind: Kind) -> Rule {
    Rule {
        method,
        kind,
        is_long: false,
        at_deadline: AtDeadline::GoesOn,
    }
}

const fn long(method: &'static str, kind: Kind) -> Rule {
    Rule {
        method,
        kind,
        is_long: true,
        at_deadline: AtDeadline::GoesOn,
    }
}

/// As [`long`], for work that lasts no longer than its call.
const fn bound(method: &'static str, kind: Kind, left: &'static str) -> Rule {
    Rule {
        at_deadline: AtDeadline::IsCancelled(left),
        ..long(method, kind)
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
            "Apply" => bound("Apply", Kind::Layers, PART_OF_A_LAYER),
            "Diff" => bound("Diff", Kind::Layers, "nothing is left of it: try again"),
            _ => return None,
        },
        ("layerd.v1.Volumes", method) => match method {
            "Create" => long("Volumes.Create", Kind::Volumes),
            "Snapshot" => long("Volumes.Snapshot", Kind::Volumes),
            "Import" => bound(
                "Volumes.Import",
                Kind::Volumes,
                "no volume was made: import the archive again",
            ),
            "ImportDirectory" => long("Volumes.ImportDirectory", Kind::Volumes),
            "Export" => long("Volumes.Export", Kind::Volumes),
            "Usage" => long("Volumes.Usage", Kind::Volumes),
            "Purge" => long("Volumes.Purge", Kind::Volumes),
            "Get" | "List" | "Watch" => return None,
            _ => quick("Volumes", Kind::Volumes),
        },
        ("layerd.v1.Mounts", "Check") => quick("Mounts.Check", Kind::Volumes),
        ("layerd.v1.Attachments", method) => match method {
            "Attach" => long("Attach", Kind::Volumes),
            "Reconcile" => long("Reconcile", Kind::Volumes),
            "Detach" | "List" | "Holders" => quick("Attachments", Kind::Volumes),
            _ => return None,
        },
        ("csi.v1.Identity" | "csi.v1.Controller" | "csi.v1.Node", method) => return csi(method),
        ("layerd.v1.Layers", method) => match method {
            "Apply" => bound("Layers.Apply", Kind::Layers, PART_OF_A_LAYER),
            "Diff" => long("Layers.Diff", Kind::Layers),
            "Import" => bound("Layers.Import", Kind::Layers, PART_OF_A_LAYER),
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

/// The rule of a method of CSI, of whichever service.
fn csi(method: &str) -> Option<Rule> {
    Some(match method {
        "Probe" => quick("csi.Probe", Kind::Volumes),
        "CreateVolume" => long("csi.CreateVolume", Kind::Volumes),
        "CreateSnapshot" => long("csi.CreateSnapshot", Kind::Volumes),
        "DeleteVolume"
        | "DeleteSnapshot"
        | "ListVolumes"
        | "GetCapacity"
        | "ControllerExpandVolume"
        | "ControllerGetVolume" => quick("csi.Controller", Kind::Volumes),
        "NodePublishVolume" => long("csi.NodePublishVolume", Kind::Volumes),
        "NodeUnpublishVolume" => long("csi.NodeUnpublishVolume", Kind::Volumes),
        "NodeGetVolumeStats" => long("csi.NodeGetVolumeStats", Kind::Volumes),
        "NodeExpandVolume" => quick("csi.NodeExpandVolume", Kind::Volumes),
        _ => return None,
    })
}

/// Admission of all connections of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Pools>);

#[derive(Debug)]
struct Pools {
    limits: Limits,
    calls: Calls,
    snapshots: Pool,
    layers: Pool,
    volumes: Pool,
    admin: Pool,
}

impl Admission {
    /// Registers admitted calls in `calls`.
    pub(crate) fn new(limits: Limits, calls: Calls) -> Self {
        Self(Arc::new(Pools {
            limits,
            calls,
            snapshots: Pool::new(256, 4096, "change snapshots"),
            layers: Pool::new(32, 256, "unpack or pack layers"),
            volumes: Pool::new(64, 1024, "work on volumes"),
            admin: Pool::new(16, 64, "answer operators"),
        }))
    }

    /// Calls that run and calls that wait, by the kind of their work.
    pub(crate) fn counts(&self) -> [(&'static str, usize, usize); 4] {
        let all = [
            ("snapshots", &self.0.snapshots),
            ("layers", &self.0.layers),
            ("volumes", &self.0.volumes),
            ("admin", &self.0.admin),
        ];
        all.map(|(work, pool)| (work, pool.running(), pool.queued()))
    }

    fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Snapshots => &self.0.snapshots,
            Kind::Layers => &self.0.layers,
            Kind::Volumes => &self.0.volumes,
            Kind::Admin => &self.0.admin,
        }
    }

    /// Runs `answer` in its pool until its time is up. Work that was begun then goes on or ends
    /// soon, as the rule says.
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
        self.within(rule, limit, slow_after, answer).await
    }

    /// Runs `answer`, a call of Docker's volume plugin, in the pool of volumes.
    pub(crate) async fn docker<T, E>(
        &self,
        method: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Status> {
        let rule = quick(method, Kind::Volumes);
        self.within(rule, limit, SLOW, answer).await
    }

    async fn within<T, E>(
        &self,
        rule: Rule,
        limit: Duration,
        slow_after: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Status> {
        let until = Instant::now() + limit;
        let permit = self.pool(rule.kind).enter(until).await?;
        let observer = Trace::of_this_task().map(Trace::observer);
        let call = self
            .0
            .calls
            .begin(rule.method, slow_after, permit, observer);
        let in_time = timeout_at(until, call.clone().scope(answer)).await;
        in_time.map_err(|_| too_late(rule, limit, &call))
    }
}

fn too_late(rule: Rule, limit: Duration, call: &Call) -> Status {
    let (doing, since) = call.phase().now();
    let fate = match rule.at_deadline {
        AtDeadline::GoesOn => "it goes on, so ask again".to_owned(),
        AtDeadline::IsCancelled(left) => format!("it was cancelled, and {left}"),
    };
    let text = format!(
        "{} did not end within {} s: for {} s it has been {doing}; {fate}",
        rule.method,
        limit.as_secs(),
        since.as_secs()
    );
    Status::new(Code::DeadlineExceeded, text)
}

impl<S> Layer<S> for Admission {
    type Service = AdmissionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService {
            admission: self.clone(),
            inner,
        }
    }
}

/// A service behind the admission.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionService<S> {
    admission: Admission,
    inner: S,
}

impl<S, I, O> Service<Request<I>> for AdmissionService<S>
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
        let admission = self.admission.clone();
        Box::pin(async move {
            let passed = admission.pass(rule, answer).await;
            passed.unwrap_or_else(|status| Ok(status.into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const QUICK: Rule = quick("Prepare", Kind::Admin);

    fn admission() -> Admission {
        Admission::new(
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
        let late = admission().pass(QUICK, never()).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert!(late.message().contains("waiting for a thread"), "{late}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_at_the_deadline_says_what_becomes_of_the_work() {
        let late = admission().pass(QUICK, never()).await.unwrap_err();
        assert!(late.message().ends_with("it goes on, so ask again"));
        for (path, left) in [
            (
                "containerd.services.diff.v1.Diff/Apply",
                "part of the layer",
            ),
            ("layerd.v1.Layers/Apply", "part of the layer"),
            ("containerd.services.diff.v1.Diff/Diff", "nothing is left"),
            ("layerd.v1.Volumes/Import", "no volume was made"),
        ] {
            let rule = rule(&format!("/{path}")).unwrap();
            let late = admission().pass(rule, never()).await.unwrap_err();
            let text = late.message();
            assert!(
                text.contains("it was cancelled") && text.contains(left),
                "{text}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_held_until_the_work_ends_not_until_the_client_goes() {
        let admission = admission();
        let mut held = Vec::new();
        for _ in 0..16 {
            let hold = async { Ok::<_, Infallible>(Call::of_this_task().unwrap()) };
            held.push(admission.pass(QUICK, hold).await.unwrap().unwrap());
        }
        let full = admission.pass(QUICK, never()).await.unwrap_err();
        assert!(full.message().contains("one of 16 calls"), "{full}");
        held.pop();
        let passed = admission
            .pass(QUICK, async { Ok::<_, Infallible>(()) })
            .await;
        assert!(passed.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_an_end() {
        let admission = admission();
        let tasks = crate::tasks::Tasks::default();
        for _ in 0..16 + 64 {
            let admission = admission.clone();
            tasks.spawn(|_| async move { drop(admission.pass(QUICK, never()).await) });
        }
        // All of them get their turn before time goes on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let refused = admission.pass(QUICK, never()).await.unwrap_err();
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
