//! layerd, dockerd and the machine end and come back under containers.

use std::fs;
use std::io::ErrorKind;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use layerd_integration::plugin::{SOCKET, own_run};
use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Activated, Docker, FdStore, Plugin, Scratch};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::{World, run, with_docker};

/// Lines that a container has written so far.
fn lines(docker: &Docker, container: &str) -> usize {
    docker
        .docker(&["exec", container, "cat", "/data/log"])
        .lines()
        .count()
}

fn writes_on(docker: &Docker, container: &str) {
    let before = lines(docker, container);
    wait_until(
        "the container to go on writing",
        Duration::from_secs(20),
        || lines(docker, container) > before,
    );
}

const WRITER: [&str; 4] = [
    "base",
    "sh",
    "-c",
    "while :; do echo line >> /data/log; sleep 1; done",
];

fn writer(name: &str) -> Vec<&str> {
    let mut all = run(
        name,
        &[
            "--restart",
            "always",
            "-v",
            "data:/data",
            "--volume-driver",
            "layerd",
        ],
    );
    all.truncate(all.len() - 3);
    [&all[..], &WRITER[..]].concat()
}

#[test]
fn root_containers_do_not_notice_that_layerd_ends() {
    let mut world = World::new();
    let mut docker = with_docker(&world);
    docker.docker(&writer("web"));
    world.wait_for_containers("data", &["plugin:docker/web"]);
    let inode = |docker: &Docker| docker.docker(&["exec", "web", "ls", "-id", "/data"]);
    let before = inode(&docker);

    world.daemon.kill9();
    writes_on(&docker, "web");
    world.daemon.restart();
    writes_on(&docker, "web");
    world.daemon.stop();
    world.daemon.restart();
    writes_on(&docker, "web");
    assert_eq!(inode(&docker), before);
    assert_eq!(docker.docker(&["volume", "ls", "--quiet"]), "data\n");
    world.refuses_removal("data", "docker/");

    // dockerd does not mount again what its containers have.
    docker.restart();
    writes_on(&docker, "web");
    world.wait_for_containers("data", &["plugin:docker/web"]);
    docker.docker(&["rm", "--force", "web"]);
    docker.docker(&["volume", "rm", "data"]);
}

#[test]
fn root_a_reboot_leaves_records_and_docker_starts_its_containers_again() {
    let mut world = World::new();
    let mut docker = with_docker(&world);
    docker.docker(&writer("web"));
    world.wait_for_containers("data", &["plugin:docker/web"]);
    writes_on(&docker, "web");
    // All processes end, and with them all mounts; /run is emptied.
    docker.kill9();
    world.daemon.kill9();
    fs::remove_file(SOCKET).unwrap();
    world.daemon.restart();
    assert!(!world.holders("data").is_empty());
    world.refuses_removal("data", "docker/");
    docker.start_again();
    wait_until(
        "Docker to start the container",
        Duration::from_secs(30),
        || docker.docker(&["ps", "--quiet"]).lines().count() == 1,
    );
    assert!(lines(&docker, "web") > 0, "what was written is there");
    writes_on(&docker, "web");
    world.wait_for_containers("data", &["plugin:docker/web"]);
    docker.docker(&["rm", "--force", "web"]);
    docker.docker(&["volume", "rm", "data"]);
}

/// systemd holds the socket, and starts layerd when a call comes.
#[test]
fn root_calls_wait_in_the_socket_while_layerd_is_away() {
    own_run();
    let scratch = Scratch::new();
    let held = UnixListener::bind(SOCKET).unwrap();
    let (root, log) = (scratch.dir("root"), scratch.path().join("log"));
    let own = scratch.path().join("layerd.sock");
    let start = || {
        let own = ["--socket", own.to_str().unwrap()];
        Activated::start_named(&held, "docker", &root, &log, &own)
    };
    let plugin = Plugin::at(Path::new(SOCKET));
    let mut daemon = start();
    plugin.ok("Create", &json!({ "Name": "data" }));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        daemon.end(signal);
        assert!(Path::new(SOCKET).exists(), "the socket is systemd's");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| plugin.names());
            daemon = start();
            assert_eq!(waiting.join().unwrap(), ["data"]);
        });
    }
    let docker = Docker::start_alone(&scratch.dir("k"));
    assert_eq!(docker.docker(&["volume", "ls", "--quiet"]), "data\n");
    daemon.end(Signal::SIGTERM);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| docker.docker(&["volume", "ls", "--quiet"]));
        daemon = start();
        assert_eq!(waiting.join().unwrap(), "data\n");
    });
}

/// A connection that is used for several calls, as Docker's are.
pub(super) struct Connected(pub(super) BufReader<UnixStream>);

impl Connected {
    pub(super) fn new() -> Self {
        let stream = UnixStream::connect(SOCKET).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        Self(BufReader::new(stream))
    }

