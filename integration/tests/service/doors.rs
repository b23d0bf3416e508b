//! The socket, the root, and who else wants them.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Scratch, Tree};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::{config, refused};

const SERVICES: [&str; 2] = [
    "containerd.services.snapshots.v1.Snapshots",
    "layerd.v1.Admin",
];

fn block_on<T>(calls: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(calls)
}

#[test]
fn root_health_says_serving() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    block_on(async {
        let mut client = HealthClient::new(channel(daemon.socket().to_owned()));
        for service in SERVICES.iter().chain(&["", "layerd.v1.Volumes"]) {
            let service = (*service).to_owned();
            let reply = client
                .check(HealthCheckRequest {
                    service: service.clone(),
                })
                .await;
            let status = reply.unwrap().into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "{service:?}");
        }
        let unknown = HealthCheckRequest {
            service: "nope".into(),
        };
        let status = client.check(unknown).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    });
}

#[test]
fn root_reflection_lists_and_describes_our_services() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    let ask = |message: MessageRequest| {
        block_on(async {
            let mut client = ServerReflectionClient::new(channel(daemon.socket().to_owned()));
            let request = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            let replies = client
                .server_reflection_info(tokio_stream::once(request))
                .await;
            let reply = replies.unwrap().into_inner().next().await.unwrap().unwrap();
            reply.message_response.unwrap()
        })
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new()))
    else {
        panic!("not a list of services");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
        assert!(names.contains(service), "{service} is not among {names:?}");
        let described = ask(MessageRequest::FileContainingSymbol((*service).to_owned()));
        assert!(
            matches!(&described, MessageResponse::FileDescriptorResponse(files)
                if !files.file_descriptor_proto.is_empty()),
            "{service}: {described:?}"
        );
    }
}

fn access(path: &Path) -> (u32, u32) {
    let meta = std::fs::metadata(path).unwrap();
    assert!(meta.file_type().is_socket());
    (meta.permissions().mode() & 0o7777, meta.gid())
}

#[test]
fn root_the_socket_has_the_configured_mode_and_group() {
    for (text, wanted) in [
        ("", (0o600, 0)),
        ("[socket]\nmode = \"0660\"\ngroup = \"daemon\"", (0o660, 1)),
        ("[socket]\nmode = \"0666\"\ngroup = \"4321\"", (0o666, 4321)),
    ] {
        let scratch = Scratch::new();
        let [name, file] = config(scratch.path(), text);
        let daemon = Daemon::start_with(scratch.path(), &[&name, &file]);
        assert_eq!(access(daemon.socket()), wanted, "{text}");
        let mode = |name: &str| {
            let meta = std::fs::metadata(daemon.root().join(name)).unwrap();
            meta.permissions().mode() & 0o777
        };
        for name in ["", "l", "w", "t", "m", "meta"] {
            assert_eq!(mode(name) & 0o077, 0, "{name:?} is root's alone");
        }
    }
}

#[test]
fn root_the_socket_of_a_dead_daemon_is_replaced() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    daemon.snapshots().prepare("k", "", &[]).unwrap();
    daemon.kill9();
    assert!(daemon.socket().exists(), "a kill leaves it behind");
    assert!(UnixStream::connect(daemon.socket()).is_err());
    daemon.restart();
    assert_eq!(daemon.snapshots().names(&[]).unwrap(), ["k"]);
    daemon.stop();
    assert!(!daemon.socket().exists(), "a stop takes it away");
    crate::assert_quiet(&daemon);
}

#[test]
fn root_a_file_in_place_of_the_socket_is_left_alone() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("socket");
    std::fs::write(&socket, "precious").unwrap();
    let said = refused(&scratch.path().join("root"), &socket, &[]);
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
fn root_the_socket_of_a_live_process_is_refused() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    daemon.snapshots().prepare("k", "", &[]).unwrap();
    let said = refused(&scratch.path().join("other"), daemon.socket(), &[]);
    assert!(said.contains("is served by another process"), "{said}");
    assert_eq!(daemon.snapshots().names(&[]).unwrap(), ["k"]);
    crate::assert_quiet(&daemon);
}

/// Every path below a directory.
fn paths(dir: &Path) -> Vec<String> {
    Tree::read(dir).0.into_keys().collect()
}

#[test]
fn root_a_second_daemon_on_one_root_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.path().join("config.toml");
    std::fs::write(&file, "[overlayfs]\nspare_layers = 0\n").unwrap();
    let mut daemon = Daemon::start_with(scratch.path(), &["--config", file.to_str().unwrap()]);
    let mut client = daemon.snapshots();
    client.committed("base", "").unwrap();
    client.prepare("k", "base", &[]).unwrap();
    drop(client);
    let before = paths(daemon.root());
    let lock = std::fs::read(daemon.root().join("meta/lock")).unwrap();
    let socket = scratch.path().join("second.sock");
    for _ in 0..3 {
        let said = refused(daemon.root(), &socket, &[]);
        assert!(
            said.contains(&daemon.pid().to_string()),
            "it names who holds it: {said}"
        );
        assert!(!socket.exists());
        assert_eq!(paths(daemon.root()), before);
        assert_eq!(
            std::fs::read(daemon.root().join("meta/lock")).unwrap(),
            lock
        );
    }
    assert_eq!(daemon.snapshots().names(&[]).unwrap(), ["base", "k"]);
    daemon.snapshots().prepare("more", "base", &[]).unwrap();
    daemon.stop();
    crate::assert_quiet(&daemon);
}

#[test]
fn root_a_root_of_a_newer_format_is_refused() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    daemon.snapshots().committed("base", "").unwrap();
    daemon.stop();
    let format = daemon.root().join("meta/format");
    let ours = std::fs::read_to_string(&format).unwrap();
    for newer in ["999\n", "2\n"] {
        std::fs::write(&format, newer).unwrap();
        // Who held the lock last is noted before anything is looked at.
        let lock = daemon.root().join("meta/lock");
        std::fs::write(&lock, "").unwrap();
        let before = Tree::read(daemon.root());
        let said = refused(daemon.root(), &scratch.path().join("s"), &[]);
        assert!(
            said.contains("format") && said.contains("newer"),
            "{newer:?}: {said}"
        );
        std::fs::write(&lock, "").unwrap();
        Tree::read(daemon.root()).assert_equals(&before);
    }
    std::fs::write(&format, ours).unwrap();
    daemon.restart();
    assert_eq!(daemon.snapshots().names(&[]).unwrap(), ["base"]);
}
