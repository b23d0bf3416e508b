//! The volume plugin for Docker and Podman: the protocol raw, and both of them on it.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "volume_plugin/churn.rs"]
mod churn;
#[path = "volume_plugin/docker.rs"]
mod docker;
#[path = "volume_plugin/hostile.rs"]
mod hostile;
#[path = "volume_plugin/podman.rs"]
mod podman;
#[path = "volume_plugin/raw.rs"]
mod raw;
#[path = "volume_plugin/restarts.rs"]
mod restarts;
#[path = "volume_plugin/setup.rs"]
mod setup;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::plugin::{SOCKET, own_run};
use layerd_integration::process::{output, wait_until};
use layerd_integration::{Daemon, Docker, Entry, Plugin, Scratch};
use serde_json::Value;

/// Longest time until holders agree with dockerd's list: one look at it, and a loaded machine.
const AGREED: Duration = Duration::from_secs(30);

/// A daemon that serves the plugin where Docker looks for it.
struct World {
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        own_run();
        let scratch = Scratch::new();
        let config = write_config(&scratch, 0);
        let daemon = Daemon::start_with(&scratch.dir("d"), &["--config", config.to_str().unwrap()]);
        Self { daemon, scratch }
    }

    fn plugin(&self) -> Plugin {
        Plugin::at(Path::new(SOCKET))
    }

    fn try_layerctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let test = std::env::current_exe().unwrap();
        // The programs lie beside deps/.
        let program = test.parent().unwrap().parent().unwrap().join("layerctl");
        let mut command = Command::new(program);
        command
            .arg("--address")
            .arg(self.daemon.socket())
            .args(arguments);
        command
    }

    fn layerctl(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// The owners of a volume's holders, sorted.
    fn holders(&self, volume: &str) -> Vec<String> {
        let text = self.layerctl(&["-o", "json", "who-uses", volume]);
        let mut owners: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|one| one["owner"].as_str().unwrap().to_owned())
            .collect();
        owners.sort();
        owners
    }

    /// Waits until the containers among the holders of a volume are these.
    fn wait_for_containers(&self, volume: &str, wanted: &[&str]) {
        let mut last = Vec::new();
        let what = format!("{wanted:?} to hold {volume}");
        wait_until(&what, AGREED, || {
            last = self.holders(volume);
            last.retain(|owner| !owner.contains("/mount/"));
            last == wanted
        });
    }

    fn refuses_removal(&self, volume: &str, by: &str) {
        let ended = self.try_layerctl(&["volume", "rm", volume]);
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(by), "{text}");
    }

    /// Requires that a volume cannot be renamed, for a holder who knows it by name.
    fn refuses_rename(&self, volume: &str, by: &str) {
        let ended = self.try_layerctl(&["volume", "rename", volume, "other"]);
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(by), "{text}");
        assert!(text.contains("known by this name"), "{text}");
    }
}

/// With dockerd's API where [`with_docker`] has it.
fn write_config(scratch: &Scratch, grace: u64) -> PathBuf {
    let path = scratch.path().join("config.toml");
    let api = Docker::socket(&scratch.path().join("k"));
    let text = format!(
        "[docker]\nsocket = \"{SOCKET}\"\napi = \"{}\"\nmount_grace_secs = {grace}\n",
        api.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A Docker beside a world, with an image `base` that has a file /data/of-image.
fn with_docker(world: &World) -> Docker {
    let docker = Docker::start_alone(&world.scratch.dir("k"));
    docker.docker(&["import", image(&world.scratch).to_str().unwrap(), "base"]);
    docker
}

fn image(scratch: &Scratch) -> PathBuf {
    let archive = scratch.path().join("base.tar");
    let mut entries = busybox();
    entries.push(Entry::directory("data"));
    entries.push(Entry::file("data/of-image", "image\n"));
    write_layer(&archive, &entries);
    archive
}

/// Arguments of a container that runs until it is ended.
fn run<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["run", "--detach", "--network", "none", "--name", name];
    let command = ["base", "sleep", "1000"];
    [&fixed[..], more, &command[..]].concat()
}
