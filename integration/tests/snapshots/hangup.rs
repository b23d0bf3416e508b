//! Clients that go away in the middle of a call: it is done whole or not at all, and soon over.

use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::wire::prepare;
use layerd_proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, RemoveSnapshotRequest,
};
use tonic::{Code, Request};

use crate::World;

/// A call with very little time, and then without a connection.
#[derive(Debug, Clone, Copy)]
enum Leave {
    /// The deadline travels with the call, as containerd's do.
    Deadline,
    /// The connection goes.
    Disconnect,
}

const LEAVES: [Leave; 2] = [Leave::Deadline, Leave::Disconnect];

/// Between "not even sent" and "answered".
fn patience(round: u64) -> Duration {
    Duration::from_micros(50 + round * 97 % 3000)
}

/// Makes one call and leaves. Answers whether the daemon said that it was done.
fn leave<M: Send + 'static, R>(
    world: &World,
    leave: Leave,
    round: u64,
    message: M,
    call: impl AsyncFnOnce(
        &mut layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient<
            tonic::transport::Channel,
        >,
        Request<M>,
    ) -> Result<R, tonic::Status>,
) -> bool {
    let mut client = world.daemon.snapshots();
    let mut request = Request::new(message);
    client.call(async |client| match leave {
        Leave::Deadline => {
            request.set_timeout(patience(round));
            match call(client, request).await {
                Ok(_) => true,
                Err(status) => {
                    let codes = [Code::Cancelled, Code::DeadlineExceeded];
                    assert!(codes.contains(&status.code()), "{status:?}");
                    false
                }
            }
        }
        Leave::Disconnect => {
            let answer = tokio::time::timeout(patience(round), call(client, request)).await;
            answer.is_ok_and(|answer| answer.is_ok())
        }
    })
}

/// Waits until the fate of a prepared key is settled: it can be used for something new.
fn settle(world: &mut World, key: &str) -> bool {
    let mut existed = false;
    wait_until(
        "a key to be usable",
        Duration::from_secs(10),
        || match world.client.prepare(key, "base", &[]) {
            Ok(_) => {
                world.client.remove(key).unwrap();
                true
            }
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
                if world.client.stat(key).is_ok() {
                    existed = true;
                    world.client.mounts(key).unwrap();
                    let upper = crate::upper(&world.client.mounts(key).unwrap()).to_owned();
                    assert!(upper.is_dir(), "a record has its directory");
                    world.client.remove(key).unwrap();
                }
                false
            }
        },
    );
    existed
}

#[test]
fn root_prepare_survives_a_client_that_leaves() {
    let mut world = World::new();
    world.client.committed("base", "").unwrap();
    let mut fates = [0; 2];
    for how in LEAVES {
        for round in 0..60 {
            let key = format!("{how:?} {round}");
            let message = prepare(&key, "base", &[]);
            let done = leave(&world, how, round, message, async |client, request| {
                client.prepare(request).await
            });
            let existed = settle(&mut world, &key);
            assert!(existed || !done, "{key}: acknowledged, then absent");
            fates[usize::from(existed)] += 1;
        }
    }
    println!("absent, present: {fates:?}");
    assert!(fates[1] > 0, "no call outlived its client: {fates:?}");
    world.client.remove("base").unwrap();
    world.daemon.assert_empty();
    world.assert_no_errors_logged();
}

#[test]
fn root_commit_and_remove_survive_a_client_that_leaves() {
    let mut world = World::new();
    world.client.committed("base", "").unwrap();
    for how in LEAVES {
        for round in 0..40 {
            world.client.prepare("key", "base", &[]).unwrap();
            let message = CommitSnapshotRequest {
                name: "name".into(),
                key: "key".into(),
                ..CommitSnapshotRequest::default()
            };
            leave(&world, how, round, message, async |client, request| {
                client.commit(request).await
            });
            // containerd repeats it; whatever became of the first, the second ends it.
            world.client.commit("name", "key", &[]).unwrap();
            let message = RemoveSnapshotRequest {
                key: "name".into(),
                ..RemoveSnapshotRequest::default()
            };
            let done = leave(&world, how, round, message, async |client, request| {
                client.remove(request).await
            });
            match world.client.remove("name") {
                Ok(()) => assert!(!done, "removed twice"),
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
            }
            assert_eq!(world.client.names(&[]).unwrap(), ["base"]);
        }
    }
    world.client.remove("base").unwrap();
    world.daemon.assert_empty();
    world.assert_no_errors_logged();
}
