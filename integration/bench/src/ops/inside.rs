//! A peer that makes the calls itself, in its own process, without a socket.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::unistd::Pid;

use crate::load::{Load, Work};
use crate::stats::Times;

/// A started peer. It takes its orders from a pipe: `WORD BASE CLIENTS CALLS MADE`, and answers each
/// with what the whole and each call took, in nanoseconds. Killed when dropped.
#[derive(Debug)]
pub(super) struct Inside {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Inside {
    /// Starts it with everything it has below `dir`.
    pub(super) fn start(program: &Path, dir: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(program).arg(dir.join("root"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("setpriv is installed");
        let answers = child.stdout.take().expect("it was piped");
        Self {
            child,
            answers: BufReader::new(answers),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// As [`Caller::base`](crate::load::Caller::base).
    pub(super) fn base(&mut self, height: usize) -> String {
        self.ask(&format!("base - 1 {height} 1"));
        format!("base-{}", height - 1)
    }

    /// As [`Caller::drive`](crate::load::Caller::drive).
    pub(super) fn drive(&mut self, work: &Work<'_>) -> Load {
        let mut order = format!("{} {}", work.op.word(), work.base);
        for number in [work.clients, work.calls, work.made] {
            write!(order, " {number}").expect("memory is left");
        }
        let mut took = self.ask(&order).into_iter();
        let wall = took.next().expect("it answers with times");
        let times: Times = took.collect();
        assert_eq!(times.count(), work.calls, "{order}");
        Load::new(wall, times)
    }

    fn ask(&mut self, order: &str) -> Vec<Duration> {
        let orders = self.child.stdin.as_mut().expect("open until it is stopped");
        writeln!(orders, "{order}").expect("it reads its orders");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a pipe");
        assert!(line.ends_with('\n'), "{order}: the peer ended");
        let number = |word: &str| word.parse().expect("it answers with numbers");
        let words = line.split_whitespace();
        words.map(number).map(Duration::from_nanos).collect()
    }

    /// Lets it end in good order.
    pub(super) fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("the child is ours");
        assert!(status.success(), "the peer: {status}");
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
