//! layerd as a service: how it starts, whom it refuses, what it says, and how it ends.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "service/check.rs"]
mod check;
#[path = "service/descriptors.rs"]
mod descriptors;
#[path = "service/doors.rs"]
mod doors;
#[path = "service/failed_write.rs"]
mod failed_write;
#[path = "service/load.rs"]
mod load;
#[path = "service/logs.rs"]
mod logs;
#[path = "service/metrics.rs"]
mod metrics;
#[path = "service/paused.rs"]
mod paused;
#[path = "service/stall.rs"]
mod stall;
#[path = "service/stop.rs"]
mod stop;
#[path = "service/syncs.rs"]
mod syncs;
#[path = "service/traces.rs"]
mod traces;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch};

/// A daemon with the active snapshot `before`, and the disk that is its data directory. Its log lies
/// elsewhere: it would fail or stall with the disk, and the daemon with it.
fn on_its_own_disk() -> (Scratch, PathBuf, Daemon) {
    let scratch = Scratch::on("ext4", 256);
    let (disk, root) = (scratch.dir("disk"), scratch.dir("root"));
    output(Command::new("mount").arg("--bind").arg(&disk).arg(&root));
    let daemon = Daemon::start(scratch.path());
    daemon.snapshots().prepare("before", "", &[]).unwrap();
    (scratch, disk, daemon)
}

/// Output of `layerctl info`.
fn info(daemon: &Daemon) -> String {
    let mut layerctl = Command::new(profile().join("layerctl"));
    output(layerctl.arg("--address").arg(daemon.socket()).arg("info"))
}

/// The built program.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("tests lie in deps/");
    profile.join("layerd")
}

/// Runs layerd with arguments with which it is to end by itself, and soon.
fn run(arguments: &[&str]) -> Output {
    let mut child = Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("layerd {arguments:?} runs on");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Starts layerd where it must refuse; answers what it said.
fn refused(root: &Path, socket: &Path, more: &[&str]) -> String {
    let base = [
        "--root",
        root.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    let output = run(&[&base, more].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Writes a configuration; answers the arguments that name it.
fn config(dir: &Path, text: &str) -> [String; 2] {
    let path = dir.join("config.toml");
    std::fs::write(&path, text).unwrap();
    ["--config".into(), path.to_str().unwrap().into()]
}

/// A daemon from which removed layers go at once, however many.
fn without_trash(scratch: &Scratch) -> Daemon {
    let [name, file] = config(
        scratch.path(),
        "[trash]\nkeep_secs = 0\nguard_percent = 0\n",
    );
    Daemon::start_with(scratch.path(), &[&name, &file])
}

/// No error, no panic, and no warning but the one that a kill leaves.
fn assert_quiet(daemon: &Daemon) {
    let log = daemon.log();
    let is_bad = |line: &&str| {
        let bad = ["ERROR", " WARN", "panicked"]
            .iter()
            .any(|word| line.contains(word));
        bad && !line.contains("did not end in order")
    };
    let bad: Vec<&str> = log.lines().filter(is_bad).collect();
    assert!(bad.is_empty(), "layerd logged:\n{}", bad.join("\n"));
}
