//! Calls, made by several clients at once over one connection, as containerd makes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use layerd_integration::snapshots::channel;
use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use layerd_proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, ViewSnapshotRequest,
};
use layerd_proto::containerd::types::Mount;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::stats::Times;

type Client = SnapshotsClient<Channel>;

/// A call on the `i`-th snapshot of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes the active snapshot `a-i` on the base.
    Prepare,
    /// Asks how to mount it.
    Mounts,
    /// Describes it.
    Stat,
    /// Lists all there are.
    List,
    /// Gives it a label.
    Update,
    /// Commits it as `c-i`.
    Commit,
    /// Makes the view `v-i` of the base.
    View,
    /// Removes the view `v-i`.
    RemoveView,
    /// Removes the committed `c-i`.
    Remove,
}

impl Op {
    /// What tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Mounts => "mounts",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Update => "update",
            Self::Commit => "commit",
            Self::View => "view",
            Self::RemoveView => "remove (view)",
            Self::Remove => "remove (committed)",
        }
    }

    async fn call(self, client: &mut Client, base: String, i: usize) -> Result<(), Status> {
        let (active, committed, view) = (format!("a-{i}"), format!("c-{i}"), format!("v-{i}"));
        match self {
            Self::Prepare => client.prepare(prepare(active, base)).await.map(drop),
            Self::Mounts => client.mounts(mounts(active)).await.map(drop),
            Self::Stat => client.stat(stat(active)).await.map(drop),
            Self::List => list(client).await.map(drop),
            Self::Update => client.update(update(active)).await.map(drop),
            Self::Commit => client.commit(commit(active, committed)).await.map(drop),
            Self::View => client.view(view_of(view, base)).await.map(drop),
            Self::RemoveView => client.remove(remove(view)).await.map(drop),
            Self::Remove => client.remove(remove(committed)).await.map(drop),
        }
    }
}

/// What a run took.
#[derive(Debug)]
pub(crate) struct Load {
    wall: Duration,
    count: usize,
    times: Times,
}

impl Load {
    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.count).unwrap_or(u32::MAX)) / self.wall.as_secs_f64()
    }

    /// What each call took.
    pub(crate) fn into_times(self) -> Times {
        self.times
    }
}

/// A connection to a target.
#[derive(Debug)]
pub(crate) struct Caller {
    runtime: Runtime,
    client: Client,
}

impl Caller {
    /// The connection is made by the first call, which is one that does not count: `base` or
    /// `prepare`.
    pub(crate) fn connect(socket: PathBuf) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("descriptors are left");
        let channel = runtime.block_on(async { channel(socket) });
        // containerd's limit.
        let client = SnapshotsClient::new(channel).max_decoding_message_size(16 << 20);
        Self { runtime, client }
    }

    /// Makes a committed base of `height` empty layers and answers its name; none for none.
    pub(crate) fn base(&mut self, height: usize) -> String {
        let mut top = String::new();
        for layer in 0..height {
            let (key, name) = (format!("base-active-{layer}"), format!("base-{layer}"));
            self.prepare(&key, &top);
            self.commit(&key, &name);
            top = name;
        }
        top
    }

    /// Makes an active snapshot and answers its upper directory.
    pub(crate) fn prepare(&mut self, key: &str, parent: &str) -> PathBuf {
        let request = prepare(key.into(), parent.into());
        let answer = self.must("prepare", async |client| client.prepare(request).await);
        upper(&answer.into_inner().mounts)
    }

    /// The upper directory of an active snapshot.
    pub(crate) fn upper(&mut self, key: &str) -> PathBuf {
        let request = mounts(key.into());
        let answer = self.must("mounts", async |client| client.mounts(request).await);
        upper(&answer.into_inner().mounts)
    }

    /// Commits and answers what the call took.
    pub(crate) fn commit(&mut self, key: &str, name: &str) -> Duration {
        let request = commit(key.into(), name.into());
        let start = Instant::now();
        self.must("commit", async |client| client.commit(request).await);
        start.elapsed()
    }

    pub(crate) fn remove(&mut self, key: &str) {
        let request = remove(key.into());
        self.must("remove", async |client| client.remove(request).await);
    }

    /// Makes `count` calls, `clients` at a time.
    pub(crate) fn drive(&mut self, op: Op, base: &str, clients: usize, count: usize) -> Load {
        let next = Arc::new(AtomicUsize::new(0));
        let client = &self.client;
        self.runtime.block_on(async {
            let mut all = JoinSet::new();
            let start = Instant::now();
            for _ in 0..clients {
                let client = client.clone();
                all.spawn(one_client(op, client, base.to_owned(), next.clone(), count));
            }
            let mut times = Times::default();
            while let Some(done) = all.join_next().await {
                times.extend(done.expect("a client does not panic but with its call"));
            }
            Load {
                wall: start.elapsed(),
                count,
                times,
            }
        })
    }

    fn must<T>(
        &mut self,
        what: &str,
        call: impl AsyncFnOnce(&mut Client) -> Result<T, Status>,
    ) -> T {
        let answer = self.runtime.block_on(call(&mut self.client));
        answer.unwrap_or_else(|status| panic!("{what}: {status}"))
    }
}

