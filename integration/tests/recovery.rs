//! Losing things and getting them back: the database, removed snapshots, single layers.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "recovery/backup.rs"]
mod backup;
#[path = "recovery/closed.rs"]
mod closed;
#[path = "recovery/faults.rs"]
mod faults;
#[path = "recovery/full.rs"]
mod full;
#[path = "recovery/guard.rs"]
mod guard;
#[path = "recovery/ids.rs"]
mod ids;
#[path = "recovery/lost.rs"]
mod lost;
#[path = "recovery/older.rs"]
mod older;
#[path = "recovery/quarantine.rs"]
mod quarantine;
#[path = "recovery/reserve.rs"]
mod reserve;
#[path = "recovery/volumes.rs"]
mod volumes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch, Snapshots, Tree};
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
use layerd_proto::containerd::types::Mount;
use serde_json::Value;

/// `target/debug` or another profile.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

fn program(name: &str) -> Command {
    let path = programs().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build`",
        path.display()
    );
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).env_remove("LAYERD_ADDRESS");
    command
}

/// A command that ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    error: String,
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

/// State as a client sees it, and as it is on disk, without removed snapshots.
#[derive(Debug, PartialEq)]
struct State {
    list: Vec<Info>,
    mounts: BTreeMap<String, Vec<Mount>>,
    layers: Tree,
    /// Content of each snapshot when mounted.
    content: BTreeMap<String, Tree>,
}

/// A daemon, a client and the commands sent to it.
struct World {
    client: Snapshots,
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    /// Removed layers stay for an hour, unless `trash` says otherwise, however full the disk is. None
    /// are made ahead: the numbers of layers are those of the calls.
    fn new(trash: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path().join("config.toml");
        let trash = if trash.is_empty() {
            "keep_secs = 3600\nguard_percent = 0"
        } else {
            trash
        };
        std::fs::write(
            &file,
            format!(
                "[overlayfs]\nspare_layers = 0\n[trash]\nmin_free_percent = 0\n{trash}\n\
                 [reaper]\nevery_secs = 1\n"
            ),
        )
        .unwrap();
        let daemon = Daemon::start_with(scratch.path(), &["--config", file.to_str().unwrap()]);
        Self {
            client: daemon.snapshots(),
            daemon,
            scratch,
        }
    }

    /// `base` (layer 1), `top` on it (2), `work` being written on that (3), `lone` on nothing (4),
    /// `look`, a view of `top` (5).
    fn furnish(&mut self) {
        self.commit("base", "");
        self.commit("top", "base");
        self.client.prepare("work", "top", &[("a", "b")]).unwrap();
        self.sh("echo work > l/3/work");
        self.client.prepare("lone", "", &[]).unwrap();
        self.sh("echo lone > l/4/lone");
        self.client.view("look", "top", &[]).unwrap();
        self.sh("grep -q base l/1/base && grep -q top l/2/top");
    }

    /// A committed snapshot that holds a file of its name, and one that all share.
    fn commit(&mut self, name: &str, parent: &str) {
        let mounts = self.client.prepare("key", parent, &[]).unwrap();
        let dir = layer_dir(&mounts);
        std::fs::write(dir.join(name), format!("{name}\n")).unwrap();
        std::fs::write(dir.join("shared"), format!("from {name}\n")).unwrap();
        self.client.commit(name, "key", &[("l", name)]).unwrap();
    }

    /// Runs a script in the root.
    fn sh(&self, script: &str) -> String {
        let mut shell = Command::new("sh");
        output(shell.args(["-euc", script]).current_dir(self.daemon.root()))
    }

    fn is_so(&self, script: &str) -> bool {
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(self.daemon.root());
        shell.status().unwrap().success()
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        let mut command = program("layerctl");
        command.arg("--address").arg(self.daemon.socket());
        end(command.args(arguments))
    }

    /// Standard output of a command that must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let ended = self.ctl(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.run(&[&["-o", "json"], arguments].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// As [`json`](Self::json), of a command that may fail.
    fn json_of(&self, arguments: &[&str]) -> Vec<Value> {
        let ended = self.ctl(&[&["-o", "json"], arguments].concat());
        let lines = ended.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn state(&mut self) -> State {
        let mut list = self.client.list();
        list.sort_by(|left, right| left.name.cmp(&right.name));
        for info in &list {
            assert_eq!(&self.client.stat(&info.name).unwrap(), info);
        }
        let open = list.iter().filter(|info| info.kind() != Kind::Committed);
        let names: Vec<String> = open.map(|info| info.name.clone()).collect();
        let (mut mounts, mut content) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            mounts.insert(name.clone(), self.client.mounts(&name).unwrap());
            let tree = self.content(&name);
            content.insert(name, tree);
        }
        let mut layers = Tree::read(&self.daemon.root().join("l"));
        let removed = self.json(&["trash", "ls"]);
        let removed: Vec<_> = removed.iter().map(|one| one["id"].as_str()).collect();
        let id = |path: &str| path.split('/').next().map(str::to_owned);
        layers
            .0
            .retain(|path, _| !removed.contains(&id(path).as_deref()));
        State {
            list,
            mounts,
            layers,
            content,
        }
    }

    fn content(&self, key: &str) -> Tree {
        let dir = self.scratch.dir("mnt");
        let dir_text = dir.to_str().unwrap();
        self.run(&["snapshot", "mount", key, dir_text]);
        let tree = Tree::read(&dir);
        self.run(&["snapshot", "umount", dir_text]);
        tree
    }

    /// As a crash does.
    fn kill(&mut self) {
        self.daemon.kill9();
    }

    fn restart(&mut self) {
        self.daemon.restart();
        self.client = self.daemon.snapshots();
    }
}

/// The directory that a snapshot is written to.
fn layer_dir(mounts: &[Mount]) -> PathBuf {
    let mount = &mounts[0];
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    Path::new(upper.unwrap_or(&mount.source)).to_owned()
}
