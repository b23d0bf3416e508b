//! containerd with layerd as a proxy snapshotter, and `ctr` of the same version.

mod cri;
mod runc;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use nix::mount::umount;
use nix::sys::signal::Signal;

use super::{peer, search_path};
use crate::image::architecture;
use crate::namespace::UserNamespace;
use crate::process::{Server, WAIT_LIMIT, output, wait_until};
use crate::tree::Tree;

/// One for all tests, because runc leaves its control group behind, empty.
const NAMESPACE: &str = "layerd-test";

/// The containerd versions that are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.6: configuration version 2.
    V1_6,
    /// 1.7: configuration version 2.
    V1_7,
    /// 2.1: configuration version 3; `ctr` imports through the transfer service.
    V2_1,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "containerd-1.6",
            Self::V1_7 => "containerd-1.7",
            Self::V2_1 => "containerd-2.1",
        }
    }
}

/// A containerd with its own root, state and socket.
#[derive(Debug)]
pub struct Containerd {
    server: Server,
    programs: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
    extra: Extra,
    /// Dropped after the server.
    _cache: Option<cri::OwnCache>,
}

/// Additional configuration of one containerd.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Tables at the end of its configuration.
    pub configuration: String,
    /// Variables of its environment.
    pub variables: Vec<(&'static str, String)>,
    /// The user namespace that it runs in; the machine's by default.
    pub within: Option<Arc<UserNamespace>>,
}