    pub(super) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Status and body of the next answer, without those that only ask for more of the request.
    pub(super) fn answer(&mut self) -> (u16, Value) {
        let mut lines = self.head();
        while lines[0].contains(" 100 ") {
            lines = self.head();
        }
        let length = |line: &String| line.strip_prefix("content-length: ")?.parse().ok();
        let mut body = vec![0; lines.iter().find_map(length).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Lines of the head of an answer, in lower case.
    pub(super) fn head(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "{lines:?}");
            match line.trim_end() {
                "" => return lines,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
    }

    /// Requires that the other end closes the connection and sends nothing more.
    pub(super) fn ends(&mut self) {
        let read = self.0.read(&mut [0; 64]);
        let is_reset = |cause: &std::io::Error| cause.kind() == ErrorKind::ConnectionReset;
        assert!(
            matches!(&read, Ok(0)) || read.as_ref().is_err_and(is_reset),
            "{read:?}"
        );
    }
}

pub(super) fn request(method: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /VolumeDriver.{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Socket and data of a layerd whose socket and connections systemd holds.
pub(super) struct Node {
    held: UnixListener,
    pub(super) store: FdStore,
    pub(super) scratch: Scratch,
}

impl Node {
    pub(super) fn new() -> Self {
        own_run();
        let scratch = Scratch::new();
        let _ = scratch.dir("root");
        Self {
            held: UnixListener::bind(SOCKET).unwrap(),
            store: FdStore::new(scratch.path()),
            scratch,
        }
    }

    pub(super) fn start(&self) -> Activated {
        let [root, log, own] =
            ["root", "log", "layerd.sock"].map(|name| self.scratch.path().join(name));
        let own = ["--socket", own.to_str().unwrap()];
        Activated::start_keeping(&self.store, &self.held, "docker", &root, &log, &own)
    }

    /// Waits until as many connections are kept.
    pub(super) fn kept(&self, count: usize) {
        let limit = Duration::from_secs(20);
        wait_until("connections to be kept", limit, || {
            self.store.count() == count
        });
    }

    /// Sends a call to a layerd that is killed when it has a part of it, and before it answers.
    fn killed(&self, connected: &mut Connected, mut daemon: Activated, call: &str) {
        let (head, rest) = call.split_at(call.len() - 5);
        let kept = self.store.count();
        connected.send(head);
        self.kept(kept.max(1));
        kill(daemon.pid(), Signal::SIGSTOP).unwrap();
        connected.send(rest);
        daemon.end(Signal::SIGKILL);
    }
}

#[test]
fn root_connections_outlive_layerd_and_not_their_clients() {
    let node = Node::new();
    let mut daemon = node.start();
    let list = request("List", &json!({}));
    let none = (200, json!({ "Volumes": [] }));
    let mut idle = Connected::new();
    idle.send(&list);
    assert_eq!(idle.answer(), none);
    drop(Connected::new());
    node.kept(1);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        daemon.end(signal);
        daemon = node.start();
        idle.send(&list);
        assert_eq!(idle.answer(), none, "{signal}");
    }
    drop(idle);
    node.kept(0);
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_calls_outlive_the_layerd_that_they_were_sent_to() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    let create = request("Create", &json!({ "Name": "data" }));
    let (head, rest) = create.split_at(create.len() - 5);
    connected.send(head);
    node.kept(1);
    daemon.end(Signal::SIGKILL);
    daemon = node.start();
    connected.send(rest);
    assert_eq!(connected.answer(), (200, json!({})));
    node.killed(&mut connected, daemon, &create);
    let mut daemon = node.start();
    assert_eq!(connected.answer(), (200, json!({})));

    // A client that sends so many pieces that the socket has no room for the call.
    let body = json!({ "Name": "data", "Opts": {}, "Filler": "x".repeat(2000) });
    for piece in request("Create", &body).as_bytes().chunks(1) {
        connected.0.get_mut().write_all(piece).unwrap();
    }
    assert_eq!(connected.answer(), (200, json!({})));
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_a_removal_that_was_not_answered_is_not_refused_when_it_comes_again() {
    let node = Node::new();
    let daemon = node.start();
    let mut connected = Connected::new();
    connected.send(&request("Create", &json!({ "Name": "data" })));
    assert_eq!(connected.answer(), (200, json!({})));
    // Behind an answer on the same connection, layerd may be killed before it looks for the next call.
    drop(connected);
    node.kept(0);
    let mut connected = Connected::new();
    let remove = request("Remove", &json!({ "Name": "data" }));
    node.killed(&mut connected, daemon, &remove);
    // As if that layerd had done it.
    let [root, log, own] = ["root", "log", "other.sock"].map(|name| node.scratch.path().join(name));
    let mut other = Activated::start(&UnixListener::bind(&own).unwrap(), &root, &log, &[]);
    let mut layerctl = Command::new(profile().join("layerctl"));
    layerctl.arg("--address").arg(&own);
    output(layerctl.args(["volume", "rm", "data"]));
    other.end(Signal::SIGTERM);
    let mut daemon = node.start();
    assert_eq!(connected.answer(), (200, json!({})));
    connected.send(&remove);
    let missing = json!({ "Err": "no such volume: data" });
    assert_eq!(connected.answer(), (500, missing), "another call");
    daemon.end(Signal::SIGTERM);
}
