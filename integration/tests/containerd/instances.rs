//! Several layerds on a node, each with a driver of its own, in one containerd, set up by `layerctl setup`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use layerd_integration::plugin::own_run;
use layerd_integration::process::{WAIT_LIMIT, output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Version, image};

use crate::{NAME, World};

const COPIES: &str = "layerd-copies";

/// The file that is named so has the line that imports drop-ins, and nothing of layerd.
fn without_layerd(configuration: &str, drop_ins: &str) -> String {
    let (own, _) = configuration.split_once("[proxy_plugins.layerd]").unwrap();
    own.replacen('\n', &format!("\nimports = [\"{drop_ins}/*.toml\"]\n"), 1)
}

impl World {
    fn set_up(&self, more: &[&str]) -> Output {
        let path = |name: &str| self.scratch.path().join(name);
        let mut command = Command::new(profile().join("layerctl"));
        command.args(["setup", "containerd", "--version", "2.1", "--write"]);
        command.arg("--config").arg(path("c/containerd.toml"));
        command.arg("--dir").arg(path("c/conf.d"));
        command.arg("--socket").arg(self.daemon.socket());
        command.arg("--root").arg(self.daemon.root());
        command.args(more).output().unwrap()
    }

    /// Layers that a daemon has unpacked since it began.
    fn unpacked(daemon: &Daemon) -> u64 {
        let mut command = Command::new(profile().join("layerctl"));
        command.arg("--address").arg(daemon.socket());
        let said = output(command.args(["-o", "json", "info"]));
        let info: serde_json::Value = serde_json::from_str(&said).unwrap();
        info["layers_unpacked"].as_u64().unwrap()
    }
}

#[test]
fn root_two_drivers_serve_one_containerd() {
    own_run();
    let mut world = World::new(Version::V2_1);
    let copies = world.scratch.dir("copies");
    let copies = Daemon::start_with(&copies, &["--driver", "native"]);
    // Where both look by default.
    for (socket, default) in [
        (copies.socket(), "/run/layerd/copies.sock"),
        (world.containerd.socket(), "/run/containerd/containerd.sock"),
    ] {
        fs::create_dir_all(Path::new(default).parent().unwrap()).unwrap();
        symlink(socket, default).unwrap();
    }

    world.containerd.stop();
    let main = world.scratch.path().join("c/containerd.toml");
    let drop_ins = world.scratch.path().join("c/conf.d");
    let before = fs::read_to_string(&main).unwrap();
    fs::write(&main, without_layerd(&before, drop_ins.to_str().unwrap())).unwrap();
    let written = world.set_up(&["--instance", "copies"]);
    assert!(written.status.success(), "{written:?}");
    // It would be forgotten, and its snapshots with it.
    let left_out = world.set_up(&[]);
    let said = String::from_utf8(left_out.stderr).unwrap();
    assert!(said.contains("it has the instances copies"), "{said}");
    world.containerd.restart();

    let image = world.image(NAME, &image::corpus());
    let layers = image.chain().len() as u64;
    world.import(&image, "layerd");
    let told = [&world.daemon, &copies].map(World::unpacked);
    assert_eq!(told, [layers, 0]);
    world.import(&image, COPIES);
    let told = [&world.daemon, &copies].map(World::unpacked);
    assert_eq!(told, [layers, layers]);
    for snapshotter in ["layerd", COPIES] {
        let tree = world.tree(snapshotter, image.top());
        tree.assert_equals(image.tree());
    }
    let shell = ["/bin/sh", "-c", "echo changed > /etc/motd; exec sleep 1000"];
    let run = [
        "run",
        "--detach",
        "--null-io",
        "--snapshotter",
        COPIES,
        NAME,
    ];
    let run = [&run[..], &[world.container()], &shell].concat();
    world.containerd.ctr(&run);
    wait_until("the container's change", WAIT_LIMIT, || {
        world.exec(&["/bin/cat", "/etc/motd"]) == "changed\n"
    });
    world.end();
    let remove = ["containers", "rm", world.container()];
    world.containerd.ctr(&remove);
    world.remove_image(NAME);
    copies.assert_empty();
    copies.assert_no_errors_logged();
    world.finish();
}
