//! Clients that do not let go: a stop waits for calls, not for connections.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use layerd_integration::{Daemon, Scratch};
use layerd_proto::containerd::services::snapshots::v1::ListSnapshotsRequest;

pub(crate) fn assert_stops_soon(daemon: &mut Daemon, what: &str) {
    let start = Instant::now();
    daemon.stop();
    let took = start.elapsed();
    eprintln!("stop with {what}: {took:?}");
    // Calls that do not end keep it for the 30 s of stop_timeout_secs.
    assert!(took < Duration::from_secs(20), "{what}: {took:?}");
}

#[test]
fn root_idle_connections_do_not_keep_a_stop() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    let mut client = daemon.snapshots();
    client.prepare("k", "", &[]).unwrap();
    assert_stops_soon(&mut daemon, "a client that is asleep");
    daemon.restart();

    let silent = UnixStream::connect(daemon.socket()).unwrap();
    assert_stops_soon(&mut daemon, "a connection that says nothing");
    drop(silent);
    daemon.restart();

    let mut half = UnixStream::connect(daemon.socket()).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    assert_stops_soon(&mut daemon, "half a greeting");
    daemon.restart();

    let mut noise = UnixStream::connect(daemon.socket()).unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_stops_soon(&mut daemon, "another protocol");
    daemon.restart();
    assert_eq!(daemon.snapshots().names(&[]).unwrap(), ["k"]);
    crate::assert_quiet(&daemon);
}

#[test]
fn root_a_slow_reader_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let mut daemon = Daemon::start(scratch.path());
    let mut client = daemon.snapshots();
    let value = "v".repeat(4000);
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    let labels: Vec<_> = names.iter().map(|n| (n.as_str(), value.as_str())).collect();
    for n in 0..40 {
        client.view(&n.to_string(), "", &labels).unwrap();
    }
    let mut reader = daemon.snapshots();
    let stream = reader.call(async |client| {
        let listed = client.list(ListSnapshotsRequest::default()).await;
        let mut stream = listed.unwrap().into_inner();
        stream.message().await.unwrap().expect("there are some");
        stream
    });
    assert_stops_soon(&mut daemon, "a list half read");
    drop(stream);
    daemon.restart();
    assert_eq!(daemon.snapshots().list().len(), 40);
}

/// Deletion of a large layer is broken off, and goes on after the restart.
#[test]
fn root_a_large_removal_does_not_keep_a_stop() {
    let scratch = Scratch::new();
    let mut daemon = crate::without_trash(&scratch);
    let mut client = daemon.snapshots();
    let mounts = client.prepare("large", "", &[]).unwrap();
    let top = std::path::Path::new(&mounts[0].source);
    for folder in 0..60 {
        let folder = top.join(folder.to_string());
        std::fs::create_dir(&folder).unwrap();
        for file in 0..500 {
            std::fs::File::create(folder.join(file.to_string())).unwrap();
        }
    }
    client.remove("large").unwrap();
    drop(client);
    assert_stops_soon(&mut daemon, "30000 files to delete");
    daemon.restart();
    daemon.assert_empty();
    crate::assert_quiet(&daemon);
}
