//! Traces a program: lists its state-changing system calls, or strikes at one of them.
//!
//! `list`, `kill` and `fail` are for people; `hold` and `serve` for the library.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use layerd_crash::trace::{self, Call, Moment, Plan, Times, Tracer};
use nix::sys::signal::{Signal, raise};

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Runs a program and lists the calls that change state.
    List(Target),
    /// Kills a program at its n-th call.
    Kill {
        /// Number of the call, from 1.
        #[arg(long)]
        at: u64,
        /// Let the call happen first.
        #[arg(long)]
        after: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Lets the n-th call fail.
    Fail {
        /// Number of the call, from 1.
        #[arg(long)]
        at: u64,
        /// Errno as a number: 28 no space, 5 I/O error, 122 quota, 30 read-only, 24 too many files.
        #[arg(long)]
        errno: i32,
        /// Let all calls after it fail too.
        #[arg(long)]
        onwards: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Waits for a tracer, then becomes another program.
    #[command(hide = true)]
    Hold {
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Traces for a program that gives orders on standard input.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        pid: i32,
        #[arg(long)]
        plan: String,
    },
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Count only calls below this directory.
    #[arg(long)]
    within: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Trace(#[from] trace::Error),
    #[error("run the program")]
    Run(#[from] io::Error),
    #[error("wait for a tracer")]
    Hold(#[from] nix::Error),
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            // With standard error closed there is no other way to report.
            let _ = writeln!(io::stderr(), "crash-tracer: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<(), Error> {
    match action {
        Action::List(target) => run(Plan::count(), target),
        Action::Kill { at, after, target } => {
            let moment = if after { Moment::After } else { Moment::Before };
            run(Plan::kill_at(at, moment), target)
        }
        Action::Fail {
            at,
            errno,
            onwards,
            target,
        } => {
            let times = if onwards { Times::Onwards } else { Times::Once };
            run(Plan::fail_at(at, errno, times), target)
        }
        Action::Hold { command } => {
            raise(Signal::SIGSTOP)?;
            Err(Command::new(&command[0]).args(&command[1..]).exec().into())
        }
        Action::Serve { pid, plan } => Ok(trace::server::serve(pid, &plan)?),
    }
}

fn run(plan: Plan, target: Target) -> Result<(), Error> {
    let plan = match &target.within {
        Some(directory) => plan.within(directory.canonicalize()?),
        None => plan,
    };
    let mut child = Tracer::hold(&target.command[0])?
        .args(&target.command[1..])
        .spawn()?;
    let mut tracer = Tracer::attach(child.id(), &plan)?;
    let status = tracer.wait_end(Duration::MAX)?;
    child.wait()?;
    let mut output = io::stderr().lock();
    for call in tracer.calls()? {
        writeln!(output, "{}", line(&call))?;
    }
    if let Some(fired) = status.fired {
        writeln!(output, "struck at {}", line(&fired))?;
    }
    Ok(writeln!(
        output,
        "{} calls, {:?}",
        status.counted, status.end
    )?)
}

fn line(call: &Call) -> String {
    let paths: Vec<_> = call
        .paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let result = call
        .result
        .map_or("?".to_owned(), |result| result.to_string());
    let Call {
        number,
        thread,
        name,
        arguments,
        ..
    } = call;
    format!(
        "{number:6} [{thread}] {name}({}) {arguments:x?} = {result}",
        paths.join(", ")
    )
}
