//! Docker 28 with layerd as storage driver and differ.

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::{Docker, Scratch};

use super::{daemon, moved, text, trusted};

const DOCKERFILE: &str = "\
FROM base
COPY file /file
RUN echo one > /one && mkdir /kept && echo kept > /kept/file
RUN rm /one && echo two > /two
";

/// Import unpacks; a build packs what each step changed and unpacks nothing; commit packs; what was
/// packed runs.
fn works_through(more: &str, is_ours: bool) {
    let scratch = Scratch::new();
    let mut daemon = daemon(&scratch, more);
    let mut docker = Docker::start_unpacking(&scratch.dir("c"), daemon.socket());
    let count = |number: u64| if is_ours { number } else { 0 };
    let archive = scratch.path().join("base.tar");
    write_layer(&archive, &busybox());
    docker.docker(&["import", text(&archive), "base"]);
    assert_eq!(moved(&daemon), (count(1), 0), "import");

    let context = scratch.dir("context");
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    std::fs::write(context.join("file"), "file\n").unwrap();
    let build = ["build", "--network", "none", "--tag", "app", text(&context)];
    docker.docker(&build);
    let built = moved(&daemon);
    assert_eq!(built.1, count(3), "build");

    let run = |image: &str, script: &str| {
        let run = ["run", "--rm", "--pull", "never", "--network", "none", image];
        docker.docker(&[&run[..], &["sh", "-c", script]].concat())
    };
    assert_eq!(run("app", "cat /file /two /kept/file"), "file\ntwo\nkept\n");
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
    assert_eq!(moved(&daemon).1, count(4), "commit");
    assert_eq!(run("kept", "cat /two /three"), "two\nthree\n");

    let saved = scratch.path().join("saved.tar");
    docker.docker(&["save", "--output", text(&saved), "kept"]);
    docker.docker(&["rm", "box"]);
    docker.docker(&["image", "rm", "kept", "app", "base"]);
    docker.collect_garbage();
    docker.docker(&["load", "--input", text(&saved)]);
    assert_eq!(run("kept", "cat /two /three"), "two\nthree\n");
    let (by_memory, by_walk) = trusted(&daemon);
    let unpacked = usize::try_from(moved(&daemon).0).unwrap();
    assert_eq!(
        (by_memory, by_walk),
        (unpacked, 0),
        "layers committed without a walk"
    );
    docker.docker(&["system", "prune", "--all", "--force"]);
    daemon.assert_empty();
    daemon.assert_no_errors_logged();
    docker.stop();
    daemon.stop();
}

#[test]
fn root_docker_28_imports_builds_and_commits_through_layerd() {
    works_through("", true);
}

#[test]
fn root_docker_28_works_with_unpacking_switched_off() {
    works_through("[unpack]\nenabled = false", false);
}
