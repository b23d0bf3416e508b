//! One trace holds what a client asks of layerd, what layerd does, and what it asks of containerd
//! for that.
//!
//! No release of containerd sends trace context to its proxy plugins yet (main does since July
//! 2026), and Debian's 1.7 joins no trace that comes over gRPC. So layerd's caller is played here,
//! and the containerd is 2.1.

use layerd_integration::collector::Arrived;
use layerd_integration::peers::Extra;
use layerd_integration::snapshots::channel;
use layerd_integration::{Collector, Containerd, Daemon, Scratch, Version};
use layerd_proto::containerd::services::diff::v1::DiffRequest;
use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use tonic::Request;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Makes a layer of a snapshot, which layerd sends to containerd's content store.
fn make_layer(daemon: &Daemon) {
    let mut client = daemon.snapshots();
    client.prepare("a", "", &[]).unwrap();
    client.commit("parent", "a", &[]).unwrap();
    let request = DiffRequest {
        left: client.view("v", "parent", &[]).unwrap(),
        right: client.prepare("b", "parent", &[]).unwrap(),
        r#ref: "layer".into(),
        ..DiffRequest::default()
    };
    let mut request = Request::new(request);
    let metadata = request.metadata_mut();
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("containerd-namespace", "layerd-test".parse().unwrap());
    let socket = daemon.socket().to_owned();
    client.call(async |_| {
        let mut client = DiffClient::new(channel(socket));
        client.diff(request).await.unwrap();
    });
}

#[test]
fn root_layerd_and_containerd_share_a_trace() {
    let scratch = Scratch::new();
    let (collector, port) = Collector::on_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let extra = Extra {
        variables: vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".into()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".into()),
        ],
        ..Extra::default()
    };
    let config = scratch.path().join("config.toml");
    let content = scratch.dir("c").join("containerd.sock");
    let text = format!(
        "[tracing]\nendpoint = \"{endpoint}\"\n[containerd]\naddress = \"{}\"\n",
        content.display()
    );
    std::fs::write(&config, text).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let mut daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
    let dir = scratch.dir("c");
    let _containerd = Containerd::start_with(Version::V2_1, &dir, daemon.socket(), &extra);
    make_layer(&daemon);
    daemon.stop();

    let write = "containerd.services.content.v1.Content/Write";
    let named = |all: &[Arrived], name: &str| all.iter().find(|one| one.span.name == name).cloned();
    let spans = collector.wait_for("containerd's spans", |all| named(all, write).is_some());
    let diff = named(&spans, "containerd.services.diff.v1.Diff/Diff").unwrap();
    let write = named(&spans, write).unwrap();
    assert_eq!(
        (diff.service.as_str(), diff.trace()),
        ("layerd", TRACE.into())
    );
    assert_eq!(
        (write.service.as_str(), write.trace()),
        ("containerd", TRACE.into())
    );
    assert_eq!(write.parent(), diff.id());
}
