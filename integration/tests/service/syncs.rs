//! Nothing is acknowledged before the disk has it: the waits for the disk, counted from outside.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_integration::{Daemon, Scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// strace on a running daemon. Each wait for the disk takes ten milliseconds longer, as on a disk that
/// is not this machine's memory: on one that answers at once there is nothing to share.
struct Watch {
    strace: Child,
    output: std::path::PathBuf,
}

impl Watch {
    fn start(daemon: &Daemon, dir: &Path, name: &str) -> Self {
        let output = dir.join(name);
        let strace = Command::new("strace")
            .args([
                "-f",
                "-y",
                "-e",
                "trace=fsync,fdatasync,syncfs,sync_file_range",
                "-e",
                "inject=fsync,fdatasync:delay_exit=10000",
                "-o",
            ])
            .arg(&output)
            .args(["-p", &daemon.pid().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        let status = format!("/proc/{}/task", daemon.pid());
        wait_until(
            "strace to hold every thread",
            Duration::from_secs(20),
            || {
                std::fs::read_dir(&status).unwrap().all(|task| {
                    let status = task.unwrap().path().join("status");
                    let text = std::fs::read_to_string(status).unwrap_or_default();
                    text.is_empty() || text.contains(&format!("TracerPid:\t{}\n", strace.id()))
                })
            },
        );
        Self { strace, output }
    }

    /// Waits for the disk that were seen.
    fn end(mut self) -> usize {
        let pid = i32::try_from(self.strace.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        let text = std::fs::read_to_string(&self.output).unwrap();
        text.lines().filter(|line| is_wait(line)).count()
    }
}

/// True if a line is the start of a wait for the disk on which a call depends. A wait that another
/// thread interrupts takes two lines, of which the second says "resumed"; and sled's background
/// thread syncs its log too.
fn is_wait(line: &str) -> bool {
    let calls = ["fsync(", "fdatasync(", "syncfs(", "sync_file_range("];
    let by_itself = line.contains(" fsync(") && line.contains("meta/db/db");
    calls.iter().any(|call| line.contains(call)) && !by_itself
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Gone already, unless the test failed in between.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

const CLIENTS: usize = 32;

/// Calls of one client.
const EACH: usize = 20;

/// Has each of `clients` make snapshots; answers the waits for the disk.
fn syncs(daemon: &Daemon, dir: &Path, clients: usize) -> usize {
    let mut all: Vec<_> = (0..clients).map(|_| daemon.snapshots()).collect();
    let watch = Watch::start(daemon, dir, &format!("strace.{clients}"));
    std::thread::scope(|scope| {
        for (number, client) in all.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..EACH {
                    let key = format!("{clients} clients: {number}/{round}");
                    client.prepare(&key, "", &[]).unwrap();
                }
            });
        }
    });
    watch.end()
}

/// Calls of `clients` one after the other wait one by one; concurrent ones share a wait.
#[test]
fn root_prepare_waits_for_the_disk_and_shares_the_wait() {
    // On a file system without a journal each layer made ahead costs a wait of its own.
    let scratch = Scratch::on_xfs(320);
    let daemon = Daemon::start(&scratch.path().join("disk"));
    daemon.snapshots().prepare("warm", "", &[]).unwrap();
    let alone = syncs(&daemon, scratch.path(), 1);
    let together = syncs(&daemon, scratch.path(), CLIENTS);
    let calls = EACH * CLIENTS;
    eprintln!("waits for the disk: {alone} for {EACH} Prepares of 1 client");
    eprintln!("waits for the disk: {together} for {calls} Prepares of {CLIENTS} clients");
    assert!(
        alone >= EACH,
        "a Prepare was answered without waiting: {alone}"
    );
    assert!(together > 0);
    assert!(together < calls, "the clients do not share: {together}");
}

/// Every call that changes something waits at least once; those that only look, never.
#[test]
fn root_every_change_waits_for_the_disk() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(scratch.path());
    let mut client = daemon.snapshots();
    client.committed("base", "").unwrap();
    client.prepare("key", "base", &[]).unwrap();
    // The layer is measured and recorded by itself; wait until that is over.
    client.usage("base").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    type Call = fn(&mut layerd_integration::Snapshots);
    let steps: [(&str, bool, Call); 9] = [
        ("stat", false, |c| drop(c.stat("key").unwrap())),
        ("mounts", false, |c| drop(c.mounts("key").unwrap())),
        ("list", false, |c| drop(c.list())),
        ("usage", false, |c| assert!(c.usage("key").is_ok())),
        ("update", true, |c| {
            drop(c.relabel("key", &[("a", "b")], None).unwrap())
        }),
        ("view", true, |c| drop(c.view("view", "base", &[]).unwrap())),
        ("prepare", true, |c| {
            drop(c.prepare("other", "base", &[]).unwrap())
        }),
        ("remove", true, |c| c.remove("view").unwrap()),
        ("commit", true, |c| c.commit("name", "key", &[]).unwrap()),
    ];
    for (what, waits, call) in steps {
        let watch = Watch::start(&daemon, scratch.path(), what);
        call(&mut client);
        let count = watch.end();
        eprintln!("{what}: {count}");
        assert_eq!(count > 0, waits, "{what}: {count} waits for the disk");
    }
}
