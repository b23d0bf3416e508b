//! The socket itself, and calls that meet.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use layerd_proto::csi::v1::controller_client::ControllerClient;
use layerd_proto::csi::v1::{self as pb};
use tonic::Code;

use layerd_integration::snapshots::channel;

use super::client::{Client, create};
use super::world::World;

#[test]
fn root_a_stale_socket_is_replaced_and_a_living_one_never() {
    let mut world = World::new();
    let mode = fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.crash();
    world.create(&create("pvc-1")).unwrap();
    world.stop();
    assert!(!world.socket().exists(), "it is removed at the end");
    let living = UnixListener::bind(world.socket()).unwrap();
    let path = |name: &str| world.path().join(name);
    // Another layerd serves everything else, says why it does not serve CSI, and leaves the socket alone.
    let mut other = Command::new(layerd_integration::scratch::profile().join("layerd"));
    other
        .arg("--root")
        .arg(path("other"))
        .arg("--socket")
        .arg(path("other.sock"));
    other.arg("--csi-socket").arg(world.socket());
    let mut server = layerd_integration::process::Server::start(&other, &path("other.log"));
    server.wait_for(&path("other.sock"));
    let deadline = std::time::Duration::from_secs(30);
    layerd_integration::process::wait_until("the refusal", deadline, || {
        server.log().contains("is served by another process")
    });
    assert!(
        fs::metadata(world.socket())
            .unwrap()
            .file_type()
            .is_socket()
    );
    drop(living);
    server.end(nix::sys::signal::Signal::SIGTERM, deadline);
}

#[test]
fn root_any_authority_is_taken() {
    // As gRPC's C core sends it: the percent-encoded path of the socket, without indexing.
    const AUTHORITY: &[u8] = b"%2Fvar%2Flib%2Fkubelet%2Fplugins%2Fcsi.layerd.dev%2Fcsi.sock";
    let world = World::new();
    let path = b"/csi.v1.Identity/GetPluginInfo";
    let text = |value: &[u8]| [&[u8::try_from(value.len()).unwrap()], value].concat();
    let header = |index: u8, value: &[u8]| [vec![index], text(value)].concat();
    let named = |name: &[u8], value: &[u8]| [vec![0], text(name), text(value)].concat();
    let block = [
        vec![0x83, 0x86],
        header(0x04, path),
        header(0x01, AUTHORITY),
        named(b"content-type", b"application/grpc"),
        named(b"te", b"trailers"),
    ]
    .concat();
    let frame = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], body].concat()
    };
    let mut socket = UnixStream::connect(world.socket()).unwrap();
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, &[0; 5]),
    ];
    socket.write_all(&sent.concat()).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let mut answer: Vec<u8> = Vec::new();
    let mut bytes = [0; 4096];
    while !answer.windows(14).any(|part| part == b"csi.layerd.dev") {
        let read = socket.read(&mut bytes).unwrap();
        assert!(read > 0, "{answer:?}");
        answer.extend(&bytes[..read]);
    }
}

#[test]
fn root_calls_that_meet_make_one_volume_and_are_aborted_or_answered() {
    let world = World::new();
    let ask = || {
        let mut client = Client::connect(&world.socket());
        client.run(async |client| client.controller.create_volume(create("pvc-1")).await)
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..32).map(|_| scope.spawn(ask)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let mut ids = std::collections::BTreeSet::new();
    for answer in answers {
        match answer {
            Ok(answer) => drop(ids.insert(answer.volume.unwrap().volume_id)),
            Err(failed) => failed.is(Code::Aborted, "pvc-1"),
        }
    }
    assert_eq!(ids.len(), 1, "one volume for all callers");
}

#[test]
fn root_a_client_that_hangs_up_leaves_no_lock() {
    let mut world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..10 {
        runtime.block_on(async {
            let mut client = ControllerClient::new(channel(world.socket()));
            let call = client.create_volume(create("pvc-1"));
            let _ = tokio::time::timeout(std::time::Duration::from_millis(2), call).await;
        });
    }
    let deadline = std::time::Duration::from_secs(10);
    let mut volume = None;
    layerd_integration::process::wait_until("the call to be answered", deadline, || {
        let call = world
            .client
            .run(async |client| client.controller.create_volume(create("pvc-1")).await);
        match call {
            Ok(answer) => volume = answer.volume,
            Err(failed) => failed.is(Code::Aborted, "pvc-1"),
        }
        volume.is_some()
    });
    let list = world.client.run(async |client| {
        client
            .controller
            .list_volumes(pb::ListVolumesRequest::default())
            .await
    });
    assert_eq!(list.unwrap().entries.len(), 1);
}
