//! Volumes, as an operator has them: `layerctl` against the running daemon.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "volumes/archives.rs"]
mod archives;
#[path = "volumes/attach.rs"]
mod attach;
#[path = "volumes/containers.rs"]
mod containers;
#[path = "volumes/copies.rs"]
mod copies;
#[path = "volumes/hooks.rs"]
mod hooks;
#[path = "volumes/images.rs"]
mod images;
#[path = "volumes/life.rs"]
mod life;
#[path = "volumes/limits.rs"]
mod limits;
#[path = "volumes/many.rs"]
mod many;
#[path = "volumes/owners.rs"]
mod owners;
#[path = "volumes/prune.rs"]
mod prune;
#[path = "volumes/quotas.rs"]
mod quotas;
#[path = "volumes/trash.rs"]
mod trash;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use layerd_integration::scratch::mounts_below;
use layerd_integration::{Daemon, Scratch};
use serde_json::Value;

/// A command that ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    error: String,
}

/// A daemon and the commands sent to it.
struct World {
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let daemon = Daemon::start(scratch.path());
        Self { daemon, scratch }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let test = std::env::current_exe().unwrap();
        // The programs lie beside deps/.
        let path = test.ancestors().nth(2).unwrap().join("layerctl");
        assert!(path.exists(), "{path:?} is missing: run `cargo build`");
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).env_remove("LAYERD_ADDRESS");
        command.arg("--address").arg(self.daemon.socket());
        command.args(arguments);
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        end(&mut self.command(arguments))
    }

    /// Standard output of a command that must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let ended = self.ctl(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    /// Standard error of a command that must fail with `code`.
    fn fail(&self, code: i32, arguments: &[&str]) -> String {
        let ended = self.ctl(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        ended.error
    }

    /// One value a line.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.run(&[&["-o", "json"], arguments].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The one value that a command answers.
    fn one(&self, arguments: &[&str]) -> Value {
        let mut all = self.json(arguments);
        assert_eq!(all.len(), 1, "{arguments:?}: {all:?}");
        all.remove(0)
    }

    /// Names in the order of the list.
    fn names(&self, more: &[&str]) -> Vec<String> {
        let text = self.run(&[&["volume", "ls", "-q"], more].concat());
        text.lines().map(str::to_owned).collect()
    }

    fn inspect(&self, name: &str) -> Value {
        self.one(&["volume", "inspect", name])
    }

    /// Where a volume's content is.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(text(&self.inspect(name), "path"))
    }

    /// Creates a volume and puts `content` into its file `file`.
    fn create_with(&self, name: &str, content: &str) -> PathBuf {
        self.run(&["volume", "create", name]);
        let path = self.path(name);
        std::fs::write(path.join("file"), content).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name).join("file")).unwrap()
    }

    /// The link for people to a volume of this name.
    fn link(&self, name: &str) -> PathBuf {
        self.daemon.root().join("volumes/by-name").join(name)
    }

    /// Mounts, without the one mount point of layerd's own, which stays: it keeps mounts
    /// below it private.
    fn mounts(&self) -> Vec<PathBuf> {
        let own = self.daemon.root().join("mnt");
        let mut mounts = mounts_below(self.scratch.path());
        mounts.retain(|place| *place != own);
        mounts
    }

    fn crash(&mut self) {
        self.daemon.kill9();
        self.daemon.restart();
    }
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs calls of a client of the test's own.
fn on_runtime<T>(calls: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(calls)
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap().to_owned()
}
