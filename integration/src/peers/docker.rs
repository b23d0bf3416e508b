//! Docker on a containerd of its own, with layerd as its storage driver.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Containerd, Version, peer, search_path};
use crate::process::{Server, WAIT_LIMIT, output};

/// A dockerd and its containerd.
#[derive(Debug)]
pub struct Docker {
    server: Server,
    /// None for the one that dockerd starts itself.
    containerd: Option<Containerd>,
    programs: PathBuf,
    dir: PathBuf,
}

impl Docker {
    /// Starts both in `dir` and waits until dockerd answers. It has no network and changes no
    /// firewall.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start(dir: &Path, snapshotter: &Path) -> Self {
        let containerd = Containerd::start(Version::V2_1, dir, snapshotter);
        Self::begin(dir, Some(containerd), "layerd")
    }

    /// As [`start`](Self::start), with layerd unpacking and packing layers.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_unpacking(dir: &Path, snapshotter: &Path) -> Self {
        let containerd = Containerd::start_unpacking(Version::V2_1, dir, snapshotter);
        Self::begin(dir, Some(containerd), "layerd")
    }

    /// As [`start`](Self::start), with Docker's own storage of images, on a containerd that dockerd
    /// starts itself.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_alone(dir: &Path) -> Self {
        Self::start_alone_on(dir, "vfs")
    }

    /// As [`start_alone`](Self::start_alone), with this graph driver.
    ///
    /// # Panics
    /// With its log, if it does not come up; if it is not installed.
    #[must_use]
    pub fn start_alone_on(dir: &Path, driver: &str) -> Self {
        Self::begin(dir, None, driver)
    }

    fn begin(dir: &Path, containerd: Option<Containerd>, driver: &str) -> Self {
        let programs = peer("docker-28");
        let mut settings = json!({
            "data-root": dir.join("data"),
            "exec-root": dir.join("exec"),
            "pidfile": dir.join("docker.pid"),
            "hosts": [address(dir)],
            "features": { "containerd-snapshotter": containerd.is_some() },
            "storage-driver": driver,
            "log-level": "warn",
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "userland-proxy": false,
            "live-restore": true,
        });
        if let Some(containerd) = &containerd {
            settings["containerd"] = json!(containerd.socket());
        }
        std::fs::write(dir.join("daemon.json"), settings.to_string())
            .expect("the directory can be written");
        let server = launch(&programs, dir);
        Self {
            server,
            containerd,
            programs,
            dir: dir.to_owned(),
        }
    }

    /// Has containerd's collector take what nothing needs, now.
    pub fn collect_garbage(&self) {
        self.containerd.iter().for_each(Containerd::collect_garbage);
    }

    /// The containerd it uses; Docker's own things are in the namespace `moby`.
    ///
    /// # Panics
    /// If dockerd started it itself.
    pub fn containerd(&mut self) -> &mut Containerd {
        self.containerd.as_mut().expect("a containerd was started")
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("docker.sock")
    }

    /// Kills dockerd as a crash would, and what it started.
    pub fn kill9(&mut self) {
        self.server.kill9();
        crate::process::kill_all_naming(&self.dir);
    }

    /// Starts dockerd again after [`kill9`](Self::kill9).
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn start_again(&mut self) {
        self.server = launch(&self.programs, &self.dir);
    }

    /// Lets the client find Compose.
    ///
    /// # Panics
    /// If it is not installed.
    pub fn add_compose(&self) {
        let plugins = self.dir.join("client/cli-plugins");
        std::fs::create_dir_all(&plugins).expect("the directory can be written");
        let program = peer("docker-compose").join("usr/libexec/docker/cli-plugins/docker-compose");
        std::os::unix::fs::symlink(program, plugins.join("docker-compose"))
            .expect("the directory can be written");
    }

    /// Ends dockerd in good order. Its containers go on (`live-restore`).
    ///
    /// # Panics
    /// If it does not end within 30 seconds.
    pub fn stop(&mut self) {
        self.server.end(Signal::SIGTERM, WAIT_LIMIT);
    }

    /// Ends dockerd and starts it again; its containerd stays.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn restart(&mut self) {
        self.stop();
        self.server = launch(&self.programs, &self.dir);
    }

    /// Restarts it with another storage driver.
    ///
    /// # Panics
    /// With its log, if it does not come up.
    pub fn change_driver(&mut self, driver: &str) {
        let file = self.dir.join("daemon.json");
        let settings = std::fs::read(&file).expect("the settings can be read");
        let mut settings: serde_json::Value =
            serde_json::from_slice(&settings).expect("the settings are JSON");
        settings["storage-driver"] = json!(driver);
        std::fs::write(file, settings.to_string()).expect("the directory can be written");
        self.restart();
    }

    /// Runs `docker` and returns its standard output.
    ///
    /// # Panics
    /// With everything it said, if it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// A `docker` command, to be run by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("usr/bin/docker"));
        command
            // The builder without BuildKit: Debian packages the other one separately.
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.dir.join("client"))
            .args(["--host", &address(&self.dir)])
            .args(arguments);
        command
    }
}

fn address(dir: &Path) -> String {
    format!("unix://{}/docker.sock", dir.display())
}

fn launch(programs: &Path, dir: &Path) -> Server {
    let mut command = Command::new(programs.join("usr/sbin/dockerd"));
    command
        .env(
            "PATH",
            search_path(&[peer("containerd-2.1"), programs.to_owned()]),
        )
        .arg("--config-file")
        .arg(dir.join("daemon.json"));
    let mut server = Server::start(&command, &dir.join("dockerd.log"));
    server.wait_for(&dir.join("docker.sock"));
    server
}
