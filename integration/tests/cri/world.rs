//! A node: layerd, layerd-nri, and a containerd with CRI and NRI that has layerd as its snapshotter.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::image::busybox;
use layerd_integration::plugin::own_run;
use layerd_integration::process::{Server, output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::transcript;
use layerd_integration::{Containerd, Daemon, Entry, Image, Scratch, Version};
use layerd_proto::cri::runtime::v1::{self as cri};
use serde_json::Value;
use tonic::Status;

use super::client::{Client, container, pod, spec};

pub(crate) const IMAGE: &str = "docker.io/test/image:1";
const PAUSE: &str = "docker.io/test/pause:1";
const LIMIT: Duration = Duration::from_secs(30);

/// Dropped in this order.
pub(crate) struct World {
    pub(crate) client: Client,
    nri: Server,
    /// Where layerd-nri tells its state, as to systemd.
    told: UnixDatagram,
    pub(crate) containerd: Containerd,
    pub(crate) daemon: Daemon,
    scratch: Scratch,
}

impl World {
    pub(crate) fn new(version: Version) -> Self {
        let scratch = Scratch::new();
        let daemon = Daemon::start(&scratch.dir("d"));
        let containerd = Containerd::start_cri(version, &scratch.dir("c"), daemon.socket(), PAUSE);
        Self::of(scratch, daemon, containerd, &[])
    }

    /// With 16 MiB for each container.
    pub(crate) fn limited(version: Version) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path().join("layerd.toml");
        std::fs::write(&file, "[limits]\ncontainer_size = \"16m\"\n").unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
        let containerd = Containerd::start_cri(version, &scratch.dir("c"), daemon.socket(), PAUSE);
        Self::of(scratch, daemon, containerd, &[])
    }

    /// With layers that layerd unpacks into images.
    pub(crate) fn with_images(version: Version) -> Self {
        let scratch = Scratch::new();
        let (dir, file) = (scratch.dir("c"), scratch.path().join("layerd.toml"));
        let text = format!(
            "[overlayfs]\nlayers = \"images\"\n[containerd]\naddress = \"{0}/containerd.sock\"\nroot = \"{0}/root\"\n",
            dir.display()
        );
        std::fs::write(&file, text).unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
        let containerd = Containerd::start_cri_unpacking(version, &dir, daemon.socket(), PAUSE);
        let world = Self::of(scratch, daemon, containerd, &["--local"]);
        let images = std::fs::read_dir(world.daemon.root().join("i")).unwrap();
        assert_eq!(images.count(), 2, "a layer of each image");
        world
    }

    /// Where pods have user namespaces: with CSI at `csi.sock`, containerd 2.1, and a runc that maps mounts.
    pub(crate) fn with_users() -> Self {
        own_run();
        let scratch = Scratch::new();
        let socket = scratch.path().join("csi.sock");
        let arguments = ["--csi-socket", socket.to_str().unwrap()];
        let arguments = [&arguments[..], &["--csi-node-id", "node-1"]].concat();
        let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
        let containerd = Containerd::start_cri_mapping(&scratch.dir("c"), daemon.socket(), PAUSE);
        Self::of(scratch, daemon, containerd, &[])
    }

    fn of(scratch: Scratch, daemon: Daemon, containerd: Containerd, how: &[&str]) -> Self {
        let told = UnixDatagram::bind(scratch.path().join("notify")).unwrap();
        told.set_read_timeout(Some(LIMIT)).unwrap();
        symlink(daemon.socket(), way(&scratch)).unwrap();
        let nri = plugin(&scratch);
        let mut client = Client::connect(containerd.socket());
        import(&scratch, &containerd, how, &mut client);
        let world = Self {
            client,
            nri,
            told,
            containerd,
            daemon,
            scratch,
        };
        world.wait_for_plugin(1);
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Waits until the plugin has registered so many times.
    pub(crate) fn wait_for_plugin(&self, times: usize) {
        wait_until("layerd-nri to register", LIMIT, || {
            self.nri.log().matches("registered runtime").count() >= times
        });
    }

    /// The times that it has registered.
    pub(crate) fn registrations(&self) -> usize {
        self.nri.log().matches("registered runtime").count()
    }

    /// Waits until systemd is told of a state that begins so.
    pub(crate) fn wait_for_state(&self, begin: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.told.recv(&mut buffer).unwrap();
            if buffer[..length].starts_with(begin.as_bytes()) {
                return;
            }
        }
    }

    /// Restarts layerd where the plugin does not find it.
    pub(crate) fn hide_layerd_from_plugin(&mut self) {
        std::fs::remove_file(way(&self.scratch)).unwrap();
        self.crash_layerd();
    }

    /// Undoes it, once the plugin has said that it cannot let go.
    pub(crate) fn show_layerd_to_plugin(&self) {
        wait_until("the plugin to fail", LIMIT, || {
            self.nri.log().contains("cannot let go")
        });
        symlink(self.daemon.socket(), way(&self.scratch)).unwrap();
    }

    /// A second plugin, which asks for the same mounts after the first one.
    pub(crate) fn second_plugin(&self) -> Server {
        let arguments = ["--instance", "second", "--index", "60"];
        let second = plugin_with(&self.scratch, &arguments, "second.log");
        wait_until("the second plugin to register", LIMIT, || {
            second.log().contains("registered runtime")
        });
        second
    }

    pub(crate) fn kill_plugin(&mut self) {
        self.nri.kill9();
    }

    pub(crate) fn start_plugin(&mut self) {
        let before = self.registrations();
        self.nri = plugin(&self.scratch);
        self.wait_for_plugin(before + 1);
    }

    pub(crate) fn crash_layerd(&mut self) {
        self.daemon.kill9();
        self.daemon.restart();
        self.containerd.wait_for_snapshotter();
    }

    /// The plugin registers with the new one by itself.
    pub(crate) fn crash_containerd(&mut self) {
        let before = self.registrations();
        self.containerd.crash();
        self.client = Client::connect(self.containerd.socket());
        self.wait_for_plugin(before + 1);
    }

    pub(crate) fn run_pod(&mut self, config: &cri::PodSandboxConfig) -> String {
        let config = Some(config.clone());
        let request = cri::RunPodSandboxRequest { config };
        let started = self
            .client
            .run(async |client| client.pods.run_pod_sandbox(request).await);
        started
            .unwrap_or_else(|status| self.fail(&status))
            .pod_sandbox_id
    }

    fn fail(&self, status: &Status) -> ! {
        let (containerd, nri) = (self.containerd.log(), self.nri.log());
        panic!("{status:?}\n{containerd}\n{nri}")
    }

    pub(crate) fn try_create(
        &mut self,
        sandbox: &str,
        sandbox_config: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let created = self
            .client
            .run(async |client| client.pods.create_container(request).await);
        created.map(|created| created.container_id)
    }

    /// Creates and starts a container of the test's image.
    pub(crate) fn start(
        &mut self,
        sandbox: &str,
        sandbox_config: &cri::PodSandboxConfig,
        config: cri::ContainerConfig,
    ) -> String {
        let created = self.try_create(sandbox, sandbox_config, config);
        let id = created.unwrap_or_else(|status| self.fail(&status));
        let container_id = id.clone();
        let request = cri::StartContainerRequest { container_id };
        let started = self
            .client
            .run(async |client| client.pods.start_container(request).await);
        started.unwrap_or_else(|status| self.fail(&status));
        id
    }

    /// A pod with one container `web`.
    pub(crate) fn web(&mut self, annotation: &str) -> (String, String) {
        let config = pod("shop", &[("volumes.layerd.io/web", annotation)]);
        let sandbox = self.run_pod(&config);
        let id = self.start(&sandbox, &config, container("web", IMAGE));
        (sandbox, id)
    }

    /// Runs a command of the shell in a container, which must succeed. Answers what it printed.
    pub(crate) fn exec(&mut self, container: &str, command: &str) -> String {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: ["sh", "-euc", command].map(str::to_owned).into(),
            timeout: 20,
        };
        let ran = self
            .client
            .run(async |client| client.pods.exec_sync(request).await);
        let ran = ran.unwrap_or_else(|status| self.fail(&status));
        assert_eq!(ran.exit_code, 0, "{command}: {ran:?}");
        let said = String::from_utf8(ran.stdout).unwrap();
        transcript::inside(command, &said);
        said
    }

    pub(crate) fn remove(&mut self, container: &str) {
        let container_id = container.to_owned();
        let stop = cri::StopContainerRequest {
            container_id: container_id.clone(),
            timeout: 0,
        };
        let remove = cri::RemoveContainerRequest { container_id };
        self.client
            .run(async |client| {
                client.pods.stop_container(stop).await?;
                client.pods.remove_container(remove).await
            })
            .unwrap();
    }

    pub(crate) fn remove_pod(&mut self, sandbox: &str) {
        let pod_sandbox_id = sandbox.to_owned();
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
        self.client
            .run(async |client| {
                client.pods.stop_pod_sandbox(stop).await?;
                client.pods.remove_pod_sandbox(remove).await
            })
            .unwrap();
    }

    pub(crate) fn layerctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(profile().join("layerctl"));
        command.arg("--address").arg(self.daemon.socket());
        output(command.args(arguments))
    }

    /// Owners of attachments.
    pub(crate) fn holders(&self) -> Vec<String> {
        let text = self.layerctl(&["-o", "json", "attachments"]);
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .map(|one: Value| one["owner"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn wait_for_holders(&self, wanted: &[String]) {
        let mut last = Vec::new();
        wait_until(&format!("{wanted:?} to hold"), LIMIT, || {
            last = self.holders();
            last == wanted
        });
    }
}

/// A symlink to layerd's socket.
fn way(scratch: &Scratch) -> PathBuf {
    scratch.path().join("way")
}

fn plugin(scratch: &Scratch) -> Server {
    plugin_with(scratch, &[], "nri.log")
}

fn plugin_with(scratch: &Scratch, arguments: &[&str], log: &str) -> Server {
    let mut command = Command::new(profile().join("layerd-nri"));
    command.env("NOTIFY_SOCKET", scratch.path().join("notify"));
    command.arg("--address").arg(way(scratch));
    command
        .arg("--socket")
        .arg(scratch.path().join("c/nri.sock"));
    command.args(arguments);
    Server::start(&command, &scratch.path().join(log))
}

/// CRI comes to know images that others import a moment later.
fn import(scratch: &Scratch, containerd: &Containerd, how: &[&str], client: &mut Client) {
    let images = scratch.dir("images");
    for (name, layer) in [(IMAGE, busybox()), (PAUSE, pause())] {
        let dir = images.join(if name == IMAGE { "image" } else { "pause" });
        std::fs::create_dir(&dir).unwrap();
        let image = Image::build(&dir, name, &[layer]);
        let import = [
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "layerd",
        ];
        containerd.ctr(&[&import, how, &[image.archive()]].concat());
        wait_until("CRI to know an image", LIMIT, || {
            let request = cri::ImageStatusRequest {
                image: Some(spec(name)),
            };
            let known = client.run(async |client| client.images.image_status(request).await);
            known.is_ok_and(|known| known.image.is_some())
        });
    }
}

/// An image whose command does nothing.
fn pause() -> Vec<Entry> {
    let mut layer = busybox();
    layer.retain(|entry| entry.path != "bin/sh");
    let script = "#!/bin/busybox ash\nexec /bin/busybox sleep 1000000\n";
    layer.push(Entry::file("bin/sh", script).mode(0o755));
    layer
}

pub(crate) fn owner(container: &str) -> String {
    format!("container:nri:{container}")
}
