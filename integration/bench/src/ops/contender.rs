//! Those that are compared: servers behind a socket, and one that makes the calls itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::inside::Inside;
use crate::cost;
use crate::load::{Caller, Load, Work};
use crate::target::{Running, Target};

/// A measured snapshotter.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// A server, called through its socket.
    Served(Target),
    /// A program that makes the calls in its own process.
    Inside(PathBuf),
}

impl Contender {
    /// Its name in tables.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Served(target @ Target::Layerd(_)) => target.name(),
            Self::Served(target) => format!("{}, socket", target.name()),
            Self::Inside(program) => {
                format!("{}, in process", Target::Peer(program.clone()).name())
            }
        }
    }

    /// Starts it with everything it has below `dir`.
    pub(super) fn start(&self, dir: &Path) -> Started {
        match self {
            Self::Inside(program) => Started::Inside(Inside::start(program, dir)),
            Self::Served(target) => {
                let running = target.start_deleting_later(dir);
                Started::Served {
                    caller: Caller::connect(running.socket()),
                    has_trash: matches!(target, Target::Layerd(_)),
                    running,
                }
            }
        }
    }
}

/// A contender that runs.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum Started {
    Served {
        running: Running,
        caller: Caller,
        /// Set if it deletes removed snapshots by itself.
        has_trash: bool,
    },
    Inside(Inside),
}

impl Started {
    /// Makes a committed base of `height` empty layers and answers its name.
    pub(super) fn base(&mut self, height: usize) -> String {
        match self {
            Self::Served { caller, .. } => caller.base(height),
            Self::Inside(inside) => inside.base(height),
        }
    }

    /// Makes the calls; answers what they took, and the processor time of the contender.
    pub(super) fn drive(&mut self, work: &Work<'_>) -> (Load, Duration) {
        let pid = match self {
            Self::Served { running, .. } => running.pid(),
            Self::Inside(inside) => inside.pid(),
        };
        let before = cost::processor(pid);
        let load = match self {
            Self::Served { caller, .. } => caller.drive(work),
            Self::Inside(inside) => inside.drive(work),
        };
        (load, cost::processor(pid) - before)
    }

    /// Lets what was removed be deleted, by those that do so.
    pub(super) fn settle(&self) {
        if let Self::Served {
            running,
            has_trash: true,
            ..
        } = self
        {
            running.wait_reaped();
        }
    }

    pub(super) fn stop(self) {
        match self {
            Self::Served {
                running, caller, ..
            } => {
                // The peer ends when its connections have.
                drop(caller);
                running.stop();
            }
            Self::Inside(inside) => inside.stop(),
        }
    }
}
