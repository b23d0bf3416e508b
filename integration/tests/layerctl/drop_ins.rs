//! The drop-ins that `layerctl setup containerd` writes, against real containerds.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use layerd_integration::Scratch;
use layerd_integration::process::{Server, output};
use nix::sys::signal::Signal;

use super::{layerctl, programs};

macro_rules! drop_in {
    ($name:ident, $peer:literal, $main:expr, $unpacks:expr) => {
        #[test]
        fn $name() {
            containerd_takes_the_drop_in($peer, $main, $unpacks);
        }
    };
}

const FORMAT_1: &str = "disabled_plugins = ['cri']"; // as Docker packages it

drop_in!(root_drop_in_1_6, "containerd-1.6", "version = 2", None);
drop_in!(root_drop_in_1_6_v1, "containerd-1.6", FORMAT_1, None);
drop_in!(root_drop_in_1_7, "containerd-1.7", "version = 2", OURS);
drop_in!(root_drop_in_1_7_v1, "containerd-1.7", FORMAT_1, None);
drop_in!(root_drop_in_2_1, "containerd-2.1", "version = 3", OURS);
drop_in!(root_drop_in_2_1_v2, "containerd-2.1", "version = 2", OURS);
drop_in!(
    root_drop_in_2_1_v1,
    "containerd-2.1",
    FORMAT_1,
    Some("walking")
);

/// Differ of the transfer service.
const OURS: Option<&str> = Some("layerd-diff");

/// layerctl finds the version by itself, containerd starts with what it wrote and has layerd.
fn containerd_takes_the_drop_in(peer: &str, main: &str, unpacks: Option<&str>) {
    let peer = Peer::new(peer, main);
    let before = std::fs::read_to_string(&peer.config).unwrap();
    let told = peer.setup(&["--write"]);
    assert!(told.contains("+imports = "), "the change is shown: {told}");
    let told = peer.setup(&["--write"]);
    assert!(!told.contains("imports"), "nothing is left to do: {told}");
    peer.assert_config(unpacks);
    peer.assert_plugins(unpacks);
    peer.setup(&["--remove"]);
    assert!(!peer.drop_ins.exists());
    assert_eq!(std::fs::read_to_string(&peer.config).unwrap(), before);
}

/// A file that containerd refuses stays as it is.
#[test]
fn root_drop_in_is_not_forced_on_a_containerd_that_refuses_it() {
    let peer = Peer::new(
        "containerd-2.1",
        "version = 2\nimports = ['/nonexistent.toml']",
    );
    let before = std::fs::read_to_string(&peer.config).unwrap();
    let (status, said) = peer.try_setup(&["--write"]);
    assert!(
        !status.success() && said.contains("does not take it"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&peer.config).unwrap(), before);
    assert!(!peer.drop_ins.exists(), "all or nothing");
}

/// A drop-in that no configuration imports would be read at some later time, unexpected. One that was
/// there stays as it was.
#[test]
fn a_refused_config_leaves_no_drop_in_behind() {
    let mut peer = Peer::new("none", "version = 2");
    peer.programs = peer.scratch.path().join("bin");
    std::fs::create_dir(&peer.programs).unwrap();
    let program = peer.programs.join("containerd");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'containerd c v2.1.4 d' && exit\necho it complains >&2; exit 1\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let (status, said) = peer.try_setup(&["--write"]);
    assert!(!status.success() && said.contains("it complains"), "{said}");
    assert!(!peer.drop_ins.exists(), "{said}");

    std::fs::create_dir(&peer.drop_ins).unwrap();
    let path = peer.drop_ins.join("layerd.toml");
    let old = peer.setup(&["--remap-ids"]);
    std::fs::write(&path, &old).unwrap();
    let (status, said) = peer.try_setup(&["--write"]);
    assert!(!status.success(), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), old);
}

/// NRI is on after the drop-in, other settings of it stay, and removing it leaves the file as it was, in
/// whatever order the two drop-ins go.
#[test]
fn root_setup_nri_turns_nri_on_and_takes_it_back() {
    for (name, main, is_off) in [
        ("containerd-1.7", "version = 2", true),
        ("containerd-1.7", FORMAT_1, true),
        ("containerd-2.1", "version = 3", false),
    ] {
        let peer = Peer::new(name, main);
        let before = std::fs::read_to_string(&peer.config).unwrap();
        let printed = peer.setup_nri(&[]);
        assert_eq!(printed.contains("disable = false"), is_off, "{printed}");
        let told = peer.setup_nri(&["--write"]);
        assert!(told.contains("layerd-nri.service"), "{told}");
        assert_eq!(peer.drop_ins.join("layerd-nri.toml").exists(), is_off);
        assert!(peer.has_nri(), "{name} {main}");
        peer.setup(&["--write"]);
        assert!(peer.has_nri(), "{name} {main}");
        peer.setup(&["--remove"]);
        peer.setup_nri(&["--remove"]);
        assert!(!peer.drop_ins.exists());
        assert_eq!(std::fs::read_to_string(&peer.config).unwrap(), before);
    }
    let off =
        "[plugins.'io.containerd.nri.v1.nri']\ndisable = true\nsocket_path = '/run/other.sock'";
    let peer = Peer::new("containerd-2.1", "version = 2");
    let main = std::fs::read_to_string(&peer.config).unwrap() + off;
    std::fs::write(&peer.config, &main).unwrap();
    assert!(!peer.has_nri());
    peer.setup_nri(&["--write"]);
    assert!(peer.has_nri());
    assert!(peer.dump().contains("socket_path = '/run/other.sock'"));
    let told = peer.setup_nri(&["--write"]);
    assert!(told.contains("up to date"), "{told}");
    peer.setup_nri(&["--remove"]);
    assert_eq!(std::fs::read_to_string(&peer.config).unwrap(), main);
}

