//! Tools of operators: `layerctl doctor`, `orphans`, `du`, `why` and `events` against a real daemon,
//! the first two also against a real containerd, with faults; and the metrics in Prometheus.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "visible/accounts.rs"]
mod accounts;
#[path = "visible/containerds.rs"]
mod containerds;
#[path = "visible/doctor.rs"]
mod doctor;
#[path = "visible/events.rs"]
mod events;
#[path = "visible/monitoring.rs"]
mod monitoring;
#[path = "visible/orphans.rs"]
mod orphans;
#[path = "visible/report.rs"]
mod report;
#[path = "visible/top.rs"]
mod top;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch, Snapshots};
use serde_json::Value;

/// A command that ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    error: String,
}

impl Ended {
    /// One value a line.
    fn json(&self) -> Vec<Value> {
        let lines = self.out.lines().map(serde_json::from_str);
        lines
            .collect::<Result<_, _>>()
            .unwrap_or_else(|bad| panic!("{bad}: {self:?}"))
    }
}

/// A daemon with a configuration of its own, and the commands sent to it.
struct World {
    daemon: Daemon,
    client: Snapshots,
    config: PathBuf,
    scratch: Scratch,
}

impl World {
    /// With its data on the disk of the build. How full that is is no concern of the tests.
    /// containerd's socket, if there is one, is `c/containerd.sock`.
    fn new(more: &str) -> Self {
        let scratch = Scratch::new();
        let data = scratch.dir("d");
        Self::in_dir(scratch, &data, more, "")
    }

    /// As [`new`](Self::new); three removals put the guard on.
    fn guarded() -> Self {
        let scratch = Scratch::new();
        let data = scratch.dir("d");
        Self::in_dir(scratch, &data, "", "guard_min = 3")
    }

    fn in_dir(scratch: Scratch, data: &Path, more: &str, trash: &str) -> Self {
        let config = scratch.path().join("config.toml");
        let socket = scratch.path().join("c/containerd.sock");
        let text = format!(
            "overlayfs.spare_layers = 0\n{more}\n[reaper]\nevery_secs = 1\n[containerd]\naddress = {socket:?}\n[trash]\n\
             keep_secs = 3600\nmin_free_percent = 0\n{trash}\n"
        );
        std::fs::write(&config, text).unwrap();
        let daemon = Daemon::start_with(data, &["--config", config.to_str().unwrap()]);
        Self {
            client: daemon.snapshots(),
            daemon,
            config,
            scratch,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(profile().join("layerctl"));
        command.stdin(Stdio::null()).env_remove("LAYERD_ADDRESS");
        command
            .arg("--address")
            .arg(self.daemon.socket())
            .args(arguments);
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Of a command that must succeed.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let ended = self.ctl(&[&["-o", "json"], arguments].concat());
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.json()
    }

    /// `base`, `top` on it, and `work` on that.
    fn fill(&mut self) {
        self.client.prepare("key", "", &[]).unwrap();
        self.client.commit("base", "key", &[]).unwrap();
        let label = ("containerd.io/snapshot.ref", "sha256:layer");
        self.client.prepare("key", "base", &[label]).unwrap();
        self.client.commit("top", "key", &[label]).unwrap();
        self.client.prepare("work", "top", &[]).unwrap();
    }

    /// Runs a script in the data directory.
    fn sh(&self, script: &str) -> String {
        let mut shell = Command::new("sh");
        output(shell.args(["-euc", script]).current_dir(self.daemon.root()))
    }
}
