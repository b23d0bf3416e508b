//! Docker 28 and Compose.

use std::fs;

use layerd_integration::process::wait_until;
use layerd_integration::{Docker, Transcript};

use super::{World, run, with_docker};

#[test]
fn root_docker_28_works_with_volumes_of_the_plugin() {
    let world = World::new();
    let _transcript = Transcript::begin("docker", world.scratch.path());
    let docker = with_docker(&world);
    docker.docker(&["volume", "create", "-d", "layerd", "-o", "size=10g", "data"]);
    assert_eq!(
        docker.docker(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]),
        "layerd data\n"
    );

    // -v with a volume that exists, -v and --mount with one that does not.
    docker.docker(&run("web", &["-v", "data:/data"]));
    docker.docker(&run(
        "db",
        &["-v", "made:/data", "--volume-driver", "layerd"],
    ));
    docker.docker(&run(
        "app",
        &[
            "--mount",
            "type=volume,src=owned,dst=/data,volume-driver=layerd,volume-opt=uid=5",
        ],
    ));
    let options = [
        "volume", "create", "-d", "layerd", "-o", "type=nfs", "other",
    ];
    let refused = docker.command(&options).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("Opts[\"type\"]: is unknown"), "{text}");

    // Docker fills an empty volume from the image.
    assert_eq!(
        docker.docker(&["exec", "web", "cat", "/data/of-image"]),
        "image\n"
    );
    docker.docker(&["exec", "web", "sh", "-c", "echo written > /data/file"]);
    for (volume, container) in [("data", "web"), ("made", "db"), ("owned", "app")] {
        world.wait_for_containers(volume, &[&format!("plugin:docker/{container}")]);
        assert_eq!(world.holders(volume).len(), 2, "and its mount id");
    }
    inspect_shows_holders_and_size(&docker);

    // docker cp sends Mount and Unmount with the id of the container.
    let copied = world.scratch.path().join("copied");
    docker.docker(&["cp", "web:/data/file", copied.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copied).unwrap(), "written\n");
    world.refuses_removal("data", "docker/web");

    let refused = docker.command(&["volume", "rm", "data"]).output().unwrap();
    assert!(!refused.status.success());
    docker.docker(&["stop", "--timeout", "0", "web"]);
    world.refuses_removal("data", "docker/web");
    docker.docker(&["start", "web"]);
    assert_eq!(
        docker.docker(&["exec", "web", "cat", "/data/file"]),
        "written\n"
    );
    // Docker prunes volumes of its own driver alone.
    docker.docker(&["volume", "prune", "--all", "--force"]);
    docker.docker(&["rm", "--force", "web", "db", "app"]);
    // At once: Remove looks at Docker's list itself.
    docker.docker(&["volume", "rm", "data", "made", "owned"]);
    assert_eq!(docker.docker(&["volume", "ls", "--quiet"]), "");
    world.daemon.assert_no_errors_logged();
}

fn inspect_shows_holders_and_size(docker: &Docker) {
    let status = docker.docker(&["volume", "inspect", "--format", "{{json .Status}}", "data"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["size"]["limit"], "enforced by an image");
    assert!(
        status["holders"].to_string().contains("docker/web"),
        "{status}"
    );
    let created = docker.docker(&["volume", "inspect", "--format", "{{.CreatedAt}}", "data"]);
    assert!(created.starts_with("20"), "{created}");
}

const COMPOSE: &str = "\
services:
  web:
    image: base
    command: sleep 1000
    network_mode: none
    volumes: ['data:/data']
volumes:
  data:
    driver: layerd
    driver_opts: { size: 1g, mode: '0700' }
";

#[test]
fn root_compose_makes_and_removes_volumes() {
    let world = World::new();
    let _transcript = Transcript::begin("compose", world.scratch.path());
    let docker = with_docker(&world);
    docker.add_compose();
    let file = world.scratch.path().join("compose.yaml");
    fs::write(&file, COMPOSE).unwrap();
    let compose = |arguments: &[&str]| {
        let fixed = [
            "compose",
            "--project-name",
            "shop",
            "--file",
            file.to_str().unwrap(),
        ];
        docker.docker(&[&fixed[..], arguments].concat())
    };
    compose(&["up", "--detach"]);
    world.wait_for_containers("shop_data", &["plugin:docker/shop-web-1"]);
    assert_eq!(
        compose(&["exec", "-T", "web", "cat", "/data/of-image"]),
        "image\n"
    );
    // Again, with what is there.
    compose(&["up", "--detach", "--force-recreate", "--timeout", "0"]);
    compose(&["down", "--volumes", "--timeout", "0"]);
    assert_eq!(world.plugin().names(), Vec::<String>::new());
}

/// Holders are removed with Docker's containers, and made for existing ones, whatever was missed.
#[test]
fn root_holders_are_those_of_docker_s_list() {
    let mut world = World::new();
    let docker = with_docker(&world);
    docker.docker(&["volume", "create", "-d", "layerd", "gone"]);
    docker.docker(&["volume", "create", "-d", "layerd", "left"]);
    docker.docker(&run("one", &["-v", "gone:/data"]));
    docker.docker(&run("two", &["-v", "left:/data"]));
    world.wait_for_containers("gone", &["plugin:docker/one"]);
    world.wait_for_containers("left", &["plugin:docker/two"]);
    world.refuses_rename("left", "plugin docker");
    world.daemon.kill9();
    // The Unmount reaches nothing: Docker tries for a while, logs it, and goes on.
    docker.docker(&["rm", "--force", "one"]);
    docker.docker(&["rename", "two", "second"]);
    world.daemon.restart();
    world.wait_for_containers("left", &["plugin:docker/second"]);
    wait_until("what is gone to hold nothing", super::AGREED, || {
        world.holders("gone").is_empty()
    });
    assert_eq!(
        world.holders("left").len(),
        2,
        "the mount id stays while a container runs"
    );
    world.layerctl(&["volume", "rm", "gone"]);
    world.refuses_removal("left", "docker/");
    let listed = docker.docker(&["volume", "ls", "--quiet"]);
    assert_eq!(listed, "left\n");
    docker.docker(&["rm", "--force", "second"]);
    docker.docker(&["volume", "rm", "left"]);
}
