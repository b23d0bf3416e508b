//! The tracer on a program whose system calls are known: six a thread and round.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "this file is tests as a whole"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use layerd_crash::trace::{Attempt, Class, End, Error, Moment, Plan, Times, Tracer, sweep};
use nix::unistd::geteuid;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
const STEPS: [&str; 6] = ["mkdir", "openat", "write", "fsync", "rename", "fsync"];

/// A workload at its pipes. Dropping it kills it.
struct Workload {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Workload {
    fn spawn(mut command: Command, directory: &Path, threads: usize) -> Self {
        assert!(
            geteuid().is_root(),
            "tracing other processes: run this test as root"
        );
        let mut child = command
            .arg(directory)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    /// A workload that runs already.
    fn running(directory: &Path, threads: usize) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_crash-workload"));
        let mut workload = Self::spawn(command, directory, threads);
        assert_eq!(workload.hear(), "ready");
        workload
    }

    fn attach(&self, plan: &Plan) -> Tracer {
        Tracer::attach(self.child.id(), plan).unwrap()
    }

    /// Makes it work one round and returns what it says until done; none if it dies.
    fn round(&mut self) -> Option<Vec<String>> {
        self.input.write_all(b"\n").unwrap();
        let mut lines = Vec::new();
        loop {
            match self.hear().as_str() {
                "" => return None,
                "done" => return Some(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    assert_eq!(directory.path(), directory.path().canonicalize().unwrap());
    directory
}

/// Number of done steps, of six, in the only thread's first round.
fn done(directory: &Path) -> usize {
    let own = directory.join("0-0");
    let content = |name| std::fs::read(own.join(name)).ok();
    match (own.exists(), content("new"), content("file")) {
        (false, ..) => 0,
        (_, None, None) => 1,
        (_, Some(text), _) if text.is_empty() => 2,
        (_, Some(_), _) => 3,
        (_, _, Some(_)) => 5,
    }
}

#[test]
fn root_calls_of_all_threads_are_counted() {
    let directory = directory();
    let mut workload = Workload::running(directory.path(), 4);
    let mut tracer = workload.attach(&Plan::count().within(directory.path()));
    assert_eq!(workload.round(), Some(vec![]));
    let calls = tracer.calls().unwrap();
    assert_eq!(calls.len(), 4 * STEPS.len());
    let numbers: Vec<u64> = calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, (1..=24).collect::<Vec<u64>>());
    let first = calls[0].thread;
    let one: Vec<_> = calls.iter().filter(|call| call.thread == first).collect();
    assert_eq!(
        one.iter()
            .map(|call| call.name.as_str())
            .collect::<Vec<_>>(),
        STEPS
    );
    assert_eq!(one[4].paths[0].file_name().unwrap(), "new");
    assert_eq!(one[4].paths[1].file_name().unwrap(), "file");
    assert!(one[1].result > Some(2) && one[2].result == Some(3));
    assert_eq!(tracer.detach().unwrap().counted, 24);
    assert_eq!(workload.round(), Some(vec![]));
}

#[test]
fn root_kill_before_a_call_prevents_it() {
    kill_everywhere(Moment::Before, |number| [0, 1, 2, 3, 3, 5][number - 1]);
}

#[test]
fn root_kill_after_a_call_keeps_it() {
    kill_everywhere(Moment::After, |number| [1, 2, 3, 3, 5, 5][number - 1]);
}

fn kill_everywhere(moment: Moment, expected: impl Fn(usize) -> usize) {
    let struck = sweep::<Error>(2, |number| {
        let directory = directory();
        let mut workload = Workload::running(directory.path(), 1);
        let plan = Plan::kill_at(number, moment).within(directory.path());
        let mut tracer = workload.attach(&plan);
        if workload.round().is_some() {
            assert_eq!(done(directory.path()), 5);
            return Ok(Attempt::Finished);
        }
        let status = tracer.wait_end(LIMIT)?;
        assert_eq!(status.end, Some(End::Signalled(libc::SIGKILL)));
        assert_eq!(
            status.fired.unwrap().name,
            STEPS[usize::try_from(number).unwrap() - 1]
        );
        assert_eq!(
            done(directory.path()),
            expected(usize::try_from(number).unwrap())
        );
        Ok(Attempt::Struck)
    });
    assert_eq!(struck.unwrap(), 6);
}

#[test]
fn root_one_call_of_a_class_fails() {
    let directory = directory();
    let mut workload = Workload::running(directory.path(), 1);
    let plan = Plan::fail_at(2, libc::ENOSPC, Times::Once)
        .of(&[Class::Write])
        .within(directory.path());
    let mut tracer = workload.attach(&plan);
    assert_eq!(workload.round(), Some(vec![]));
    let said = workload.round().unwrap();
    assert_eq!(said, ["failed No space left on device (os error 28)"]);
    assert_eq!(workload.round(), Some(vec![]));
    let status = tracer.status().unwrap();
    assert_eq!(status.fired.unwrap().result, Some(-i64::from(libc::ENOSPC)));
    assert_eq!(
        std::fs::read(directory.path().join("1-0/new")).unwrap(),
        b""
    );
    assert_eq!(
        std::fs::read(directory.path().join("2-0/file")).unwrap(),
        b"2-0"
    );
}

#[test]
fn root_all_calls_fail_from_one_on() {
    let directory = directory();
    let mut workload = Workload::running(directory.path(), 2);
    let mut tracer = workload.attach(&Plan::count());
    let plan = Plan::fail_at(1, libc::EROFS, Times::Onwards).within(directory.path());
    tracer.arm(&plan).unwrap();
    let refused = "failed Read-only file system (os error 30)";
    assert_eq!(workload.round().unwrap(), [refused, refused]);
    drop(tracer);
    assert_eq!(workload.round(), Some(vec![]));
}

#[test]
fn root_program_is_traced_from_its_start() {
    let directory = directory();
    let command = Tracer::hold(env!("CARGO_BIN_EXE_crash-workload")).unwrap();
    let mut workload = Workload::spawn(command, directory.path(), 1);
    let plan = Plan::count().of(&[Class::Open]);
    let mut tracer = Tracer::attach(workload.child.id(), &plan).unwrap();
    assert_eq!(workload.hear(), "ready");
    let calls = tracer.calls().unwrap();
    let opened = |name: &str| {
        calls
            .iter()
            .any(|call| call.paths.iter().any(|path| path.ends_with(name)))
    };
    assert!(opened("libc.so.6"), "{calls:?}");
    let plan = Plan::kill_at(3, Moment::Before).within(directory.path());
    tracer.arm(&plan).unwrap();
    assert_eq!(workload.round(), None);
    tracer.wait_end(LIMIT).unwrap();
    assert_eq!(done(directory.path()), 2);
}

#[test]
fn root_children_are_counted_and_killed_too() {
    let directory = directory();
    let mut child = Tracer::hold("sh")
        .unwrap()
        .args(["-c", "mkdir a; (mkdir b); mkdir c; mkdir d"])
        .current_dir(directory.path())
        .spawn()
        .unwrap();
    let plan = Plan::kill_at(3, Moment::Before)
        .of(&[Class::Create])
        .within(directory.path());
    let mut tracer = Tracer::attach(child.id(), &plan).unwrap();
    let status = tracer.wait_end(LIMIT).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(status.fired.unwrap().paths, [directory.path().join("c")]);
    let made = ["a", "b", "c", "d"].map(|name| directory.path().join(name).exists());
    assert_eq!(made, [true, true, false, false]);
}

#[test]
fn root_gone_process_is_an_error() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let error = Tracer::attach(child.id(), &Plan::count()).unwrap_err();
    assert!(matches!(error, Error::Trace(_)), "{error:?}");
}
