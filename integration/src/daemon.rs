//! layerd itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use layerd_proto::containerd::services::snapshots::v1::Kind;
use nix::sys::signal::Signal;

use crate::namespace::UserNamespace;
use crate::process::{Server, WAIT_LIMIT};
use crate::scratch::profile;
use crate::snapshots::Snapshots;

/// The built layerd on a root of its own.
#[derive(Debug)]
pub struct Daemon {
    server: Server,
    root: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    within: Option<Arc<UserNamespace>>,
}

impl Daemon {
    /// Starts layerd with its root, socket and log in `dir`, and waits until it answers.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    #[must_use]
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Self {
        Self::begin(dir, arguments, None)
    }

    /// As [`start_with`](Self::start_with), in a user namespace.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    #[must_use]
    pub fn start_within(namespace: &Arc<UserNamespace>, dir: &Path, arguments: &[&str]) -> Self {
        Self::begin(dir, arguments, Some(namespace.clone()))
    }

    fn begin(dir: &Path, arguments: &[&str], within: Option<Arc<UserNamespace>>) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (root, socket) = (dir.join("root"), dir.join("layerd.sock"));
        let log = dir.join("layerd.log");
        let server = launch(within.as_deref(), (&root, &socket), &log, &arguments);
        Self {
            server,
            root,
            socket,
            log,
            arguments,
            within,
        }
    }

    /// The data directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process id, which changes with every restart.
    #[must_use]
    pub fn pid(&self) -> nix::unistd::Pid {
        self.server.pid()
    }

    /// A client of its snapshot service, on a connection of its own.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::connect(&self.socket)
    }

    /// Kills it as a crash would: no handler runs. [`restart`](Self::restart) brings it back.
    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// Starts it again on the same root, after [`kill9`](Self::kill9) or [`stop`](Self::stop).
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn restart(&mut self) {
        let paths = (self.root.as_path(), self.socket.as_path());
        self.server = launch(self.within.as_deref(), paths, &self.log, &self.arguments);
    }

    /// Asks it to end, as an operator does, and requires that it ends with 0.
    ///
    /// # Panics
    /// With its log, otherwise.
    pub fn stop(&mut self) {
        let status = self.server.end(Signal::SIGTERM, WAIT_LIMIT);
        assert!(
            status.success(),
            "layerd: {status}; log:\n{}",
            self.server.log()
        );
    }

    /// Everything it has logged since the test began.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Requires that it never logged an error, a warning or a panic.
    ///
    /// # Panics
    /// With those lines, otherwise.
    pub fn assert_no_errors_logged(&self) {
        let log = self.log();
        let bad: Vec<&str> = log.lines().filter(|line| is_bad(line)).collect();
        assert!(bad.is_empty(), "layerd logged:\n{}", bad.join("\n"));
    }

    /// Requires that every snapshot goes, once containerd's collector has run, and then every
    /// directory, once the reaper has.
    ///
    /// # Panics
    /// With what is left after [`WAIT_LIMIT`].
    pub fn assert_empty(&self) {
        self.assert_empty_with(|| ());
    }

    /// As [`assert_empty`](Self::assert_empty), with more passes of containerd's collector while snapshots are
    /// left: one may leave a snapshot to the next.
    ///
    /// # Panics
    /// With what is left after [`WAIT_LIMIT`].
    pub fn assert_empty_with(&self, collect: impl Fn()) {
        let mut client = self.snapshots();
        let start = Instant::now();
        loop {
            let left = (client.list(), self.directories());
            if left.0.is_empty() && left.1.is_empty() {
                break;
            }
            assert!(start.elapsed() < WAIT_LIMIT, "left behind: {left:#?}");
            if !left.0.is_empty() {
                collect();
            }
            thread::sleep(Duration::from_millis(50));
        }
        let problems = self.problems();
        assert_eq!(problems, None, "left behind");
    }

    /// Problems found by fsck: directories without a record among them, but for those made ahead, which
    /// only the daemon can tell apart.
    ///
    /// # Panics
    /// If layerctl cannot be run.
    #[must_use]
    pub fn problems(&self) -> Option<String> {
        let mut fsck = Command::new(profile().join("layerctl"));
        let fsck = fsck.arg("--address").arg(&self.socket).arg("fsck");
        let found = fsck.output().expect("layerctl runs");
        (!found.status.success()).then(|| format!("{found:?}"))
    }

    /// The layers, work directories and trash on disk, without what may have been made ahead: what
    /// is empty and no active snapshot's.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut client = self.snapshots();
        let mut active = client.list();
        active.retain(|info| info.kind == i32::from(Kind::Active));
        let mounts = active
            .iter()
            .flat_map(|info| client.mounts(&info.name).unwrap_or_default());
        let paths = mounts.flat_map(|mount| {
            let options = mount.options.join(",");
            let values = options.split([',', '=', ':']).map(PathBuf::from);
            values
                .chain([PathBuf::from(mount.source)])
                .collect::<Vec<_>>()
        });
        let used: BTreeSet<PathBuf> = paths.collect();
        let trash = self.root.join("t");
        // Or gone meanwhile, as what was made ahead before a crash.
        let is_empty = |path: &Path| path.read_dir().map_or(true, |mut all| all.next().is_none());
        let may_be_spare =
            |path: &Path| !path.starts_with(&trash) && !used.contains(path) && is_empty(path);
        // Images, their mounts and limited layers are folders of the overlay driver alone; zfs has no `l`.
        let of_images = ["l", "i", "x", "c"].map(|part| self.root.join(part));
        ["w", "t"]
            .map(|part| self.root.join(part))
            .into_iter()
            .chain(of_images.into_iter().filter(|dir| dir.exists()))
            .flat_map(|dir| {
                std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display()))
            })
            .map(|entry| entry.expect("the directory can be read").path())
            .filter(|path| !may_be_spare(path))
            .collect()
    }
}

fn launch(
    within: Option<&UserNamespace>,
    (root, socket): (&Path, &Path),
    log: &Path,
    arguments: &[String],
) -> Server {
    // sun_path holds 108 bytes with its NUL.
    assert!(
        socket.as_os_str().len() < 108,
        "too long: {}",
        socket.display()
    );
    let program = profile().join("layerd");
    assert!(
        program.exists(),
        "{} is missing: run `cargo build`",
        program.display()
    );
    let mut command = match within {
        Some(namespace) => namespace.command(&program),
        None => Command::new(program),
    };
    command
        .arg("--root")
        .arg(root)
        .arg("--socket")
        .arg(socket)
        .args(arguments);
    let mut server = Server::start(&command, log);
    server.wait_for(socket);
    server
}

fn is_bad(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| ["ERROR", "WARN", "panicked"].contains(&word))
}
