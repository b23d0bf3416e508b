//! Podman 4.3 and 5.4, each in the Debian it comes from.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Podman, PodmanVersion, Transcript};

use super::{World, image};

/// Podman counts its containers itself, and has one mount id for all of them.
const HELD: [&str; 1] = ["plugin:podman"];

/// A Podman that layerctl has told of the plugin, with an image `base`.
fn with_podman(world: &World, version: PodmanVersion) -> Podman {
    let shared = world.daemon.root().to_owned();
    let podman = Podman::new(version, &world.scratch.dir("p"), &shared);
    let drop_ins = podman.root().join("etc/containers/containers.conf.d");
    let setup = [
        "setup",
        "podman",
        "--write",
        "--dir",
        drop_ins.to_str().unwrap(),
    ];
    world.layerctl(&setup);
    let archive = image(&world.scratch);
    std::fs::copy(&archive, podman.root().join("base.tar")).unwrap();
    podman.podman(&["import", "/base.tar", "base"]);
    podman
}

fn start(podman: &Podman, name: &str, mount: &str) {
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    let run = [
        "run",
        "--detach",
        "--network",
        "none",
        "--name",
        name,
        mount,
    ];
    podman.podman(&[&run[..], &limits, &["base", "sleep", "1000"]].concat());
}

fn works_with_volumes(version: PodmanVersion) {
    let mut world = World::new();
    let name = match version {
        PodmanVersion::V4_3 => "podman-4.3",
        PodmanVersion::V5 => "podman-5",
    };
    let _transcript = Transcript::begin(name, world.scratch.path());
    let podman = with_podman(&world, version);
    podman.podman(&[
        "volume",
        "create",
        "--driver",
        "layerd",
        "--opt",
        "mode=0750",
        "data",
    ]);
    let bad = [
        "volume", "create", "--driver", "layerd", "--opt", "type=nfs", "other",
    ];
    let refused = podman.command(&bad).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("Opts[\"type\"]: is unknown"),
        "{text}"
    );

    start(&podman, "web", "--volume=data:/data");
    let mount = "--mount=type=volume,source=data,destination=/srv";
    start(&podman, "db", mount);
    assert_eq!(world.holders("data"), HELD);
    podman.podman(&["exec", "web", "sh", "-c", "echo written > /data/file"]);
    assert_eq!(
        podman.podman(&["exec", "db", "cat", "/srv/file"]),
        "written\n"
    );
    world.daemon.kill9();
    assert_eq!(
        podman.podman(&["exec", "db", "cat", "/srv/file"]),
        "written\n"
    );
    world.daemon.restart();
    world.refuses_removal("data", "plugin podman");
    let path = podman.podman(&["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    assert!(Path::new(path.trim()).join("file").exists(), "{path}");

    podman.podman(&["rm", "--force", "--time", "0", "web"]);
    assert_eq!(world.holders("data"), HELD, "one of two is left");
    podman.podman(&["rm", "--force", "--time", "0", "db"]);
    assert_eq!(world.holders("data"), Vec::<String>::new());
    podman.podman(&["volume", "rm", "data"]);
    assert_eq!(world.plugin().names(), Vec::<String>::new());

    world.layerctl(&["volume", "create", "outside"]);
    assert!(podman.podman(&["volume", "reload"]).contains("outside"));
    assert!(
        podman
            .podman(&["volume", "ls", "--quiet"])
            .contains("outside")
    );
    world.daemon.assert_no_errors_logged();
}

#[test]
fn root_podman_4_3_works_with_volumes_of_the_plugin() {
    works_with_volumes(PodmanVersion::V4_3);
}

#[test]
fn root_podman_5_works_with_volumes_of_the_plugin() {
    works_with_volumes(PodmanVersion::V5);
}

const PLAIN: &str = "volumes.layerd.io/mounts=type=volume,src=data,dst=/data";
const QUOTED: &str = "\"volumes.layerd.io/mounts=type=volume,src=data,dst=/data\"";

/// The address of layerd that the hooks know.
const ADDRESS: &str = "/run/layerd/layerd.sock";

/// A Podman with the hooks of deploy/, whose /run has layerd's socket.
fn with_hooks(world: &World, version: PodmanVersion) -> Podman {
    let address = Path::new(ADDRESS);
    fs::create_dir_all(address.parent().unwrap()).unwrap();
    File::create(address).unwrap();
    let mut bind = Command::new("mount");
    output(bind.arg("--bind").args([world.daemon.socket(), address]));
    let podman = with_podman(world, version);
    let program = podman.root().join("usr/bin/layerctl");
    fs::copy(profile().join("layerctl"), program).unwrap();
    let hooks = podman.root().join("usr/share/containers/oci/hooks.d");
    fs::create_dir_all(&hooks).unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/oci-hooks");
    for name in ["layerd-create-runtime.json", "layerd-poststop.json"] {
        fs::copy(deploy.join(name), hooks.join(name)).unwrap();
    }
    podman
}

/// `right` is the form of the annotation that this release takes, and with `wrong` nothing is started.
fn hooks_bring_a_volume(version: PodmanVersion, right: &str, wrong: &str) {
    let world = World::new();
    let podman = with_hooks(&world, version);
    world.layerctl(&["volume", "create", "data"]);
    let run = |name: &str, annotation: &str| {
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ];
        let run = ["run", "--detach", "--network", "none", "--name", name];
        let what = ["--annotation", annotation, "base", "sleep", "1000"];
        let command = [&run[..], &limits, &what].concat();
        podman.command(&command).output().unwrap()
    };
    let refused = run("none", wrong);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success(),
        "started without its volume: {said}"
    );
    assert_eq!(world.holders("data"), Vec::<String>::new());
    let started = run("web", right);
    assert!(started.status.success(), "{started:?}");
    podman.podman(&["exec", "web", "sh", "-c", "echo written > /data/file"]);
    let file = world.daemon.root().join("volumes/by-name/data/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "written\n");
    let holders = world.holders("data");
    assert!(
        holders.len() == 1 && holders[0].starts_with("container:oci:"),
        "{holders:?}"
    );
    podman.podman(&["rm", "--force", "--time", "0", "web"]);
    assert_eq!(world.holders("data"), Vec::<String>::new());
}

#[test]
fn root_podman_4_3_brings_volumes_by_hooks() {
    hooks_bring_a_volume(PodmanVersion::V4_3, QUOTED, PLAIN);
}

#[test]
fn root_podman_5_brings_volumes_by_hooks() {
    hooks_bring_a_volume(PodmanVersion::V5, PLAIN, QUOTED);
}
