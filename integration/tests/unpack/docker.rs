//! Docker 28 with layerd as storage driver and differ.

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::{Daemon, Docker, Scratch};

use super::{daemon_with, moved, text, trusted};

const DOCKERFILE: &str = "\
FROM base
COPY file /file
RUN echo one > /one && mkdir /kept && echo kept > /kept/file
RUN rm /one && echo two > /two
";

/// Import unpacks; a build packs what each step changed and unpacks nothing; commit packs; what was
/// packed runs.
fn works_through(layers: &str, more: &str, is_ours: bool) {
    let scratch = Scratch::new();
    let mut daemon = daemon_with(&scratch, layers, more);
    let mut docker = Docker::start_unpacking(&scratch.dir("c"), daemon.socket());
    let count = |number: u64| if is_ours { number } else { 0 };
    let archive = scratch.path().join("base.tar");
    write_layer(&archive, &busybox());
    docker.docker(&["import", text(&archive), "base"]);
    assert_eq!(moved(&daemon), (count(1), 0), "import");
    let images = std::fs::read_dir(daemon.root().join("i")).unwrap().count();
    assert_eq!(images, usize::from(layers == "images"));

    builds(&docker, &daemon, &scratch, &count);
    let run = |image: &str, script: &str| {
        let run = ["run", "--rm", "--pull", "never", "--network", "none", image];
        docker.docker(&[&run[..], &["sh", "-c", script]].concat())
    };
    assert_eq!(
        run("app", "cat /file /two /kept/file"),
        "file\nchanged\nkept\n"
    );
    assert_eq!(
        run("app", "ls /one 2>&1 || echo gone").lines().last(),
        Some("gone")
    );

    let start = [
        "run",
        "--detach",
        "--pull",
        "never",
        "--network",
        "none",
        "--name",
        "box",
        "app",
    ];
    docker.docker(&[&start[..], &["sh", "-c", "rm /file; echo three > /three"]].concat());
    docker.docker(&["wait", "box"]);
    docker.docker(&["commit", "box", "kept"]);
    assert_eq!(moved(&daemon).1, count(5), "commit");
    assert_eq!(run("kept", "cat /two /three"), "changed\nthree\n");

    let saved = scratch.path().join("saved.tar");
    docker.docker(&["save", "--output", text(&saved), "kept"]);
    docker.docker(&["rm", "box"]);
    docker.docker(&["image", "rm", "kept", "app", "base"]);
    docker.collect_garbage();
    docker.docker(&["load", "--input", text(&saved)]);
    assert_eq!(run("kept", "cat /two /three"), "changed\nthree\n");
    let (by_memory, by_walk) = trusted(&daemon);
    let unpacked = usize::try_from(moved(&daemon).0).unwrap();
    // Images are not looked at again.
    let by_stamp = if layers == "images" { 0 } else { unpacked };
    assert_eq!(
        (by_memory, by_walk),
        (by_stamp, 0),
        "layers committed without a walk"
    );
    docker.docker(&["system", "prune", "--all", "--force"]);
    daemon.assert_empty();
    daemon.assert_no_errors_logged();
    docker.stop();
    daemon.stop();
}

/// A build packs what each step changed; one of cached steps nothing, and then one the step that is
/// another.
fn builds(docker: &Docker, daemon: &Daemon, scratch: &Scratch, count: &dyn Fn(u64) -> u64) {
    let context = scratch.dir("context");
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    std::fs::write(context.join("file"), "file\n").unwrap();
    let build = ["build", "--network", "none", "--tag", "app", text(&context)];
    docker.docker(&build);
    let built = moved(daemon);
    assert_eq!(built.1, count(3), "build");
    let said = docker.docker(&build);
    assert_eq!(said.matches("Using cache").count(), 3, "{said}");
    let changed = DOCKERFILE.replace("echo two", "echo changed");
    std::fs::write(context.join("Dockerfile"), changed).unwrap();
    docker.docker(&build);
    assert_eq!(moved(daemon).1, count(4), "a build of the last step");
}

#[test]
fn root_docker_28_imports_builds_and_commits_through_layerd() {
    works_through("directories", "", true);
}

#[test]
fn root_docker_28_imports_builds_and_commits_on_images() {
    works_through("images", "", true);
}

#[test]
fn root_docker_28_works_with_unpacking_switched_off() {
    works_through("directories", "[unpack]\nenabled = false", false);
}
