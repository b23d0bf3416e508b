//! layerd in the user namespace of an ordinary user, with a containerd in the same.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "rootless/images.rs"]
mod images;
#[path = "rootless/refusals.rs"]
mod refusals;
#[path = "rootless/units.rs"]
mod units;
#[path = "rootless/volumes.rs"]
mod volumes;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use layerd_integration::namespace::USER;
use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch, UserNamespace};

/// A layerd in a user namespace. Its user owns all that is in the scratch directory.
struct World {
    daemon: Daemon,
    namespace: Arc<UserNamespace>,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        Self::start(&[])
    }

    /// With another driver than overlay.
    fn with_driver(name: &str) -> Self {
        Self::start(&["--driver", name])
    }

    /// The configuration names a containerd that lives in `c`.
    fn start(arguments: &[&str]) -> Self {
        let scratch = Scratch::new();
        let namespace = Arc::new(UserNamespace::new(&scratch));
        let containerd = owned(&scratch, "c");
        let text = format!(
            "[containerd]\naddress = \"{0}/containerd.sock\"\nroot = \"{0}/root\"\n",
            text(&containerd)
        );
        let config = scratch.path().join("layerd.toml");
        std::fs::write(&config, text).unwrap();
        let dir = owned(&scratch, "d");
        let arguments = [&["--config", self::text(&config)], arguments].concat();
        let daemon = Daemon::start_within(&namespace, &dir, &arguments);
        Self {
            daemon,
            namespace,
            scratch,
        }
    }

    /// Runs a script as root of the namespace.
    fn within(&self, script: &str) -> String {
        let mut shell = self.namespace.command(Path::new("sh"));
        output(shell.args(["-euc", script]))
    }

    /// Runs layerctl, which talks to the daemon from outside.
    fn layerctl(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// The complaint of a layerctl that fails.
    fn refused(&self, arguments: &[&str]) -> String {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        assert!(!status.success(), "{arguments:?}");
        String::from_utf8(stderr).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(profile().join("layerctl"));
        command.stdin(Stdio::null()).arg("--address");
        command.arg(self.daemon.socket()).args(arguments);
        command
    }

    /// Requires that nothing was logged that needs a person, but what `is_known`.
    fn assert_log(&self, is_known: &dyn Fn(&str) -> bool) {
        let log = self.daemon.log();
        let is_bad = |line: &&str| {
            ["ERROR", "WARN", "panicked"]
                .iter()
                .any(|word| line.contains(word))
        };
        let bad: Vec<&str> = log
            .lines()
            .filter(is_bad)
            .filter(|line| !is_known(line))
            .collect();
        assert!(bad.is_empty(), "layerd logged:\n{}", bad.join("\n"));
    }
}

/// A directory of the user.
fn owned(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let path = scratch.dir(name);
    std::os::unix::fs::chown(&path, Some(USER), Some(USER)).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
