//! layerd, dockerd and the machine end and come back under containers.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use layerd_integration::plugin::{SOCKET, own_run};
use layerd_integration::process::wait_until;
use layerd_integration::{Activated, Docker, Plugin, Scratch};
use nix::sys::signal::Signal;
use serde_json::json;

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
