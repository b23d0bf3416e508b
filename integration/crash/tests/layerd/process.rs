//! layerd as a child that may die at any moment.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use layerd_crash::trace::{Plan, Tracer};
use layerd_integration::Snapshots;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Verdict;

/// Longer than anything waits for when all is well, traced or not.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// Where a daemon keeps what.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) config: PathBuf,
    /// A file with the id of another boot: the daemon finds it in the place of this one, and has a
    /// mount table of its own.
    pub(crate) boot: Option<PathBuf>,
}

/// Configuration without a trash period or mass-removal guard, so that no test waits for deletions.
const CONFIG: &str = "[trash]\nkeep_secs = 0\nguard_percent = 0\n";

impl Site {
    /// With socket and log in `directory`, which is not below the root.
    pub(crate) fn new(root: PathBuf, directory: &Path) -> Self {
        let config = directory.join("config.toml");
        std::fs::write(&config, CONFIG).unwrap();
        Self {
            root,
            socket: directory.join("s"),
            log: directory.join("log"),
            config,
            boot: None,
        }
    }

    /// As after a restart of the machine: no mount of an earlier daemon stands, and their numbers
    /// mean nothing any more.
    pub(crate) fn rebooted(mut self) -> Self {
        let boot = self.config.with_file_name("boot");
        std::fs::write(&boot, "5f7a0f9e-0000-4000-8000-000000000000\n").unwrap();
        self.boot = Some(boot);
        self
    }

    fn command(&self) -> Command {
        const SHOW: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let Some(boot) = &self.boot else {
            return Command::new("setpriv");
        };
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            SHOW,
        ]);
        command.arg(boot).arg("setpriv");
        command
    }

    /// Adds these settings, which stand above all tables.
    pub(crate) fn configure(&self, settings: &str) {
        std::fs::write(&self.config, format!("{settings}{CONFIG}")).unwrap();
    }

    /// As [`configure`](Self::configure), with layers as images.
    pub(crate) fn configure_images(&self) {
        self.configure("overlayfs.layers = \"images\"\n");
    }

    pub(crate) fn client(&self) -> Snapshots {
        Snapshots::connect(&self.socket)
    }

    /// The last lines of the log.
    pub(crate) fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn launch(&self, mut command: Command) -> Child {
        // Left by a killed daemon; a socket that is there means that this one is ready.
        let _ = std::fs::remove_file(&self.socket);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .args(["--log-level", "debug"])
            .arg("--root")
            .arg(&self.root)
            .arg("--socket")
            .arg(&self.socket);
        command
            .arg("--config")
            .arg(&self.config)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

/// The built daemon: two directories above the test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("layerd");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build`",
        path.display()
    );
    path
}

/// Puts the newest export in the place of the records of a root that no daemon serves.
pub(crate) fn restore(site: &Site) -> Verdict {
    let mut command = Command::new(program());
    command.arg("restore").arg("--root").arg(&site.root);
    let ended = command.arg("--config").arg(&site.config).output().unwrap();
    match ended.status.success() {
        true => Ok(()),
        false => Err(format!(
            "restore: {}",
            String::from_utf8_lossy(&ended.stderr)
        )),
    }
}

/// A running layerd. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Layerd {
    child: Child,
    site: Site,
}

impl Layerd {
    /// Starts it and waits until it serves.
    pub(crate) fn start(site: &Site) -> Verdict<Self> {
        let mut layerd = Self::spawn(site, site.command());
        layerd.await_ready()?;
        Ok(layerd)
    }

    /// Starts it with a limit on its open files, and waits until it serves.
    pub(crate) fn start_with_files(site: &Site, files: u64) -> Verdict<Self> {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={files}")).arg("setpriv");
        let mut layerd = Self::spawn(site, limited);
        layerd.await_ready()?;
        Ok(layerd)
    }

    /// Starts it under a tracer, by `plan` from its first instruction. It may never serve.
    pub(crate) fn start_traced(site: &Site, plan: &Plan) -> (Self, Tracer) {
        let layerd = Self::spawn(site, Tracer::hold("setpriv").unwrap());
        let tracer = layerd.trace(plan);
        (layerd, tracer)
    }

    fn spawn(site: &Site, command: Command) -> Self {
        Self {
            child: site.launch(command),
            site: site.clone(),
        }
    }

    /// Traces it from now on.
    pub(crate) fn trace(&self, plan: &Plan) -> Tracer {
        Tracer::attach(self.child.id(), plan).unwrap()
    }

    /// Waits until it serves.
    pub(crate) fn await_ready(&mut self) -> Verdict {
        let start = Instant::now();
        while UnixStream::connect(&self.site.socket).is_err() {
            let ended = self.ended();
            if ended.is_some() || start.elapsed() > LIMIT {
                let tail = self.site.tail();
                return Err(format!("layerd does not start ({ended:?}); log:\n{tail}"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn await_end(&mut self) -> Verdict<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if start.elapsed() > LIMIT {
                let tail = self.site.tail();
                return Err(format!("layerd does not end; log:\n{tail}"));
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        // ESRCH: it ended already.
        let _ = kill(self.pid(), Signal::SIGTERM);
    }

    /// Asks it to end and requires that it does so with 0.
    pub(crate) fn stop(mut self) -> Verdict {
        self.terminate();
        let status = self.await_end()?;
        if status.success() {
            return Ok(());
        }
        let tail = self.site.tail();
        Err(format!("a stop ends with {status}; log:\n{tail}"))
    }

    /// Kills it, wherever it is.
    pub(crate) fn kill(mut self) {
        self.finish();
    }

    /// As [`kill`](Self::kill), for who keeps it.
    pub(crate) fn terminate_hard(&mut self) {
        self.finish();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn finish(&mut self) {
        // Fails only if it ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Layerd {
    fn drop(&mut self) {
        self.finish();
    }
}
