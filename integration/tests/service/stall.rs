//! A disk that stalls: the daemon waits for it, says so, and goes on.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use layerd_integration::process::{output, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::{info, on_its_own_disk};

/// A file system that takes no writes until it is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: PathBuf) -> Self {
        output(Command::new("fsfreeze").arg("--freeze").arg(&path));
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        output(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0));
    }
}

/// Longer than the ten seconds that sled may be silent while the disk is not.
#[test]
fn root_a_stalled_disk_is_shown_and_does_not_end_the_daemon() {
    let (_scratch, disk, mut daemon) = on_its_own_disk();
    let frozen = Frozen::new(disk);
    let socket = daemon.socket().to_owned();
    let waiting = std::thread::spawn(move || {
        layerd_integration::Snapshots::connect(&socket).remove("before")
    });
    wait_until("the stall to be shown", Duration::from_secs(60), || {
        info(&daemon).contains("ALARM: the disk stalls")
    });
    wait_until("the stall to be logged", Duration::from_secs(20), || {
        daemon.log().contains("does not answer")
    });
    drop(frozen);
    waiting.join().unwrap().unwrap();
    wait_until("the alarm to go", Duration::from_secs(10), || {
        !info(&daemon).contains("ALARM")
    });
    daemon.stop();
}

/// A disk that stalls while the daemon ends: it does not wait until systemd kills it, and says why.
#[test]
fn root_the_end_is_bounded_and_says_what_it_waits_for() {
    let (_scratch, disk, mut daemon) = on_its_own_disk();
    let frozen = Frozen::new(disk);
    kill(daemon.pid(), Signal::SIGTERM).unwrap();
    wait_until("the end to be given up", Duration::from_secs(100), || {
        // Which step is the first to write depends on the disk.
        daemon
            .log()
            .contains("the end took more than 10 s, because it is ")
    });
    drop(frozen);
    daemon.kill9();
    daemon.restart();
    daemon.snapshots().stat("before").unwrap();
    daemon.stop();
}