impl Containerd {
    /// Starts it in `dir`, with the proxy snapshotter `layerd` at `snapshotter`, and waits until
    /// it answers.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start(version: Version, dir: &Path, snapshotter: &Path) -> Self {
        Self::start_with(version, dir, snapshotter, &Extra::default())
    }

    /// As [`start`](Self::start), with layerd unpacking and packing layers, before containerd's own
    /// differ where there is a choice. Not for 1.6, which knows no such proxy.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_unpacking(version: Version, dir: &Path, snapshotter: &Path) -> Self {
        Self::start_unpacking_with(version, dir, snapshotter, "")
    }

    /// As [`start_unpacking`](Self::start_unpacking), with `more` at the end of its configuration.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_unpacking_with(
        version: Version,
        dir: &Path,
        snapshotter: &Path,
        more: &str,
    ) -> Self {
        let extra = Extra {
            configuration: differ(snapshotter) + more,
            ..Extra::default()
        };
        Self::begin(version, dir, snapshotter, &extra, DIFFER)
    }

    /// As [`start_unpacking`](Self::start_unpacking), in a user namespace, whose user owns `dir`.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_unpacking_within(
        namespace: &Arc<UserNamespace>,
        version: Version,
        dir: &Path,
        snapshotter: &Path,
    ) -> Self {
        let extra = Extra {
            configuration: differ(snapshotter),
            within: Some(namespace.clone()),
            ..Extra::default()
        };
        Self::begin(version, dir, snapshotter, &extra, DIFFER)
    }

    /// As [`start`](Self::start), with something beside what the tests need.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_with(version: Version, dir: &Path, snapshotter: &Path, extra: &Extra) -> Self {
        Self::begin(version, dir, snapshotter, extra, "walking")
    }

    /// As [`start`](Self::start), with the CRI, which uses layerd and the sandbox image `pause`, and with NRI at
    /// `nri.sock` in `dir`.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_cri(version: Version, dir: &Path, snapshotter: &Path, pause: &str) -> Self {
        let extra = cri::tables(version, dir, pause);
        Self::begin_cri(version, dir, snapshotter, &extra, ("walking", ""))
    }

    /// As [`start_cri`](Self::start_cri), with layerd unpacking layers.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_cri_unpacking(
        version: Version,
        dir: &Path,
        snapshotter: &Path,
        pause: &str,
    ) -> Self {
        let extra = cri::tables(version, dir, pause) + &differ(snapshotter);
        Self::begin_cri(version, dir, snapshotter, &extra, (DIFFER, ""))
    }

    /// As [`start_cri`](Self::start_cri), for pods with user namespaces: containerd 2.1, with a network of
    /// pods that is none, the runc of Debian's next release, which maps mounts, and a layerd that is announced
    /// as mapping ids by itself. Its state is below /run and /var/lib/cni as well: the caller has
    /// a mount namespace of its own.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_cri_mapping(dir: &Path, snapshotter: &Path, pause: &str) -> Self {
        let version = Version::V2_1;
        let runc = runc::lay(dir);
        cri::write_network(dir);
        let extra = cri::tables(version, dir, pause) + &cri::mapping(&runc);
        let _cache = Some(cri::OwnCache::new());
        let started = Self::begin_cri(
            version,
            dir,
            snapshotter,
            &extra,
            ("walking", "capabilities = [\"remap-ids\"]\n"),
        );
        Self { _cache, ..started }
    }

    fn begin_cri(
        version: Version,
        dir: &Path,
        snapshotter: &Path,
        extra: &str,
        (differ, of_proxy): (&str, &str),
    ) -> Self {
        let programs = peer(version.name());
        let socket = dir.join("containerd.sock");
        let proxy = "[proxy_plugins.layerd]\n";
        let plain = configuration(version, dir, &socket, snapshotter, differ)
            .replace(proxy, &format!("{proxy}{of_proxy}"));
        let (before, rest) = plain
            .split_once("disabled_plugins = [")
            .expect("the configuration has the list");
        let (_, after) = rest.split_once("]\n").expect("the list ends");
        let config = format!(
            "{before}disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n{after}{extra}"
        );
        std::fs::write(dir.join("containerd.toml"), config).expect("the directory can be written");
        let extra = Extra::default();
        let server = launch(&programs, dir, &socket, &extra);
        Self {
            server,
            programs,
            dir: dir.to_owned(),
            socket,
            extra,
            _cache: None,
        }
    }

    /// Kills it, as by a lack of memory, and starts it again.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn crash(&mut self) {
        self.server.kill9();
        self.server = launch(&self.programs, &self.dir, &self.socket, &self.extra);
    }

    fn begin(
        version: Version,
        dir: &Path,
        snapshotter: &Path,
        extra: &Extra,
        differ: &str,
    ) -> Self {
        let programs = peer(version.name());
        let socket = dir.join("containerd.sock");
        // It appends `.ttrpc` for a second socket; sun_path holds 108 bytes with its NUL.
        assert!(
            socket.as_os_str().len() < 102,
            "too long: {}",
            socket.display()
        );
        let config =
            configuration(version, dir, &socket, snapshotter, differ) + &extra.configuration;
        std::fs::write(dir.join("containerd.toml"), config).expect("the directory can be written");
        let server = launch(&programs, dir, &socket, extra);
        Self {
            server,
            programs,
            dir: dir.to_owned(),
            socket,
            extra: extra.clone(),
            _cache: None,
        }
    }

    /// Its process id, which changes with every restart.
    #[must_use]
    pub fn pid(&self) -> nix::unistd::Pid {
        self.server.pid()
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it in good order; containers go on running.
    ///
    /// # Panics
    /// If it does not end within 30 seconds.
    pub fn stop(&mut self) {
        self.server.end(Signal::SIGTERM, WAIT_LIMIT);
    }

    /// Ends it and starts it again.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn restart(&mut self) {
        self.stop();
        self.server = launch(&self.programs, &self.dir, &self.socket, &self.extra);
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Runs `ctr` and returns its standard output.
    ///
    /// # Panics
    /// With everything it said, if it fails.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// As [`ctr`](Self::ctr), for a command that may fail.
    ///
    /// # Panics
    /// If `ctr` cannot be started.
    #[must_use]
    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .output()
            .expect("ctr can be started")
    }

    /// Has the collector take what nothing needs, now. By itself it waits until enough has changed,
    /// and then takes it at any time. A call while containerd cannot be reached is lost.
    pub fn collect_garbage(&self) {
        drop(self.try_ctr(&["content", "prune", "references"]));
    }

    /// `ctr snapshots --snapshotter layerd ...`.
    ///
    /// # Panics
    /// With everything it said, if it fails.
    pub fn snapshots(&self, arguments: &[&str]) -> String {
        self.ctr(&[&["snapshots", "--snapshotter", "layerd"], arguments].concat())
    }

    /// Reads the tree over a committed snapshot, mounted at `target`, through a snapshot that is
    /// removed again (not a view: containerd's collector takes those that `ctr` makes at once).
    ///
    /// # Panics
    /// If `ctr` fails or the mount does.
    #[must_use]
    pub fn tree(&self, snapshotter: &str, chain: &str, target: &Path) -> Tree {
        let ctr = |arguments: &[&str]| {
            self.ctr(&[&["snapshots", "--snapshotter", snapshotter], arguments].concat())
        };
        ctr(&["prepare", "look", chain]);
        let shown = target.to_str().expect("scratch paths are text");
        output(Command::new("sh").args(["-euc", &ctr(&["mounts", shown, "look"])]));
        let tree = Tree::read(target);
        umount(target).expect("nothing holds the mount");
        ctr(&["rm", "look"]);
        tree
    }

    /// Waits until it reaches layerd again after a restart of layerd: it dials at its own pace.
    ///
    /// # Panics
    /// If that takes over 10 seconds.
    pub fn wait_for_snapshotter(&self) {
        let prepare = ["snapshots", "--snapshotter", "layerd", "prepare", "ping"];
        wait_until("containerd to dial layerd", WAIT_LIMIT, || {
            self.try_ctr(&prepare).status.success()
        });
        self.snapshots(&["rm", "ping"]);
    }

    /// A `ctr` command, to be run by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("usr/bin/ctr"));
        command
            .env("PATH", search_path(std::slice::from_ref(&self.programs)))
            .arg("--address")
            .arg(&self.socket)
            .args(["--namespace", NAMESPACE])
            .args(arguments);
        command
    }
}

