//! Clients that never stop calling.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use layerd_integration::Snapshots;
use tonic::{Code, Status};

/// Observations of one caller.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) what: &'static str,
    pub(crate) calls: u32,
    pub(crate) failed: Vec<String>,
    /// Calls that never left the client, as its connection was about to close, and were made again.
    pub(crate) again: u32,
    pub(crate) longest: Duration,
}

impl Seen {
    fn call(&mut self, call: impl FnOnce() -> Result<(), String>) {
        let start = Instant::now();
        self.failed.extend(call().err());
        self.calls += 1;
        self.longest = self.longest.max(start.elapsed());
    }

    /// As a client does that keeps its connection: grpc-go, which containerd uses, makes a call
    /// again that had not left it when the connection was closed; tonic leaves that to its user.
    fn call_kept<T>(&mut self, mut call: impl FnMut() -> Result<T, Status>) {
        let mut again = 0;
        self.call(|| {
            let mut outcome = call();
            while outcome.as_ref().is_err_and(never_sent) {
                again += 1;
                outcome = call();
            }
            outcome.map(drop).map_err(text)
        });
        self.again += again;
    }
}

/// hyper calls a request cancelled that it never took up.
fn never_sent(status: &Status) -> bool {
    let message = "operation was canceled";
    (status.code(), status.message()) == (Code::Cancelled, message)
}

/// Threads that call until they are told to stop.
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Callers {
    /// Through the socket: clients that connect anew for each call, and one that keeps its
    /// connection; and `command`, again and again.
    pub(crate) fn start(
        socket: &Path,
        command: impl Fn() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let mut callers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..4 {
            let path = socket.to_owned();
            callers.add("a connection for each call", move |seen| {
                let mut client = Snapshots::connect(&path);
                seen.call(|| client.stat("kept").map(drop).map_err(text));
            });
        }
        let path = socket.to_owned();
        callers.add("a connection for each change", move |seen| {
            let client = || Snapshots::connect(&path);
            seen.call(|| client().prepare("fresh", "", &[]).map(drop).map_err(text));
            seen.call(|| client().remove("fresh").map_err(text));
        });
        let mut kept = Snapshots::connect(socket);
        callers.add("one connection", move |seen| {
            seen.call_kept(|| kept.prepare("steady", "", &[]));
            seen.call_kept(|| kept.stat("steady"));
            seen.call_kept(|| kept.remove("steady"));
        });
        callers.add("layerctl", move |seen| seen.call(&command));
        callers
    }

    fn add(&mut self, what: &'static str, mut calls: impl FnMut(&mut Seen) + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            let mut seen = Seen {
                what,
                ..Seen::default()
            };
            while !stop.load(Ordering::Relaxed) {
                calls(&mut seen);
            }
            seen
        }));
    }

    /// Lets each finish what it is at.
    pub(crate) fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        threads.map(|thread| thread.join().unwrap()).collect()
    }
}

fn text(status: Status) -> String {
    status.to_string()
}

/// Where a socket is, if it is there: a name that has been removed must not be waited for.
pub(crate) fn existing(socket: PathBuf) -> PathBuf {
    assert!(socket.exists(), "{} is missing", socket.display());
    socket
}
