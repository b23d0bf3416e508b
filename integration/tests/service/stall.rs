//! A disk that stalls: the daemon waits for it, says so, and goes on.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::Snapshots;
use layerd_integration::process::{Server, output, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::{config, info, on_its_own_disk, program};

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

/// layerd on a disk that stalls, and what systemd is told meanwhile.
struct Stalled {
    frozen: Frozen,
    server: Server,
    told: UnixDatagram,
    socket: PathBuf,
}

impl Stalled {
    /// Starts it, and waits until it says that it waits.
    fn start(dir: &Path, disk: PathBuf, more: &[String]) -> Self {
        let (socket, inbox) = (dir.join("again.sock"), dir.join("n"));
        let told = UnixDatagram::bind(&inbox).unwrap();
        told.set_nonblocking(true).unwrap();
        let frozen = Frozen::new(disk);
        let mut command = Command::new(program());
        command.arg("--root").arg(dir.join("root"));
        command.arg("--socket").arg(&socket).args(more);
        command.env("NOTIFY_SOCKET", &inbox);
        let server = Server::start(&command, &dir.join("again.log"));
        // Held before anything is waited for: a server ends only when its disk does not stall.
        let stalled = Self {
            frozen,
            server,
            told,
            socket,
        };
        let limit = Duration::from_secs(60);
        wait_until("the wait to be logged", limit, || {
            stalled.server.log().contains("the start waits")
        });
        stalled
    }

    /// Messages to systemd since the last look.
    fn messages(&self) -> String {
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.told.recv(&mut buffer) {
            all += &String::from_utf8_lossy(&buffer[..length]);
            all.push('\n');
        }
        all
    }
}

/// A disk that stalls while the daemon starts: the step and its path are named, systemd is asked to
/// wait, and the start goes on when the disk does.
#[test]
fn root_the_start_says_what_it_waits_for_and_goes_on() {
    let (scratch, disk, mut daemon) = on_its_own_disk();
    daemon.stop();
    let mut stalled = Stalled::start(scratch.path(), disk, &[]);
    let log = stalled.server.log();
    let line = log.lines().find(|line| line.contains("the start waits"));
    let path = format!("path={}", scratch.path().join("root").display());
    // Which step is the first to write depends on the disk.
    for part in [path.as_str(), "doing=", "step_s=1", "is_stalled=true"] {
        assert!(line.unwrap().contains(part), "{part} is missing: {log}");
    }
    let mut told = String::new();
    for part in ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=the start is "] {
        wait_until(part, Duration::from_secs(60), || {
            told += &stalled.messages();
            told.contains(part)
        });
    }
    assert!(!told.contains("READY=1"), "{told}");
    drop(stalled.frozen);
    stalled.server.wait_for(&stalled.socket);
    Snapshots::connect(&stalled.socket).stat("before").unwrap();
    assert!(stalled.server.log().contains("ready"));
    let limit = Duration::from_secs(100);
    assert!(stalled.server.end(Signal::SIGTERM, limit).success());
}

/// A stop while the start waits for the disk: it is not kept waiting, and the log says by what.
#[test]
fn root_a_start_that_waits_ends_when_it_is_told_to() {
    let (scratch, disk, mut daemon) = on_its_own_disk();
    daemon.stop();
    let more = config(scratch.path(), "stop_timeout_secs = 1\n");
    let mut stalled = Stalled::start(scratch.path(), disk, &more);
    kill(stalled.server.pid(), Signal::SIGTERM).unwrap();
    let limit = Duration::from_secs(100);
    wait_until("the start to be given up", limit, || {
        let log = stalled.server.log();
        log.contains("told to stop while the start is ")
    });
    // The kernel keeps a process until the disk answers it.
    drop(stalled.frozen);
    let status = stalled.server.end(Signal::SIGTERM, limit);
    assert_eq!(status.code(), Some(1));
    daemon.restart();
    daemon.snapshots().stat("before").unwrap();
    daemon.stop();
}