async fn one_client(
    op: Op,
    mut client: Client,
    base: String,
    next: Arc<AtomicUsize>,
    count: usize,
) -> Times {
    let mut times = Times::default();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= count {
            return times;
        }
        let start = Instant::now();
        let answer = op.call(&mut client, base.clone(), i).await;
        times.push(start.elapsed());
        answer.unwrap_or_else(|status| panic!("{} {i}: {status}", op.name()));
    }
}

/// Where a snapshot's own files go: the source of a bind mount, or overlayfs's upperdir.
fn upper(mounts: &[Mount]) -> PathBuf {
    let mount = mounts.first().expect("there is a mount");
    let option = |option: &String| option.strip_prefix("upperdir=").map(PathBuf::from);
    let bind = || Path::new(&mount.source).to_owned();
    mount.options.iter().find_map(option).unwrap_or_else(bind)
}

async fn list(client: &mut Client) -> Result<usize, Status> {
    let request = ListSnapshotsRequest {
        snapshotter: snapshotter(),
        ..Default::default()
    };
    let mut stream = client.list(request).await?.into_inner();
    let mut count = 0;
    while let Some(part) = stream.message().await? {
        count += part.info.len();
    }
    Ok(count)
}

fn prepare(key: String, parent: String) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: snapshotter(),
        key,
        parent,
        ..Default::default()
    }
}

fn view_of(key: String, parent: String) -> ViewSnapshotRequest {
    ViewSnapshotRequest {
        snapshotter: snapshotter(),
        key,
        parent,
        ..Default::default()
    }
}

fn mounts(key: String) -> MountsRequest {
    MountsRequest {
        snapshotter: snapshotter(),
        key,
    }
}

fn stat(key: String) -> StatSnapshotRequest {
    StatSnapshotRequest {
        snapshotter: snapshotter(),
        key,
    }
}

fn update(key: String) -> UpdateSnapshotRequest {
    let labels = [("layerd-bench".to_owned(), "measured".to_owned())];
    UpdateSnapshotRequest {
        snapshotter: snapshotter(),
        info: Some(Info {
            name: key,
            labels: labels.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["labels.layerd-bench".into()],
        }),
    }
}

fn commit(key: String, name: String) -> CommitSnapshotRequest {
    CommitSnapshotRequest {
        snapshotter: snapshotter(),
        name,
        key,
        ..Default::default()
    }
}

fn remove(key: String) -> RemoveSnapshotRequest {
    RemoveSnapshotRequest {
        snapshotter: snapshotter(),
        key,
    }
}

/// containerd names the snapshotter it means in each call; one that has a socket of its own does
/// not look.
fn snapshotter() -> String {
    "layerd".into()
}
