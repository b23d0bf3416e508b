//! Traces: a caller's trace goes on in layerd, and no collector, however broken, is in the way.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use layerd_integration::collector::Arrived;
use layerd_integration::metrics::{get, value};
use layerd_integration::process::wait_until;
use layerd_integration::{Collector, Daemon, Scratch, Snapshots, wire};
use layerd_proto::containerd::services::snapshots::v1::StatSnapshotRequest;
use tonic::{Request, Status};

const SERVICE: &str = "containerd.services.snapshots.v1.Snapshots";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(scratch: &Scratch, endpoint: &str) -> Daemon {
    traced_and(scratch, endpoint, "")
}

fn traced_and(scratch: &Scratch, endpoint: &str, more: &str) -> Daemon {
    let text = format!("[tracing]\nendpoint = \"{endpoint}\"\nservice_name = \"node\"\n{more}");
    let [name, file] = super::config(scratch.path(), &text);
    Daemon::start_with(scratch.path(), &[&name, &file])
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A request whose sender traces it.
fn sent_with<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    metadata.insert("tracestate", "vendor=1".parse().unwrap());
    metadata.insert("containerd-namespace", "k8s.io".parse().unwrap());
    request
}

fn prepare(client: &mut Snapshots, key: &str, traceparent: &str) -> Result<(), Status> {
    let request = sent_with(wire::prepare(key, "", &[]), traceparent);
    let done = client.call(async |client| client.prepare(request).await);
    done.map(drop)
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// The only span of this method.
fn of<'a>(spans: &'a [Arrived], method: &str) -> &'a Arrived {
    let name = format!("{SERVICE}/{method}");
    let found: Vec<_> = spans.iter().filter(|one| one.span.name == name).collect();
    assert_eq!(found.len(), 1, "{method} in {spans:#?}");
    found[0]
}

#[test]
fn root_a_call_goes_on_in_its_callers_trace() {
    let scratch = Scratch::new();
    let (collector, port) = Collector::on_port();
    let mut daemon = traced(&scratch, &format!("http://127.0.0.1:{port}"));
    let mut client = daemon.snapshots();
    prepare(&mut client, "ns/1/key", &parent("01")).unwrap();
    client.stat("ns/1/missing").unwrap_err();
    daemon.stop();

    let spans = collector.spans();
    let call = of(&spans, "Prepare");
    assert_eq!(call.service, "node");
    assert_eq!((call.trace(), call.parent()), (TRACE.into(), PARENT.into()));
    assert_eq!(call.span.trace_state, "vendor=1");
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", SERVICE),
        ("rpc.method", "Prepare"),
        ("rpc.grpc.status_code", "0"),
        ("layerd.snapshot.key", "ns/1/key"),
        ("layerd.namespace", "k8s.io"),
    ] {
        assert_eq!(call.attribute(key).as_deref(), Some(value), "{key}");
    }
    let below: Vec<_> = spans.iter().filter(|s| s.parent() == call.id()).collect();
    for stage in [
        "waiting for a thread",
        "making the directories of the layer",
        // With its record, or before it: that depends on the file system.
        "waiting for directories",
    ] {
        let mut below = below.iter();
        let inner = below.find(|inner| inner.span.name.starts_with(stage));
        let inner = inner.unwrap_or_else(|| panic!("no {stage:?} in {below:#?}"));
        assert_eq!(inner.trace(), TRACE);
        assert!(inner.span.start_time_unix_nano >= call.span.start_time_unix_nano);
        assert!(inner.span.end_time_unix_nano <= call.span.end_time_unix_nano);
    }
    let stat = of(&spans, "Stat");
    assert_eq!(stat.attribute("layerd.namespace").as_deref(), Some("ns"));
    assert_eq!(stat.parent(), "", "it begins a trace of its own");
    assert_eq!(stat.attribute("rpc.grpc.status_code").as_deref(), Some("5"));
    let failed = stat.span.status.as_ref().map_or(0, |status| status.code);
    assert_eq!(failed, 0, "a client's mistake is no error of the server");
    super::assert_quiet(&daemon);
}

#[test]
fn root_callers_say_what_is_traced_and_nonsense_says_nothing() {
    let scratch = Scratch::new();
    let path = scratch.path().join("otel.sock");
    let collector = Collector::on_socket(&path);
    let mut daemon = traced_and(&scratch, &unix(&path), "sampling_ratio = 0.0\n");
    let mut client = daemon.snapshots();
    prepare(&mut client, "not sampled", &parent("00")).unwrap();
    prepare(&mut client, "nonsense", "00-nonsense").unwrap();
    prepare(&mut client, "version", &parent("01").replace("00-", "ff-")).unwrap();
    prepare(&mut client, "sampled", &parent("01")).unwrap();
    daemon.stop();
    let spans = collector.spans();
    let call = of(&spans, "Prepare");
    assert_eq!(call.attribute("layerd.snapshot.key").unwrap(), "sampled");
    assert_eq!(call.attribute("layerd.namespace").unwrap(), "k8s.io");
}

#[test]
fn root_a_collector_that_is_away_is_not_missed() {
    const CALLS: u32 = 6000;
    let scratch = Scratch::new();
    let path = scratch.path().join("otel.sock");
    let page = scratch.path().join("metrics.sock");
    let metrics = format!("[metrics]\naddress = \"{}\"\n", unix(&page));
    let daemon = traced_and(&scratch, &unix(&path), &metrics);
    let mut client = daemon.snapshots();
    client.call(async |client| {
        for _ in 0..CALLS {
            let message = StatSnapshotRequest {
                key: "missing".into(),
                ..StatSnapshotRequest::default()
            };
            client.stat(message).await.unwrap_err();
        }
    });
    let complaints = || daemon.log().matches("traces cannot be sent").count();
    let limit = Duration::from_secs(15);
    wait_until("a warning", limit, || complaints() > 0);
    let collector = Collector::on_socket(&path);
    let count = |name: &str| {
        let (_, page) = get(&page, "/metrics");
        let found = page.contains(name);
        if found {
            value(&page, &format!("{name} "))
        } else {
            0.0
        }
    };
    wait_until("every span to be sent or dropped", limit, || {
        let dropped = count("layerd_trace_spans_dropped_total");
        let sent = count("layerd_trace_spans_sent_total");
        assert!(dropped > 0.0, "the queue has an end");
        sent + dropped == f64::from(CALLS)
    });
    let sent = count("layerd_trace_spans_sent_total");
    assert_eq!(
        sent,
        f64::from(u32::try_from(collector.spans().len()).unwrap())
    );
    assert_eq!(complaints(), 1);
    assert!(daemon.log().contains("traces are sent again"));
}

#[test]
fn root_a_collector_that_hangs_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let path = scratch.path().join("otel.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let mut daemon = traced(&scratch, &unix(&path));
    let mut client = daemon.snapshots();
    client.prepare("key", "", &[]).unwrap();
    super::stop::assert_stops_soon(&mut daemon, "a collector that hangs");
    assert!(daemon.log().contains("the last traces could not be sent"));
}

#[test]
fn root_an_endpoint_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let text = "[tracing]\nendpoint = \"localhost:4317\"\n";
    let [name, file] = super::config(scratch.path(), text);
    let output = super::run(&[&name, &file]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("layerd: setting `tracing.endpoint` is \"localhost:4317\": must be"),
        "{said}"
    );
}
