//! The handle that a test holds on a tracer.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::plan::{Call, Plan, Status};
use super::server::{Answer, Order};

const PROGRAM: &str = "crash-tracer";
const POLL: Duration = Duration::from_millis(2);

/// Errors of a tracer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program `crash-tracer` was not built beside the test.
    #[error("find the tracer: {0} does not exist; build this workspace's binaries first")]
    Missing(PathBuf),
    /// The tracer could not be started.
    #[error("start {program}")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The tracer ended or its pipes broke.
    #[error("talk to the tracer")]
    Talk(#[source] io::Error),
    /// Tracing failed.
    #[error("tracing failed: {0}")]
    Trace(String),
    /// The tracer answered something else than it was asked.
    #[error("the tracer answered out of turn")]
    Confused,
    /// The awaited state was not reached in time.
    #[error("waited {0:?} in vain; the tracer says {1:?}")]
    TimedOut(Duration, Box<Status>),
}

/// A traced program. Dropping it ends the tracing and lets the program run on, unharmed.
#[derive(Debug)]
pub struct Tracer {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Tracer {
    /// A command that runs `program`, but waits before its first instruction until a tracer is
    /// attached to it. Arguments, environment and pipes are set as usual; the process id stays.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn hold(program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let mut command = Command::new(locate()?);
        command.arg("hold").arg("--").arg(program);
        Ok(command)
    }

    /// Traces a running process, all of its threads and everything it starts, by `plan` from this
    /// moment; a process made by [`hold`](Self::hold) starts now. Needs root or the right to
    /// ptrace. Each system call of the program takes about 0.1 ms longer (200,000 calls of dd took 18.5 s
    /// instead of 0.04 s on two cores).
    ///
    /// System calls that are waiting at this moment are interrupted; those that are not restarted
    /// by the kernel, such as `epoll_wait`, return EINTR.
    ///
    /// # Errors
    /// [`Error::Trace`] if the process is gone or may not be traced.
    pub fn attach(pid: u32, plan: &Plan) -> Result<Self, Error> {
        let program = locate()?;
        let plan = serde_json::to_string(plan).map_err(|bad| Error::Talk(bad.into()))?;
        let mut process = Command::new(&program)
            .args(["serve", "--pid", &pid.to_string(), "--plan", &plan])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| Error::Start { program, cause })?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (orders, answers) = pipes.ok_or(Error::Confused)?;
        let mut tracer = Self {
            process,
            orders: Some(orders),
            answers: BufReader::new(answers),
        };
        match tracer.answer()? {
            Answer::Attached => Ok(tracer),
            Answer::Failed(text) => Err(Error::Trace(text)),
            _ => Err(Error::Confused),
        }
    }

    /// Starts a new count by a new plan.
    ///
    /// # Errors
    /// [`Error::Talk`].
    pub fn arm(&mut self, plan: &Plan) -> Result<(), Error> {
        match self.ask(&Order::Arm(plan.clone()))? {
            Answer::Armed => Ok(()),
            _ => Err(Error::Confused),
        }
    }

    /// Says where the tracer stands.
    ///
    /// # Errors
    /// [`Error::Trace`] if the tracing failed at any time.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.ask(&Order::Status)? {
            Answer::Status(Status {
                trouble: Some(text),
                ..
            }) => Err(Error::Trace(text)),
            Answer::Status(status) => Ok(status),
            _ => Err(Error::Confused),
        }
    }

    /// The calls counted since the plan was armed.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn counted(&mut self) -> Result<u64, Error> {
        Ok(self.status()?.counted)
    }

    /// Lists the counted calls in order.
    ///
    /// # Errors
    /// [`Error::Talk`].
    pub fn calls(&mut self) -> Result<Vec<Call>, Error> {
        match self.ask(&Order::Calls)? {
            Answer::Calls(calls) => Ok(calls),
            _ => Err(Error::Confused),
        }
    }

    /// Waits until the program has ended, by itself or by the plan.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and as [`status`](Self::status).
    pub fn wait_end(&mut self, limit: Duration) -> Result<Status, Error> {
        self.wait(limit, |status| status.end.is_some())
    }

    /// Waits until the plan has struck or the program has ended.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and as [`status`](Self::status).
    pub fn wait_fired(&mut self, limit: Duration) -> Result<Status, Error> {
        self.wait(limit, |status| {
            status.fired.is_some() || status.end.is_some()
        })
    }

    /// Ends the tracing, lets the program run on alone and says where the tracer stood.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn detach(mut self) -> Result<Status, Error> {
        self.status()
    }

    fn wait(&mut self, limit: Duration, done: impl Fn(&Status) -> bool) -> Result<Status, Error> {
        let start = Instant::now();
        loop {
            let status = self.status()?;
            if done(&status) {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(Error::TimedOut(limit, Box::new(status)));
            }
            std::thread::sleep(POLL);
        }
    }

    fn ask(&mut self, order: &Order) -> Result<Answer, Error> {
        let mut line = serde_json::to_vec(order).map_err(|bad| Error::Talk(bad.into()))?;
        line.push(b'\n');
        let orders = self.orders.as_mut().ok_or(Error::Confused)?;
        orders.write_all(&line).map_err(Error::Talk)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Error> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(Error::Talk)?;
        serde_json::from_str(&line).map_err(|bad| Error::Talk(bad.into()))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.orders = None;
        // It ends when its input does.
        let _ = self.process.wait();
    }
}

/// The tracer lies beside the running program or, for a test, one directory up.
fn locate() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::Talk)?;
    let candidates: Vec<PathBuf> = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(PROGRAM))
        .collect();
    let found = candidates.iter().find(|path| path.is_file());
    found
        .cloned()
        .ok_or_else(|| Error::Missing(candidates.last().cloned().unwrap_or_default()))
}
