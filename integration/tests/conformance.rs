//! containerd's own snapshotter suite, run through layerd's socket.
//!
//! `conformance/run.sh` builds the suite from Debian's Go packages and starts one daemon for each
//! of its tests. What must pass is listed by name, so that a test that vanishes is noticed too.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this file is tests as a whole"
)]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use layerd_integration::Scratch;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};

/// The tests of the suite in containerd 1.6, except [`SKIPPED`].
const PASSED: [&str; 20] = [
    "128LayersMount",
    "Basic",
    "Chown",
    "CloseTwice",
    "DeletedFilesInChildSnapshot",
    "DirectoryPermissionOnCommit",
    "LayerFileupdate",
    "MoveFileFromLowerLayer",
    "PreareViewFailingtest",
    "Remove",
    "RemoveDirectoryInLowerLayer",
    "RemoveIntermediateSnapshot",
    "RootPermission",
    "StatActive",
    "StatComitted",
    "StatInWalk",
    "TransitivityTest",
    "Update",
    "ViewReadonly",
    "Walk",
];

/// The suite skips this one for every snapshotter: "rename test still fails on some kernels".
const SKIPPED: &str = "Rename";

#[test]
fn root_containerd_snapshotter_suite() {
    all_pass("overlay", &work_dir("overlay"));
}

#[test]
fn root_containerd_snapshotter_suite_on_native() {
    all_pass("native", &work_dir("native"));
}

#[test]
fn root_containerd_snapshotter_suite_on_overlay1() {
    all_pass("overlay1", &work_dir("overlay1"));
}

#[test]
fn root_containerd_snapshotter_suite_on_btrfs() {
    let scratch = Scratch::on("btrfs", 512);
    all_pass("btrfs", &scratch.dir("disk/w"));
}

/// Directory for the roots of a driver that needs no file system of its own.
fn work_dir(driver: &str) -> PathBuf {
    let target = layerd().ancestors().nth(2).map(Path::to_owned);
    let target = target.expect("the daemon lies in a profile's folder");
    target.join("conformance").join(driver)
}

fn all_pass(driver: &str, work: &Path) {
    assert!(geteuid().is_root(), "this test mounts: run it as root");
    let output = Suite::start(&layerd(), driver, work).finish();
    let seen = outcomes(&output);
    let wanted: BTreeMap<&str, &str> = PASSED
        .iter()
        .map(|name| (*name, "PASS"))
        .chain([(SKIPPED, "SKIP")])
        .collect();
    assert_eq!(seen, wanted, "the suite said:\n{output}");
}

/// The outcome of each test of the suite, from the lines `--- PASS: TestSnapshotter/Name (0.1s)`.
fn outcomes(output: &str) -> BTreeMap<&str, &str> {
    output
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--- "))
        .filter_map(|line| {
            let (outcome, rest) = line.split_once(": TestSnapshotter/")?;
            Some((rest.split(' ').next()?, outcome))
        })
        .collect()
}

/// The daemon as built beside this test.
fn layerd() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("tests lie in deps/");
    let daemon = profile.join("layerd");
    assert!(
        daemon.exists(),
        "{} is missing: build the workspace first",
        daemon.display()
    );
    daemon
}

/// A run of the suite in a process group of its own, which holds the daemons too.
struct Suite(Option<Child>, Pid);

impl Suite {
    fn start(daemon: &Path, driver: &str, work: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/run.sh");
        let child = Command::new(script)
            .arg(daemon)
            .arg(work)
            .arg(driver)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("run.sh starts");
        let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit into an i32"));
        Self(Some(child), group)
    }

    fn finish(mut self) -> String {
        let child = self.0.take().expect("finish is called once");
        let output = child.wait_with_output().expect("run.sh can be waited for");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}, having said:\n{text}",
            output.status
        );
        assert_eq!(
            killpg(self.1, None),
            Err(Errno::ESRCH),
            "a daemon outlived the suite"
        );
        text
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        // Fails when nothing is left of the group, which is how a run should end.
        let _ = killpg(self.1, Signal::SIGKILL);
        if let Some(mut child) = self.0.take() {
            let _ = child.wait();
        }
    }
}
