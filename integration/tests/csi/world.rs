//! A node: layerd with its CSI socket, and kubelet's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::process::{Server, output, wait_until};
use layerd_integration::scratch::{mounts_below, profile};
use layerd_integration::transcript;
use layerd_integration::{Plugin, Scratch};
use layerd_proto::csi::v1::{
    CreateVolumeRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Volume,
};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::client::{Client, Failed};

/// Times that each call is made.
const TIMES: usize = 10;

pub(crate) struct World {
    server: Server,
    pub(crate) client: Client,
    scratch: Scratch,
    /// The boot that layerd is in.
    boot: u32,
    /// Calls that were made ten times.
    calls: usize,
    arguments: Vec<String>,
}

/// As a pod of a DaemonSet runs it: in a mount namespace that is new at each start, where mounts below
/// kubelet's directory propagate both ways and nothing else does. `$0` stands for the boot id of the
/// machine.
const LAUNCH: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With Docker's plugin on a socket of its own.
    pub(crate) fn with_plugin() -> (Self, Plugin) {
        let scratch = Scratch::new();
        let (config, socket) = (
            scratch.path().join("config.toml"),
            scratch.path().join("docker.sock"),
        );
        let text = format!("[docker]\nsocket = \"{}\"\napi = \"\"\n", socket.display());
        fs::write(&config, text).unwrap();
        let arguments = ["--config", config.to_str().unwrap()];
        (Self::begin(scratch, &arguments), Plugin::at(&socket))
    }

    /// With its data directory on a disk of so many mebibytes, which is sparse.
    pub(crate) fn with_disk(mebibytes: u64) -> Self {
        let scratch = Scratch::on_xfs(mebibytes);
        let root = scratch.dir("root");
        let disk = scratch.path().join("disk");
        output(Command::new("mount").arg("--bind").arg(disk).arg(root));
        Self::begin(scratch, &[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::begin(Scratch::new(), arguments)
    }

    fn begin(scratch: Scratch, arguments: &[&str]) -> Self {
        let kubelet = scratch.dir("kubelet");
        for words in [
            vec!["--bind".as_ref(), kubelet.as_os_str(), kubelet.as_os_str()],
            vec!["--make-shared".as_ref(), kubelet.as_os_str()],
        ] {
            output(Command::new("mount").args(words));
        }
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let server = launch(&scratch, 1, &arguments);
        Self {
            server,
            client: Client::connect(&socket(&scratch)),
            scratch,
            boot: 1,
            calls: 0,
            arguments,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.scratch)
    }

    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    pub(crate) fn reconnect(&mut self) {
        self.client = Client::connect(&self.socket());
    }

    /// Kills layerd and starts it, in another mount namespace.
    pub(crate) fn crash(&mut self) {
        self.server.kill9();
        self.start();
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(&mut self) {
        let status = self.server.end(Signal::SIGTERM, Duration::from_secs(30));
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn start(&mut self) {
        self.server = launch(&self.scratch, self.boot, &self.arguments);
        self.reconnect();
    }

    /// As after a power cut: mounts are gone, records are there.
    pub(crate) fn reboot(&mut self) {
        self.server.kill9();
        let kubelet = self.path().join("kubelet");
        for mount in mounts_below(&kubelet).iter().rev() {
            if *mount != kubelet {
                umount2(mount, MntFlags::UMOUNT_NOFOLLOW).unwrap();
            }
        }
        self.boot += 1;
        self.start();
    }

    /// The directory of a pod's volume, as kubelet names it; it made the one above.
    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        let volume = format!("kubelet/pods/{pod}/volumes/kubernetes.io~csi/pvc");
        self.scratch.dir(&volume).join("mount")
    }

    /// Removes the directories of a pod, as kubelet does once it is deleted.
    pub(crate) fn remove_pod(&self, pod: &str) {
        let pods = self.path().join("kubelet/pods");
        let target = self.target(pod);
        for directory in target.ancestors().take_while(|path| **path != pods) {
            let gone = fs::remove_dir(directory);
            let missing = std::io::ErrorKind::NotFound;
            assert!(gone.is_ok() || gone.is_err_and(|cause| cause.kind() == missing));
        }
    }

    /// Makes a call ten times, with a new connection in between and, at every third one, a new layerd:
    /// all answers are one.
    pub(crate) fn ten<T: PartialEq + std::fmt::Debug>(
        &mut self,
        mut call: impl FnMut(&mut Client) -> T,
    ) -> T {
        let first = call(&mut self.client);
        self.calls += 1;
        for time in 1..TIMES {
            match time {
                4 => self.reconnect(),
                7 if self.calls % 3 == 1 => self.crash(),
                _ => {}
            }
            assert_eq!(call(&mut self.client), first, "call {time}");
        }
        first
    }

    pub(crate) fn create(&mut self, request: &CreateVolumeRequest) -> Result<Volume, Failed> {
        let answer = self.ten(|client| {
            client.run(async |client| client.controller.create_volume(request.clone()).await)
        });
        answer.map(|answer| answer.volume.unwrap())
    }

    pub(crate) fn publish(&mut self, request: &NodePublishVolumeRequest) -> Result<(), Failed> {
        let answer = self.ten(|client| {
            client.run(async |client| client.node.node_publish_volume(request.clone()).await)
        });
        answer.map(drop)
    }

    pub(crate) fn unpublish(&mut self, id: &str, target: &Path) -> Result<(), Failed> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: target.to_str().unwrap().to_owned(),
        };
        let answer = self.ten(|client| {
            client.run(async |client| client.node.node_unpublish_volume(request.clone()).await)
        });
        answer.map(drop)
    }

    /// Mounts at a path, as the host sees them.
    pub(crate) fn mounts(&self, target: &Path) -> usize {
        let all = mounts_below(self.path());
        all.iter().filter(|mount| *mount == target).count()
    }

    /// True if something is mounted at a path, as layerd sees it.
    pub(crate) fn is_mounted_for_layerd(&self, target: &Path) -> bool {
        let table = format!("/proc/{}/mountinfo", self.server.pid());
        let table = fs::read_to_string(table).unwrap();
        let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.any(|point| Path::new(point) == target)
    }

    /// Mount options at a path.
    pub(crate) fn options(&self, target: &Path) -> String {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut lines = table
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|line| Path::new(line[4]) == target).unwrap();
        line[5].to_owned()
    }

    /// Runs layerctl, which must end with `code`. Answers what it printed on both.
    pub(crate) fn ctl(&self, code: i32, arguments: &[&str]) -> String {
        let (ended, text) = self.ended(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {text}");
        text
    }

    /// Runs layerctl, which may fail. Answers what it printed on both.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> String {
        self.ended(arguments).1
    }

    fn ended(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(profile().join("layerctl"));
        command.env_remove("LAYERD_ADDRESS").arg("--address");
        command.arg(self.path().join("layerd.sock")).args(arguments);
        let ended = command.output().unwrap();
        let text = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        transcript::command(&command, &text);
        (ended.status.code(), text)
    }

    /// The JSON objects that layerctl prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.ctl(0, &[&["-o", "json"], arguments].concat());
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn socket(scratch: &Scratch) -> PathBuf {
    scratch.path().join("csi.sock")
}

fn launch(scratch: &Scratch, boot: u32, arguments: &[String]) -> Server {
    let path = |name: &str| scratch.path().join(name);
    let boot_id = path("boot_id");
    fs::write(&boot_id, format!("00000000-0000-0000-0000-{boot:012}\n")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "unchanged", "sh", "-c", LAUNCH]);
    command.arg(&boot_id).arg(profile().join("layerd"));
    command.arg("--root").arg(path("root"));
    command.arg("--socket").arg(path("layerd.sock"));
    command.arg("--csi-socket").arg(socket(scratch));
    command.args(["--csi-node-id", "node-1"]).args(arguments);
    let mut server = Server::start(&command, &path("layerd.log"));
    server.wait_for(&path("layerd.sock"));
    wait_until("the CSI socket", Duration::from_secs(30), || {
        std::os::unix::net::UnixStream::connect(socket(scratch)).is_ok()
    });
    server
}
