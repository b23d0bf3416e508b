//! The snapshot service as containerd knows it, call by call, against the real daemon.
//!
//! containerd tells cases apart by status codes, repeats calls after crashes and compares what two
//! calls answer, so each rule of the contract has its test here.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "snapshots/bad_input.rs"]
mod bad_input;
#[path = "snapshots/commit.rs"]
mod commit;
#[path = "snapshots/filters.rs"]
mod filters;
#[path = "snapshots/hangup.rs"]
mod hangup;
#[path = "snapshots/labels.rs"]
mod labels;
#[path = "snapshots/limits.rs"]
mod limits;
#[path = "snapshots/list.rs"]
mod list;
#[path = "snapshots/mounts.rs"]
mod mounts;
#[path = "snapshots/rules.rs"]
mod rules;
#[path = "snapshots/space.rs"]
mod space;

use std::path::{Path, PathBuf};

use layerd_integration::wire::Answer;
use layerd_integration::{Daemon, Scratch, Snapshots};
use layerd_proto::containerd::services::snapshots::v1::Info;
use layerd_proto::containerd::types::Mount;
use tonic::Code;

/// A daemon of the test's own and a client of it.
struct World {
    client: Snapshots,
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        Self::configured("")
    }

    /// With a configuration file. Removed layers go at once, however many.
    fn configured(text: &str) -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path().to_owned();
        Self::configured_in(scratch, &folder, text)
    }

    /// The same, with its data in a folder of this scratch space.
    fn configured_in(scratch: Scratch, folder: &Path, text: &str) -> Self {
        let file = scratch.path().join("config.toml");
        let trash = "[trash]\nkeep_secs = 0\nguard_percent = 0\n";
        std::fs::write(&file, format!("{trash}{text}")).unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let daemon = Daemon::start_with(folder, &arguments);
        Self {
            client: daemon.snapshots(),
            daemon,
            scratch,
        }
    }

    /// `base`, `top` on it, `active` and `view` on `base`, `lone` on nothing.
    fn furnished() -> Self {
        let mut world = Self::new();
        let client = &mut world.client;
        client.committed("base", "").unwrap();
        client.committed("top", "base").unwrap();
        client
            .prepare("active", "base", &[("mark", "active")])
            .unwrap();
        client.view("view", "base", &[]).unwrap();
        client.prepare("lone", "", &[]).unwrap();
        world
    }

    /// All that a refused call must leave as it was. The trash goes by itself.
    fn state(&mut self) -> (Vec<Info>, Vec<PathBuf>) {
        let trash = self.daemon.root().join("t");
        let mut directories = self.daemon.directories();
        directories.retain(|path| !path.starts_with(&trash));
        directories.sort();
        (self.client.list(), directories)
    }

    /// Requires that `call` is refused with `code` and changes nothing. Answers the message.
    fn refuses<T: std::fmt::Debug>(
        &mut self,
        what: &str,
        code: Code,
        call: impl FnOnce(&mut Snapshots) -> Answer<T>,
    ) -> String {
        let before = self.state();
        let status = match call(&mut self.client) {
            Ok(reply) => panic!("{what}: accepted with {reply:?}"),
            Err(status) => status,
        };
        assert_eq!(status.code(), code, "{what}: {}", status.message());
        assert_eq!(
            self.state(),
            before,
            "{what}: refused, and changed something"
        );
        status.message().to_owned()
    }

    /// As [`refuses`](Self::refuses), for a message written by hand.
    fn refuses_raw(&mut self, what: &str, code: Code, method: &str, body: &[u8]) -> String {
        let socket = self.daemon.socket().to_owned();
        self.refuses(what, code, |_| {
            layerd_integration::wire::raw(&socket, method, body)
        })
    }

    /// No error, no panic, and no warning but the one that a kill leaves, and those of limits that are
    /// nearly reached.
    fn assert_no_errors_logged(&self) {
        let log = self.daemon.log();
        let is_bad = |line: &&str| {
            let bad = ["ERROR", " WARN", "panicked"]
                .iter()
                .any(|word| line.contains(word));
            let meant = ["did not end in order", "of a limit are used"];
            bad && !meant.iter().any(|words| line.contains(words))
        };
        let bad: Vec<&str> = log.lines().filter(is_bad).collect();
        assert!(bad.is_empty(), "layerd logged:\n{}", bad.join("\n"));
    }

    fn kill9_and_restart(&mut self) {
        self.daemon.kill9();
        self.daemon.restart();
        self.client = self.daemon.snapshots();
    }

    fn stop_and_restart(&mut self) {
        self.daemon.stop();
        self.daemon.restart();
        self.client = self.daemon.snapshots();
    }
}

/// The value of `name=value` among the options of a mount.
fn option<'m>(mount: &'m Mount, name: &str) -> Option<&'m str> {
    let value = |option: &'m String| option.strip_prefix(name)?.strip_prefix('=');
    mount.options.iter().find_map(value)
}

/// The writable directory of an active snapshot.
fn upper(mounts: &[Mount]) -> &Path {
    let [mount] = mounts else {
        panic!("not one mount: {mounts:?}")
    };
    Path::new(option(mount, "upperdir").unwrap_or(&mount.source))
}
