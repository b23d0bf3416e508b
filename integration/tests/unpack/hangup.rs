//! Clients that go while a layer is on its way.

use std::time::Duration;

use layerd_integration::image::write_layer;
use layerd_integration::process::wait_until;
use layerd_integration::snapshots::channel;
use layerd_integration::{Daemon, Entry, Scratch};
use layerd_proto::layerd::v1::layers_client::LayersClient;
use layerd_proto::layerd::v1::{ApplyLayer, ApplyLayerRequest, ApplyLayerResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{daemon, moved};

type Answer = Result<Response<ApplyLayerResponse>, Status>;

fn first(key: &str) -> ApplyLayerRequest {
    ApplyLayerRequest {
        layer: Some(ApplyLayer {
            key: key.into(),
            ..ApplyLayer::default()
        }),
        data: Vec::new(),
    }
}

fn piece(data: &[u8]) -> ApplyLayerRequest {
    ApplyLayerRequest {
        layer: None,
        data: data.to_vec(),
    }
}

/// Sends half of a layer, and then does with the call what `meanwhile` says.
fn with_half<T>(
    daemon: &Daemon,
    layer: &[u8],
    meanwhile: impl AsyncFnOnce(mpsc::Sender<ApplyLayerRequest>, JoinSet<Answer>) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // Those of removed snapshots may still be there.
    let begun = || {
        let layers = std::fs::read_dir(daemon.root().join("l")).unwrap();
        let begun = layers.filter(|layer| layer.as_ref().unwrap().path().join("begin").exists());
        begun.count()
    };
    let before = begun();
    runtime.block_on(async {
        let mut client = LayersClient::new(channel(daemon.socket().to_owned()));
        let (sender, messages) = mpsc::channel(64);
        sender.send(first("a")).await.unwrap();
        for data in layer[..layer.len() / 2].chunks(1 << 16) {
            sender.send(piece(data)).await.unwrap();
        }
        let call = async move { client.apply(ReceiverStream::new(messages)).await };
        let mut calls = JoinSet::new();
        calls.spawn(call);
        while begun() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        meanwhile(sender, calls).await
    })
}

async fn ended(mut calls: JoinSet<Answer>) -> Answer {
    calls.join_next().await.unwrap().unwrap()
}

fn layer(scratch: &Scratch) -> Vec<u8> {
    let file = scratch.path().join("layer");
    let entries = [
        Entry::file("begin", "b"),
        Entry::file("big", vec![7; 2 << 20]),
        Entry::file("end", "e"),
    ];
    write_layer(&file, &entries);
    std::fs::read(file).unwrap()
}

/// A stop waits for all work, so it would not end in time if a thread were left.
#[test]
fn root_work_ends_when_its_client_goes() {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, "");
    let mut snapshots = daemon.snapshots();
    snapshots.prepare("a", "", &[]).unwrap();
    let layer = layer(&scratch);
    with_half(&daemon, &layer, async |_sender, mut calls| {
        calls.abort_all()
    });
    let limit = Duration::from_secs(10);
    wait_until("the work to end", limit, || {
        let refused = snapshots.commit("layer", "a", &[]).unwrap_err();
        refused.message().contains("part of a layer")
    });
    snapshots.remove("a").unwrap();
    assert_eq!(moved(&daemon), (0, 0));
    daemon.stop();
}

/// An incomplete stream is no layer, also where all its files arrived.
#[test]
fn root_a_stream_that_breaks_off_is_no_layer() {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, "");
    daemon.snapshots().prepare("a", "", &[]).unwrap();
    let layer = layer(&scratch);
    let answer = with_half(&daemon, &layer, async |sender, calls| {
        drop(sender);
        ended(calls).await
    });
    let status = answer.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let mut snapshots = daemon.snapshots();
    snapshots.commit("layer", "a", &[]).unwrap_err();
    snapshots.remove("a").unwrap();
    daemon.stop();
}

#[test]
fn root_a_removal_and_a_stop_end_the_work() {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, "");
    let mut snapshots = daemon.snapshots();
    snapshots.prepare("a", "", &[]).unwrap();
    let layer = layer(&scratch);
    let status = with_half(&daemon, &layer, async |sender, calls| {
        let socket = daemon.socket().to_owned();
        // A client of its own has a runtime of its own, on a thread of its own.
        let remove = move || layerd_integration::Snapshots::connect(&socket).remove("a");
        std::thread::spawn(remove).join().unwrap().unwrap();
        // The next piece wakes the reader, unless the call has ended by then.
        let _ = sender.send(piece(&[0; 1 << 16])).await;
        ended(calls).await.unwrap_err()
    });
    assert_eq!(status.code(), tonic::Code::NotFound, "{status}");

    snapshots.prepare("a", "", &[]).unwrap();
    let pid = daemon.pid();
    let status = with_half(&daemon, &layer, async |sender, calls| {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        while sender.send(piece(&[0; 1 << 16])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended(calls).await.unwrap_err()
    });
    // A client that still sends when the daemon ends may find the connection closed first; only such an
    // error has a source.
    let is_closed = std::error::Error::source(&status).is_some();
    assert!(
        status.code() == tonic::Code::Unavailable || is_closed,
        "{status}"
    );
    daemon.stop();
}
