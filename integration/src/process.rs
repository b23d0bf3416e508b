//! Programs a test runs.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::transcript;

/// Longest wait for what must happen. Generous: an emulated or loaded machine takes ten times as long,
/// and what never happens fails a test all the same.
pub const WAIT_LIMIT: Duration = Duration::from_secs(100);

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Panics
/// With everything it said, if it fails.
pub fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program exists");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{error}",
        output.status
    );
    transcript::command(command, &out);
    out
}

/// Shortest time after which something counts as not coming, on a machine whose processors and disk have
/// other work.
const LEAST: Duration = Duration::from_secs(60);

/// Waits until `done` answers true, asking every 20 ms.
///
/// # Panics
/// Naming `what`, if that takes longer than `limit` and longer than a minute.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let (start, limit) = (Instant::now(), limit.max(LEAST));
    while !done() {
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running server whose output goes to a file. Killed when dropped, and by the kernel when the
/// test's thread dies without dropping it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; standard output and error are appended to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &Command, log: &Path) -> Self {
        let file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log can be written");
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]);
        guarded.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            guarded.env(name, value.expect("servers' variables are only added"));
        }
        let child = guarded
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("descriptors are left"))
            .stderr(file)
            .spawn()
            .expect("setpriv is installed");
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Waits until it accepts connections on a unix socket.
    ///
    /// # Panics
    /// With its log, if it ends or takes over 30 seconds.
    pub fn wait_for(&mut self, socket: &Path) {
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(
                ended.is_none() && start.elapsed() < WAIT_LIMIT,
                "no answer on {} ({ended:?}); log:\n{}",
                socket.display(),
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids fit into an i32"))
    }

    /// Everything it has said, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) {
        // Fails only if it ended by itself, which the next call to it shows.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal and returns how it ended.
    ///
    /// # Panics
    /// If it has not ended after `limit`.
    pub fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        // ESRCH: it ended already; its status tells how.
        let _ = kill(self.pid(), signal);
        let mut ended = None;
        wait_until("a server to end", limit, || {
            ended = self.child.try_wait().expect("the child is ours");
            ended.is_some()
        });
        ended.unwrap_or_else(|| ExitStatus::from_raw(0))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            eprintln!("{}, at its end:\n{}", self.log.display(), tail.join("\n"));
        }
    }
}

/// Ends every process whose command line or name of program contains `path`, with all its
/// descendants (a shim's containers name nothing).
pub(crate) fn kill_all_naming(path: &Path) {
    for _ in 0..100 {
        let doomed = doomed(path);
        if doomed.is_empty() {
            return;
        }
        for pid in doomed {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn doomed(path: &Path) -> Vec<i32> {
    let parents = parents();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let named = |pid: i32| pid != own && names(pid, path);
    parents
        .keys()
        .copied()
        .filter(|pid| ancestry(*pid, &parents).any(named))
        .collect()
}

/// A process, its parent, and so on, up to (without) process 1.
fn ancestry(pid: i32, parents: &BTreeMap<i32, i32>) -> impl Iterator<Item = i32> {
    std::iter::successors(Some(pid), |pid| parents.get(pid).copied())
        .take_while(|pid| *pid > 1)
        .take(64)
}

fn names(pid: i32, path: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = path.as_os_str().as_bytes();
    line.windows(wanted.len()).any(|part| part == wanted)
}

/// The parent of every living process; zombies wait for theirs and need no killing.
fn parents() -> BTreeMap<i32, i32> {
    std::fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some((pid, parent))
        })
        .collect()
}
