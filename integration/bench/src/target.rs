//! Measured servers: layerd, and any other snapshotter that serves containerd's protocol.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::process::{Server, wait_until};
use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::InfoRequest;
use layerd_proto::layerd::v1::admin_client::AdminClient;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::runtime::Builder;

/// Calls that wait for the disk, or ask it to begin.
const FLUSHES: &str = "trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync";

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The layerd built beside this program, with a `durability`.
    Layerd(&'static str),
    /// A program that takes a root and a socket and serves there.
    Peer(PathBuf),
}

impl Target {
    /// Its name in tables.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Layerd(durability) => format!("layerd, {durability}"),
            Self::Peer(program) => program.file_name().map_or_else(
                || program.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
        }
    }

    /// Starts it with everything it has below `dir`, and waits until it answers.
    pub(crate) fn start(&self, dir: &Path) -> Running {
        Running::start(&self.command(dir, AT_ONCE), dir)
    }

    /// As [`start`](Self::start), for a layerd that deletes when it does by default: a while after
    /// the removal.
    pub(crate) fn start_deleting_later(&self, dir: &Path) -> Running {
        Running::start(&self.command(dir, ""), dir)
    }

    /// As [`start`](Self::start), for a layerd that unpacks what the containerd with everything in
    /// `containerd` holds, with `more` in its configuration.
    pub(crate) fn start_beside(&self, dir: &Path, containerd: &Path, more: &str) -> Running {
        let text = format!(
            "[containerd]\naddress = \"{0}/containerd.sock\"\nroot = \"{0}/root\"\n{more}",
            containerd.display()
        );
        self.start_with(dir, &text)
    }

    /// As [`start`](Self::start), for a layerd with `more` at the end of its configuration.
    pub(crate) fn start_with(&self, dir: &Path, more: &str) -> Running {
        let command = self.command(dir, AT_ONCE);
        let config = dir.join("config.toml");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(config)
            .expect("ours");
        file.write_all(more.as_bytes()).expect("a fresh folder");
        Running::start(&command, dir)
    }

    /// As [`start`](Self::start), noting each call for a flush in `dir/trace`. Only those calls
    /// are slower for it.
    pub(crate) fn start_traced(&self, dir: &Path) -> Running {
        let plain = self.command(dir, AT_ONCE);
        let mut command = Command::new("strace");
        command
            .args([
                "-D",
                "-f",
                "--seccomp-bpf",
                "-qq",
                "-e",
                "signal=none",
                "-e",
            ])
            .arg(FLUSHES)
            .arg("-o")
            .arg(dir.join("trace"))
            .arg(plain.get_program())
            .args(plain.get_args());
        Running::start(&command, dir)
    }

    fn command(&self, dir: &Path, trash: &str) -> Command {
        let (root, socket) = (dir.join("root"), dir.join("s"));
        match self {
            Self::Layerd(durability) => {
                let config = dir.join("config.toml");
                std::fs::write(&config, settings(durability, trash)).expect("a fresh folder");
                let mut command = Command::new(layerd());
                command.arg("--config").arg(config);
                command.arg("--root").arg(root).arg("--socket").arg(socket);
                command
            }
            Self::Peer(program) => {
                let mut command = Command::new(program);
                command.arg(root).arg(socket);
                command
            }
        }
    }
}

/// Removed layers must make room for the next.
const AT_ONCE: &str = "keep_secs = 0\n";

/// Mass removal is what a benchmark does.
fn settings(durability: &str, trash: &str) -> String {
    format!(
        "durability = \"{durability}\"\n[log]\nlevel = \"warn\"\n\
         [trash]\nguard_percent = 0\n{trash}"
    )
}

fn layerd() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let program = own.with_file_name("layerd");
    let hint = "build it first, in the same profile";
    assert!(program.exists(), "{}: {hint}", program.display());
    program
}

/// A started target. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    server: Server,
    dir: PathBuf,
}

impl Running {
    fn start(command: &Command, dir: &Path) -> Self {
        let mut server = Server::start(command, &dir.join("log"));
        server.wait_for(&dir.join("s"));
        Self {
            server,
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.server.pid()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Waits until layerd has deleted what was removed.
    pub(crate) fn wait_reaped(&self) {
        let empty = || self.is_reaped();
        wait_until("the trash to be emptied", Duration::from_secs(600), empty);
    }

    /// True once layerd reports that all removed snapshots are deleted.
    pub(crate) fn is_reaped(&self) -> bool {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut admin = AdminClient::new(channel(self.socket()));
            let info = admin.info(InfoRequest {}).await;
            info.expect("layerd answers").into_inner().trash == 0
        })
    }

    /// Lines of the trace up to now: one for each call.
    pub(crate) fn trace(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("trace")).unwrap_or_default();
        let begun = |line: &&str| !line.contains(" resumed>");
        text.lines().filter(begun).map(ToOwned::to_owned).collect()
    }

    /// Kills it as a crash would.
    pub(crate) fn kill9(mut self) {
        self.server.kill9();
    }

    /// Ends it in good order.
    pub(crate) fn stop(mut self) {
        self.server.end(Signal::SIGTERM, Duration::from_secs(60));
    }
}
