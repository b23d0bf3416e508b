//! A server with many snapshots.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::load::Caller;
use crate::place::Place;
use crate::target::{Running, Target};

/// Layers of the parent of what is prepared.
pub(super) const HEIGHT: usize = 10;

/// A running server, and what it has.
#[derive(Debug)]
pub(super) struct Store {
    target: Target,
    count: usize,
    dir: PathBuf,
    base: String,
    running: Running,
    caller: Caller,
}

impl Store {
    /// Starts it in a directory of its own, and makes `count` snapshots: those that a parent needs,
    /// and images with containers.
    pub(super) fn filled(place: &Place, target: Target, count: usize) -> Self {
        let kind = match &target {
            Target::Layerd(_) => "layerd",
            Target::Peer(_) => "peer",
        };
        let dir = place.sub(&format!("{kind}-{count}"));
        let running = target.start(&dir);
        let mut caller = Caller::connect(running.socket());
        let base = caller.base(HEIGHT);
        caller.fill(count.saturating_sub(HEIGHT));
        Self {
            target,
            count,
            dir,
            base,
            running,
            caller,
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Number of its snapshots.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// Its caller, and the parent of prepared snapshots.
    pub(super) fn caller(&mut self) -> (&mut Caller, &str) {
        (&mut self.caller, &self.base)
    }

    /// Lets it delete what was removed, if it does.
    pub(super) fn settle(&self) {
        if matches!(self.target, Target::Layerd(_)) {
            self.running.wait_reaped();
        }
    }

    /// Ends it in good order, or by SIGKILL, and starts it again. Answers how long that start took,
    /// from the execution of the program to the answer to the first Stat.
    pub(super) fn restarted(self, is_killed: bool) -> (Self, Duration) {
        if is_killed {
            self.running.kill9();
        } else {
            self.running.stop();
        }
        let start = Instant::now();
        let running = self.target.start(&self.dir);
        let mut caller = Caller::connect(running.socket());
        caller.stat(&self.base);
        let took = start.elapsed();
        let store = Self {
            running,
            caller,
            ..self
        };
        (store, took)
    }
}
