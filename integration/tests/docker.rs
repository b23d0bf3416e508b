//! Docker 28 with layerd as its storage driver: builds, containers, crashes of layerd.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "docker/import.rs"]
mod import;
#[path = "docker/limits.rs"]
mod limits;
#[path = "docker/root.rs"]
mod root;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::process::wait_until;
use layerd_integration::{Daemon, Docker, Scratch};
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};

const DOCKERFILE: &str = "\
FROM base
COPY first /first
RUN echo one > /one && mkdir /kept && echo kept > /kept/file
RUN rm /one && echo two > /two
COPY last /last
";

/// layerd, a Docker that uses it, and where they live. Dropped in this order.
struct World {
    docker: Docker,
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    /// With the image `base`, which is one layer of busybox.
    fn new() -> Self {
        Self::configured("")
    }

    /// The same, with settings of layerd.
    fn configured(settings: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path().join("layerd.toml");
        std::fs::write(&file, settings).unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
        let docker = Docker::start(&scratch.dir("k"), daemon.socket());
        let archive = scratch.path().join("base.tar");
        write_layer(&archive, &busybox());
        docker.docker(&["import", archive.to_str().unwrap(), "base"]);
        Self {
            docker,
            daemon,
            scratch,
        }
    }

    fn docker(&self, arguments: &[&str]) -> String {
        self.docker.docker(arguments)
    }

    fn context(&self) -> PathBuf {
        let context = self.scratch.dir("context");
        std::fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        std::fs::write(context.join("first"), "first\n").unwrap();
        context
    }

    /// Builds the image `app` with this text in its last layer.
    fn build(&self, last: &str) -> String {
        let context = self.context();
        std::fs::write(context.join("last"), last).unwrap();
        let build = [
            "build",
            "--network",
            "none",
            "--tag",
            "app",
            context.to_str().unwrap(),
        ];
        self.docker(&build)
    }

    fn start(&self, name: &str, command: &str) {
        let run = [
            "run",
            "--detach",
            "--pull",
            "never",
            "--network",
            "none",
            "--name",
            name,
            "app",
        ];
        self.docker(&[&run[..], &["sh", "-c", command]].concat());
    }

    fn cat(&self, container: &str, file: &str) -> String {
        self.docker(&["exec", container, "cat", file])
    }

    /// The snapshots by name, once containerd's collector took what no image needs: writable
    /// layers, and committed ones that are not named after a chain id, except where they have
    /// become part of an image (a container's `-init` layer, below the layer of a RUN step).
    fn settled(&self) -> BTreeMap<String, Info> {
        let mut found = Vec::new();
        wait_until(
            "containers' snapshots to go",
            Duration::from_secs(15),
            || {
                self.docker.collect_garbage();
                found = self.daemon.snapshots().list();
                let parent = |name: &str| found.iter().any(|info| info.parent == name);
                found.iter().all(|info| {
                    info.kind() == Kind::Committed
                        && (is_named_by_chain(&info.name) || parent(&info.name))
                })
            },
        );
        found
            .into_iter()
            .map(|info| (info.name.clone(), info))
            .collect()
    }

    /// layerd dies and comes back, and `meanwhile` happens before it does.
    fn crash(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.daemon.kill9();
        meanwhile(self);
        self.daemon.restart();
        self.docker.containerd().wait_for_snapshotter();
    }

    fn finish(mut self) {
        let containers = self.docker(&["ps", "--all", "--quiet"]);
        for container in containers.split_whitespace() {
            self.docker(&["rm", "--force", container]);
        }
        self.docker(&["system", "prune", "--all", "--force"]);
        assert_eq!(self.docker(&["images", "--all", "--quiet"]), "");
        self.daemon.assert_empty();
        self.daemon.assert_no_errors_logged();
        self.docker.stop();
        self.daemon.stop();
    }
}

