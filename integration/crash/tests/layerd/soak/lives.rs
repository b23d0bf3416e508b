//! One daemon after the other on one socket.

use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use layerd_integration::Activated;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::Verdict;
use crate::process::Site;

/// Longer than a daemon needs to end and another one to begin.
const LIMIT: Duration = Duration::from_secs(60);

/// Which daemon serves, for the clients.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// Counted up when the earlier one has ended, so what it had begun is over.
    number: AtomicU64,
    /// Set while no daemon is to be ended.
    is_calm: AtomicBool,
}

impl Lives {
    pub(super) fn now(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// Waits until the daemon of this number is gone.
    pub(super) fn wait_past(&self, number: u64) -> Verdict {
        let begun = Instant::now();
        while self.now() <= number {
            if self.is_calm.load(Ordering::SeqCst) {
                return Err("although the daemon was not ended".into());
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("and the daemon did not end within {LIMIT:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Keeps the socket, and a daemon at it.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    listener: UnixListener,
    daemon: Activated,
    site: &'a Site,
    lives: &'a Lives,
    pub(super) terminated: u64,
    pub(super) killed: u64,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(site: &'a Site, lives: &'a Lives) -> Self {
        let listener = UnixListener::bind(&site.socket).unwrap();
        let daemon = start(&listener, site);
        Self {
            listener,
            daemon,
            site,
            lives,
            terminated: 0,
            killed: 0,
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// From now on one process serves.
    pub(super) fn calm_down(&self) {
        self.lives.is_calm.store(true, Ordering::SeqCst);
    }

    /// Ends the daemon and starts the next one at once.
    pub(super) fn replace(&mut self, signal: Signal) -> Verdict {
        self.check()?;
        let status = self.daemon.end(signal);
        if signal == Signal::SIGTERM {
            self.terminated += 1;
            // One that has only just been started ends as any program does, by the signal.
            if !status.success() && status.signal() != Some(signal as i32) {
                let tail = self.site.tail();
                return Err(format!("a stop ends with {status}; log:\n{tail}"));
            }
        } else {
            self.killed += 1;
        }
        self.lives.number.fetch_add(1, Ordering::SeqCst);
        self.daemon = start(&self.listener, self.site);
        Ok(())
    }

    /// Requires that the daemon still runs.
    pub(super) fn check(&mut self) -> Verdict {
        match self.daemon.ended() {
            None => Ok(()),
            Some(status) => {
                let tail = self.site.tail();
                Err(format!("layerd ended by itself: {status}; log:\n{tail}"))
            }
        }
    }

    /// Ends it in order, for good.
    pub(super) fn end(mut self) -> Verdict {
        let status = self.daemon.end(Signal::SIGTERM);
        if status.success() {
            return Ok(());
        }
        Err(format!("the last stop ends with {status}"))
    }
}

fn start(listener: &UnixListener, site: &Site) -> Activated {
    let config = site.config.to_str().unwrap();
    Activated::start(listener, &site.root, &site.log, &["--config", config])
}
