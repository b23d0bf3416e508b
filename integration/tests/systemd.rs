//! layerd as systemd runs it: the units in deploy/, socket activation, and what it tells systemd.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use layerd_integration::process::{Server, output, wait_until};
use layerd_integration::{Activated, Scratch, Snapshots};
use layerd_proto::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use nix::sys::signal::Signal;

const UNITS: [&str; 3] = ["layerd.socket", "layerd.service", "layerd-docker.socket"];
/// Longer than anything here takes, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn root_units_verify() {
    let scratch = Scratch::new();
    let units = install_units(scratch.path());
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .expect("systemd is installed");
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && said.is_empty(), "{said}");
}

/// The sandbox must not become weaker unnoticed. What is missing to a better figure, and why, is
/// in the comments of the unit.
#[test]
fn root_sandbox_stays_as_tight_as_it_was() {
    let scratch = Scratch::new();
    let units = install_units(scratch.path());
    output(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=44"])
            .arg(&units[1]),
    );
}

/// systemd must not kill a daemon that keeps to its own deadline, and both must mean one socket.
#[test]
fn units_agree_with_the_sample_configuration() {
    let socket = value("layerd.socket", "ListenStream=");
    assert_eq!(
        format!("\"{socket}\""),
        value("config.toml", "#path = "),
        "socket"
    );
    let mode = value("layerd.socket", "SocketMode=");
    assert_eq!(format!("\"{mode}\""), value("config.toml", "#mode = "));
    let root = value("config.toml", "#root = ");
    let waited_for = value("layerd.service", "RequiresMountsFor=");
    assert_eq!(format!("\"{waited_for}\""), root);
    let own: u64 = value("config.toml", "#stop_timeout_secs = ")
        .parse()
        .unwrap();
    let given = value("layerd.service", "TimeoutStopSec=");
    let given: u64 = given.strip_suffix('s').unwrap().parse().unwrap();
    assert!(
        given >= own + 10,
        "{given} s leave no time to close after {own} s"
    );
}

/// The example for those who look before they run anything is what would be written.
#[test]
fn drop_in_example_is_what_layerctl_writes() {
    let layerctl = layerd().with_file_name("layerctl");
    let printed = output(Command::new(layerctl).args([
        "setup",
        "containerd",
        "--version=2.1",
        "--platform=linux/amd64",
        "--config=/nonexistent",
    ]));
    assert_eq!(
        printed,
        fs::read_to_string(deploy("containerd.toml")).unwrap()
    );
}

#[test]
fn root_first_client_starts_the_daemon() {
    let scratch = Scratch::new();
    let (socket, log) = (scratch.path().join("s"), scratch.path().join("log"));
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(&socket).arg(layerd());
    command.args(arguments(scratch.path()));
    let mut server = Server::start(&command, &log);
    // The file is there before systemd listens.
    wait_until("the socket", LIMIT, || {
        server.log().contains("Listening on")
    });
    assert!(!scratch.path().join("root").exists(), "started too early");
    assert!(Snapshots::connect(&socket).list().is_empty());
    assert!(server.end(Signal::SIGTERM, LIMIT).success());
    assert!(socket.exists(), "the socket is systemd's, not layerd's");
}

#[test]
fn root_calls_wait_while_the_daemon_restarts() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut daemon = activated(&listener, scratch.path());
    let mut keys = Vec::new();
    for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        keys.push(format!("round-{round}"));
        prepare(&socket, keys.last().unwrap());
        end(daemon, signal);
        let answer = list_on_a_thread(&socket);
        let early = answer.recv_timeout(Duration::from_millis(300));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "not served yet");
        daemon = activated(&listener, scratch.path());
        assert_eq!(answer.recv_timeout(LIMIT).as_ref(), Ok(&keys));
    }
    end(daemon, Signal::SIGTERM);
}

#[test]
fn root_systemd_is_told_of_readiness_life_and_end() {
    let scratch = Scratch::new();
    let (socket, inbox) = (scratch.path().join("s"), scratch.path().join("n"));
    let told = UnixDatagram::bind(&inbox).unwrap();
    told.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(layerd());
    command
        .args(arguments(scratch.path()))
        .arg("--socket")
        .arg(&socket);
    command
        .env("NOTIFY_SOCKET", &inbox)
        .env("WATCHDOG_USEC", "900000");
    let mut server = Server::start(&command, &scratch.path().join("log"));
    wait_for_state(&told, "READY=1");
    assert!(
        Snapshots::connect(&socket).list().is_empty(),
        "ready means served"
    );
    wait_for_state(&told, "WATCHDOG=1");
    let first = Instant::now();
    for _ in 0..3 {
        wait_for_state(&told, "WATCHDOG=1");
    }
    let three = first.elapsed();
    assert!(
        three < Duration::from_millis(3 * 900),
        "three within {three:?}"
    );
    assert!(server.end(Signal::SIGTERM, LIMIT).success());
    wait_for_state(&told, "STOPPING=1");
}

/// layerd with a listening socket that this test keeps, as systemd would.
fn activated(listener: &UnixListener, dir: &Path) -> Activated {
    Activated::start(listener, &dir.join("root"), &dir.join("log"), &[])
}

fn end(mut daemon: Activated, signal: Signal) {
    let status = daemon.end(signal);
    assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}");
}

fn arguments(dir: &Path) -> [PathBuf; 2] {
    ["--root".into(), dir.join("root")]
}

/// The daemon as built beside this test.
fn layerd() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let daemon = test.ancestors().nth(2).unwrap().join("layerd");
    assert!(
        daemon.exists(),
        "{} is missing: run `make build`",
        daemon.display()
    );
    daemon
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// Copies the units with the built daemon in place of the installed one.
fn install_units(dir: &Path) -> [PathBuf; 3] {
    UNITS.map(|unit| {
        let text = fs::read_to_string(deploy(unit)).unwrap();
        let text = text.replace("/usr/bin/layerd", layerd().to_str().unwrap());
        let path = dir.join(unit);
        fs::write(&path, text).unwrap();
        path
    })
}

/// The rest of the first line in a file of deploy/ that begins with `start`.
fn value(file: &str, start: &str) -> String {
    let text = fs::read_to_string(deploy(file)).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(start));
    found
        .unwrap_or_else(|| panic!("{file} has no {start}"))
        .to_owned()
}

fn prepare(socket: &Path, key: &str) {
    let request = PrepareSnapshotRequest {
        key: key.into(),
        ..Default::default()
    };
    let made = Snapshots::connect(socket).call(async |client| client.prepare(request).await);
    made.unwrap();
}

/// Asks for the keys of all snapshots, on a new connection.
fn list_on_a_thread(socket: &Path) -> mpsc::Receiver<Vec<String>> {
    let (answer, answered) = mpsc::channel();
    let socket = socket.to_owned();
    thread::spawn(move || {
        let mut keys: Vec<_> = Snapshots::connect(&socket)
            .list()
            .into_iter()
            .map(|info| info.name)
            .collect();
        keys.sort();
        answer.send(keys)
    });
    answered
}

/// Reads what systemd would be told until `state` comes.
fn wait_for_state(told: &UnixDatagram, state: &str) {
    let mut buffer = [0; 4096];
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let length = told
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{state}: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]);
        if text.lines().any(|line| line == state) {
            return;
        }
    }
    panic!("{state} did not come within {LIMIT:?}");
}