fn launch(programs: &Path, dir: &Path, socket: &Path, extra: &Extra) -> Server {
    let program = programs.join("usr/bin/containerd");
    let mut command = match &extra.within {
        Some(namespace) => namespace.command(&program),
        None => Command::new(program),
    };
    command
        .env("PATH", search_path(&[programs.to_owned()]))
        .envs(extra.variables.iter().map(|(name, value)| (name, value)))
        .arg("--config")
        .arg(dir.join("containerd.toml"));
    let mut server = Server::start(&command, &dir.join("containerd.log"));
    server.wait_for(socket);
    server
}

/// Disables plugins that the tests do not use: they would listen on, or write to, shared paths.
fn configuration(
    version: Version,
    dir: &Path,
    socket: &Path,
    snapshotter: &Path,
    differ: &str,
) -> String {
    let (number, transfer) = match version {
        Version::V1_6 | Version::V1_7 => (2, String::new()),
        Version::V2_1 => (
            3,
            unpack("layerd", differ) + &unpack("overlayfs", "walking"),
        ),
    };
    format!(
        r#"version = {number}
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[debug]
level = "warn"

[proxy_plugins.layerd]
type = "snapshot"
address = "{snapshotter}"
{transfer}"#,
        dir = dir.display(),
        socket = socket.display(),
        snapshotter = snapshotter.display(),
    )
}

/// Without an entry for it, the transfer service refuses to unpack for a snapshotter.
fn unpack(snapshotter: &str, differ: &str) -> String {
    format!(
        r#"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/{}"
snapshotter = "{snapshotter}"
differ = "{differ}"
"#,
        architecture()
    )
}

/// Name of layerd's diff service in containerd's configuration: a proxy has one type, and `layerd` is
/// the snapshotter.
const DIFFER: &str = "layerd-diff";

fn differ(address: &Path) -> String {
    format!(
        r#"
[proxy_plugins.{DIFFER}]
type = "diff"
address = "{}"

[plugins."io.containerd.service.v1.diff-service"]
default = ["{DIFFER}", "walking"]
"#,
        address.display()
    )
}