/// containerd 1.6 has no NRI, and a plugin that is disabled by its name stays so.
#[test]
fn root_setup_nri_refuses_where_nothing_helps() {
    for (name, main, why) in [
        ("containerd-1.6", "version = 2", "has none"),
        (
            "containerd-2.1",
            "version = 2\ndisabled_plugins = ['io.containerd.nri.v1.nri']",
            "disabled_plugins",
        ),
    ] {
        let peer = Peer::new(name, main);
        let ended = peer.command("nri").arg("--write").output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && said.contains(why), "{said}");
        assert!(!peer.drop_ins.exists());
    }
}

/// A containerd that is not running, with its own configuration.
struct Peer {
    programs: PathBuf,
    config: PathBuf,
    drop_ins: PathBuf,
    scratch: Scratch,
}

impl Peer {
    fn new(name: &str, main: &str) -> Self {
        let scratch = Scratch::new();
        let below = |name: &str| scratch.path().join(name);
        let config = below("config.toml");
        let text = format!(
            "{main}\nroot = '{}'\nstate = '{}'\n[grpc]\naddress = '{}'\n",
            below("root").display(),
            below("state").display(),
            below("c.sock").display(),
        );
        std::fs::write(&config, text).unwrap();
        let target = programs().parent().unwrap().to_owned();
        Self {
            programs: target.join("peers").join(name).join("usr/bin"),
            config,
            drop_ins: below("conf.d"),
            scratch,
        }
    }

    /// Runs `layerctl setup containerd` with this containerd on the search path.
    fn setup(&self, more: &[&str]) -> String {
        output(self.command("containerd").args(more))
    }

    /// Runs `layerctl setup nri` likewise.
    fn setup_nri(&self, more: &[&str]) -> String {
        output(self.command("nri").args(more))
    }

    /// As [`setup`](Self::setup), for one that may fail; with what it said of it.
    fn try_setup(&self, more: &[&str]) -> (ExitStatus, String) {
        let ended = self.command("containerd").args(more).output().unwrap();
        (ended.status, String::from_utf8(ended.stderr).unwrap())
    }

    fn command(&self, of: &str) -> Command {
        let mut path = self.programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = layerctl();
        command.env("PATH", path).args(["setup", of]);
        command.arg("--config").arg(&self.config);
        command.arg("--dir").arg(&self.drop_ins);
        command
    }

    fn containerd(&self) -> Command {
        let mut command = Command::new(self.programs.join("containerd"));
        command.arg("-c").arg(&self.config);
        command
    }

    /// The configuration that containerd makes of its files.
    fn dump(&self) -> String {
        output(self.containerd().args(["config", "dump"])).replace('"', "'")
    }

    fn has_nri(&self) -> bool {
        let dump = self.dump();
        let section = dump.split("[plugins.'io.containerd.nri.v1.nri']").nth(1);
        let section = section.and_then(|rest| rest.split("[plugins").next());
        section.is_some_and(|section| section.contains("disable = false"))
    }

    fn assert_config(&self, unpacks: Option<&str>) {
        let dump = self.dump();
        assert!(dump.contains("[proxy_plugins.layerd]"), "{dump}");
        let entries = dump.matches("snapshotter = 'layerd'").count();
        assert_eq!(entries, usize::from(unpacks.is_some()), "{dump}");
        if let Some(differ) = unpacks {
            assert!(dump.contains(&format!("differ = '{differ}'")), "{dump}");
        }
        let order = dump.contains("default = ['layerd-diff', 'walking']");
        assert_eq!(order, unpacks == OURS, "{dump}");
    }

    fn assert_plugins(&self, unpacks: Option<&str>) {
        let socket = self.scratch.path().join("c.sock");
        let log = self.scratch.path().join("containerd.log");
        let mut server = Server::start(&self.containerd(), &log);
        server.wait_for(&socket);
        let mut ctr = Command::new(self.programs.join("ctr"));
        let plugins = output(ctr.arg("-a").arg(socket).args(["plugins", "ls"]));
        let has_differ = plugins.contains("layerd-diff");
        assert_eq!(has_differ, unpacks == OURS, "{plugins}");
        let transfer = unpacks.map(|_| "transfer.v1");
        let differ = has_differ.then_some("layerd-diff");
        let more = transfer.into_iter().chain(differ);
        for plugin in ["layerd", "overlayfs", "diff-service"]
            .into_iter()
            .chain(more)
        {
            let line = plugins.lines().find(|line| line.contains(plugin));
            let line = line.unwrap_or_else(|| panic!("no {plugin}: {plugins}"));
            assert!(line.trim_end().ends_with("ok"), "{line}");
        }
        server.end(Signal::SIGTERM, Duration::from_secs(30));
    }
}
