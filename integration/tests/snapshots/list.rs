//! List: portions, consistency, and readers that are slow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use layerd_integration::wire::prepare;
use layerd_proto::containerd::services::snapshots::v1::{
    ListSnapshotsRequest, ListSnapshotsResponse, ViewSnapshotRequest,
};
use tonic::Streaming;

use crate::World;

const MANY: usize = 20_000;

#[test]
fn root_a_message_holds_at_most_100_entries() {
    let mut world = World::new();
    let client = &mut world.client;
    assert_eq!(client.list_messages(&[]).unwrap(), [], "none, none at all");
    for n in 0..250 {
        client.view(&n.to_string(), "", &[]).unwrap();
        let messages = client.list_messages(&[]).unwrap();
        let sizes: Vec<usize> = messages.iter().map(|message| message.info.len()).collect();
        let total = n + 1;
        let mut wanted = vec![100; total / 100];
        wanted.extend(Some(total % 100).filter(|rest| *rest > 0));
        assert_eq!(sizes, wanted);
    }
    assert_eq!(client.list_messages(&["name==nope"]).unwrap(), []);
    assert_eq!(client.list_messages(&["kind==active"]).unwrap(), []);
    let half = client.list_messages(&["name~=^1"]).unwrap();
    assert_eq!(
        half.iter().map(|m| m.info.len()).collect::<Vec<_>>(),
        [100, 11]
    );
}

/// A message of 100 entries with all the labels they may have would pass gRPC's limit.
#[test]
fn root_labels_do_not_make_messages_too_large() {
    let mut world = World::new();
    let value = "v".repeat(4000);
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    let labels: Vec<_> = names.iter().map(|n| (n.as_str(), value.as_str())).collect();
    for n in 0..110 {
        world.client.view(&n.to_string(), "", &labels).unwrap();
    }
    let messages = world.client.list_messages(&[]).unwrap();
    let entries: usize = messages.iter().map(|message| message.info.len()).sum();
    assert_eq!(
        entries,
        110,
        "26 MB of labels in {} messages",
        messages.len()
    );
}

/// Makes `count` views of `parent`, many at a time.
fn make_views(world: &World, parent: &str, count: usize) {
    let clients: usize = 64;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let mut client = world.daemon.snapshots();
            scope.spawn(move || {
                client.call(async |client| {
                    let mut at = thread;
                    let mut calls = tokio::task::JoinSet::new();
                    while at < count || !calls.is_empty() {
                        while at < count && calls.len() < clients {
                            let message = ViewSnapshotRequest {
                                key: format!("{at:05}"),
                                parent: parent.into(),
                                labels: [("label".into(), "x".repeat(100))].into(),
                                ..ViewSnapshotRequest::default()
                            };
                            let mut client = client.clone();
                            calls.spawn(async move { client.view(message).await.map(drop) });
                            at += 4;
                        }
                        let done = calls.join_next().await.expect("some are under way");
                        done.unwrap().unwrap();
                    }
                });
            });
        }
    });
}

async fn drain(stream: &mut Streaming<ListSnapshotsResponse>, names: &mut BTreeSet<String>) {
    while let Some(message) = stream.message().await.unwrap() {
        assert!((1..=100).contains(&message.info.len()));
        for info in message.info {
            assert!(names.insert(info.name.clone()), "{} twice", info.name);
        }
    }
}

/// A list is that of the moment of the request, and delays no other call while it is not read.
#[test]
fn root_a_slow_reader_blocks_no_call() {
    let mut world = World::new();
    world.client.committed("base", "").unwrap();
    let start = Instant::now();
    make_views(&world, "base", MANY);
    println!("{MANY} views made in {:?}", start.elapsed());
    let mut reader = world.daemon.snapshots();
    let mut names = BTreeSet::new();
    let mut stream = reader.call(async |client| {
        let listed = client.list(ListSnapshotsRequest::default()).await;
        let mut stream = listed.unwrap().into_inner();
        let first = stream.message().await.unwrap().expect("there are some");
        names.extend(first.info.into_iter().map(|info| info.name));
        stream
    });
    let start = Instant::now();
    for n in 0..50 {
        world
            .client
            .prepare(&format!("new {n}"), "base", &[])
            .unwrap();
        world
            .client
            .remove(&format!("{:05}", MANY - 1 - n))
            .unwrap();
    }
    let calls = start.elapsed();
    assert!(
        calls < Duration::from_secs(10),
        "100 calls beside a slow reader: {calls:?}"
    );
    reader.call(async |_| drain(&mut stream, &mut names).await);
    assert_eq!(names.len(), MANY + 1, "those of the moment of the call");
    assert!(!names.iter().any(|name| name.starts_with("new")));
    assert_eq!(world.client.list().len(), MANY + 1);
    // A reader that goes away in the middle.
    reader.call(async |client| {
        let listed = client.list(ListSnapshotsRequest::default()).await;
        drop(listed.unwrap().into_inner().message().await);
    });
    drop(reader);
    world
        .client
        .call(async |client| client.prepare(prepare("last", "base", &[])).await)
        .unwrap();
    let start = Instant::now();
    world.stop_and_restart();
    println!("restart with {MANY}: {:?}", start.elapsed());
    assert_eq!(world.client.list().len(), MANY + 2);
    world.assert_no_errors_logged();
}
