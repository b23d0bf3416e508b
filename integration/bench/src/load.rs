//! Calls, made by several clients at once over one connection, as containerd makes them.

mod fill;
mod op;
mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use layerd_integration::snapshots::channel;
use layerd_proto::containerd::types::Mount;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::Status;

use crate::stats::{Times, count};
use op::Client;

pub(crate) use op::Op;

/// Calls to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) op: Op,
    /// The parent of what is prepared.
    pub(crate) base: &'a str,
    /// Calls at a time.
    pub(crate) clients: usize,
    /// Calls in all.
    pub(crate) calls: usize,
    /// Snapshots that there are: reading calls go round among them.
    pub(crate) made: usize,
}

/// Times of a run.
#[derive(Debug)]
pub(crate) struct Load {
    wall: Duration,
    count: usize,
    times: Times,
}

impl Load {
    /// All calls in `wall`, and each of them in its time.
    pub(crate) fn new(wall: Duration, times: Times) -> Self {
        let count = times.count();
        Self { wall, count, times }
    }

    /// Number of calls.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.count) / self.wall.as_secs_f64()
    }

    /// Times of all calls.
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
        let client = Client::new(channel).max_decoding_message_size(16 << 20);
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
        upper(&self.prepare_mounts(key, parent))
    }

    /// Makes an active snapshot and answers its mounts.
    pub(crate) fn prepare_mounts(&mut self, key: &str, parent: &str) -> Vec<Mount> {
        let request = request::prepare(key, parent);
        let answer = self.must("prepare", async |client| client.prepare(request).await);
        answer.into_inner().mounts
    }

    /// Makes a view.
    pub(crate) fn view(&mut self, key: &str, parent: &str) {
        let request = request::view(key, parent);
        self.must("view", async |client| client.view(request).await);
    }

    /// The upper directory of an active snapshot.
    pub(crate) fn upper(&mut self, key: &str) -> PathBuf {
        let request = request::mounts(key);
        let answer = self.must("mounts", async |client| client.mounts(request).await);
        upper(&answer.into_inner().mounts)
    }

    /// Commits and answers what the call took.
    pub(crate) fn commit(&mut self, key: &str, name: &str) -> Duration {
        let request = request::commit(key, name);
        let start = Instant::now();
        self.must("commit", async |client| client.commit(request).await);
        start.elapsed()
    }

    /// Asks for the usage and answers what the call took, and the inodes that it named.
    pub(crate) fn usage(&mut self, key: &str) -> (Duration, usize) {
        let request = request::usage(key);
        let start = Instant::now();
        let answer = self.must("usage", async |client| client.usage(request).await);
        let inodes = usize::try_from(answer.into_inner().inodes);
        (start.elapsed(), inodes.expect("a count"))
    }

    /// Removes and answers what the call took.
    pub(crate) fn remove(&mut self, key: &str) -> Duration {
        let request = request::remove(key);
        let start = Instant::now();
        self.must("remove", async |client| client.remove(request).await);
        start.elapsed()
    }

    /// Asks what a snapshot is, which is answered as soon as anything is.
    pub(crate) fn stat(&mut self, key: &str) {
        let request = request::stat(key);
        self.must("stat", async |client| client.stat(request).await);
    }

    /// Makes all calls, several at a time.
    pub(crate) fn drive(&mut self, work: &Work<'_>) -> Load {
        let client = &self.client;
        self.runtime.block_on(async {
            let next = Arc::new(AtomicUsize::new(0));
            let mut all = JoinSet::new();
            let start = Instant::now();
            for _ in 0..work.clients {
                let base = work.base.to_owned();
                let turns = Turns {
                    next: next.clone(),
                    calls: work.calls,
                    made: work.made,
                };
                all.spawn(one_client(work.op, client.clone(), base, turns));
            }
            let mut times = Times::default();
            while let Some(done) = all.join_next().await {
                times.extend(done.expect("a client does not panic but with its call"));
            }
            Load::new(start.elapsed(), times)
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

/// The order of turns.
#[derive(Debug, Clone)]
struct Turns {
    next: Arc<AtomicUsize>,
    calls: usize,
    made: usize,
}

impl Turns {
    /// The number of the snapshot of the next call.
    fn next(&self) -> Option<usize> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (turn < self.calls).then(|| turn % self.made)
    }
}

async fn one_client(op: Op, mut client: Client, base: String, turns: Turns) -> Times {
    let mut times = Times::default();
    while let Some(i) = turns.next() {
        let start = Instant::now();
        let answer = op.call(&mut client, &base, i).await;
        times.push(start.elapsed());
        answer.unwrap_or_else(|status| panic!("{} {i}: {status}", op.name()));
    }
    times
}

/// Where a snapshot's own files go: the source of a bind mount, or overlayfs's upperdir.
fn upper(mounts: &[Mount]) -> PathBuf {
    let mount = mounts.first().expect("there is a mount");
    let option = |option: &String| option.strip_prefix("upperdir=").map(PathBuf::from);
    let bind = || Path::new(&mount.source).to_owned();
    mount.options.iter().find_map(option).unwrap_or_else(bind)
}