#[test]
fn root_docker_28_builds_share_layers() {
    let world = World::new();
    let base = world.settled();
    assert_eq!(base.len(), 1, "{base:#?}");
    world.build("old\n");
    let first = world.settled();
    assert_eq!(layers(&first), 1 + 4, "{first:#?}");

    let said = world.build("old\n");
    assert_eq!(said.matches("Using cache").count(), 4, "{said}");
    assert_eq!(
        world.settled(),
        first,
        "a build of cached steps made layers"
    );

    let said = world.build("new\n");
    assert_eq!(said.matches("Using cache").count(), 3, "{said}");
    let second = world.settled();
    for (name, info) in &first {
        assert_eq!(second.get(name), Some(info), "a shared layer changed");
    }
    let is_new = |info: &&Info| !first.contains_key(&info.name);
    let new: Vec<&Info> = second.values().filter(is_new).collect();
    assert_eq!(new.len(), 1, "{new:#?}");
    assert_eq!(
        new[0].parent,
        parent_of_last(&first),
        "the new layer has other layers below"
    );
    world.finish();
}

fn layers(committed: &BTreeMap<String, Info>) -> usize {
    let named = committed.keys().filter(|name| is_named_by_chain(name));
    named.count()
}

/// containerd sends `<namespace>/<number>/<name>`.
fn is_named_by_chain(name: &str) -> bool {
    name.contains("/sha256:")
}

/// The name below the one layer that has nothing on top.
fn parent_of_last(layers: &BTreeMap<String, Info>) -> &str {
    let tops: Vec<&Info> = layers
        .values()
        .filter(|info| layers.values().all(|other| other.parent != info.name))
        .collect();
    assert_eq!(tops.len(), 1, "{tops:#?}");
    &tops[0].parent
}

#[test]
fn root_docker_28_containers_do_not_see_each_other() {
    let world = World::new();
    world.build("last\n");
    let layers = world.settled();
    for name in ["left", "right"] {
        let command = format!("echo {name} > /first; echo {name} > /{name}; exec sleep 1000");
        world.start(name, &command);
    }
    for (own, other) in [("left", "right"), ("right", "left")] {
        let content = format!("{own}\n");
        wait_until("a container's writes", Duration::from_secs(10), || {
            world
                .docker(&["exec", own, "ls", "/"])
                .lines()
                .any(|file| file == own)
        });
        assert_eq!(world.cat(own, "/first"), content);
        assert_eq!(world.cat(own, &format!("/{own}")), content);
        let files = world.docker(&["exec", own, "ls", "/"]);
        assert!(
            !files.lines().any(|file| file == other),
            "{own} sees: {files}"
        );
        assert!(
            !files.lines().any(|file| file == "one"),
            "a deleted file is back: {files}"
        );
        assert_eq!(world.cat(own, "/kept/file"), "kept\n");
    }
    world.docker(&["rm", "--force", "left"]);
    assert_eq!(world.cat("right", "/right"), "right\n");
    world.docker(&["rm", "--force", "right"]);
    world.start("third", "exec sleep 1000");
    assert_eq!(world.cat("third", "/first"), "first\n");
    world.docker(&["rm", "--force", "third"]);
    assert_eq!(world.settled(), layers, "containers changed the image");
    world.finish();
}

#[test]
fn root_docker_28_goes_on_after_crashes() {
    let mut world = World::new();
    world.crash(|_| ());
    world.build("last\n");
    world.crash(|_| ());
    world.start("app", "echo written > /file; exec sleep 1000");
    world.crash(|world| {
        wait_until("the container's write", Duration::from_secs(10), || {
            world.docker(&["exec", "app", "ls", "/"]).contains("file")
        });
        assert_eq!(world.cat("app", "/file"), "written\n");
    });
    world.docker(&["commit", "app", "kept"]);
    world.crash(|_| ());
    world.docker.restart();
    assert_eq!(world.cat("app", "/file"), "written\n");
    world.crash(|world| {
        world.docker(&["stop", "--timeout", "0", "app"]);
    });
    world.docker(&["start", "app"]);
    assert_eq!(world.cat("app", "/last"), "last\n");
    let read = [
        "run",
        "--rm",
        "--pull",
        "never",
        "--network",
        "none",
        "kept",
        "cat",
        "/file",
    ];
    assert_eq!(world.docker(&read), "written\n");
    world.crash(|_| ());
    world.docker(&["rm", "--force", "app"]);
    world.crash(|_| ());
    world.finish();
}
