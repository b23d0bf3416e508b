//! `layerctl`, the command line of layerd: asks the daemon over its socket, never opens its
//! files. Output for people by default, JSON lines for programs, exit codes for scripts.

mod atomic_file;
mod attachment;
mod bundle;
mod cli;
mod client;
mod cmd;
mod confirm;
mod containerd;
mod doctor;
mod error;
mod human;
mod managed_file;
mod oci_state;
mod orphans;
mod output;
mod output_file;
mod progress;
mod readonly;
mod snapshot;
mod table;
mod text;
mod tree_layout;
mod volume;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use error::{Error, Exit};
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plain = cli.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let stdout = io::stdout();
    let mut out = Output {
        json: cli.output == cli::Format::Json,
        colour: !plain && stdout.is_terminal(),
        now: human::now(),
        out: Box::new(io::BufWriter::new(stdout)),
    };
    let result = cmd::run(cli, &mut out).and_then(|()| out.flush());
    drop(out);
    match result {
        Ok(()) => Exit::Done.into(),
        // The reader of our output closed it, as `head` does.
        Err(Error::Output(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
        Err(error) => {
            report(&error, !plain && io::stderr().is_terminal());
            error.exit().into()
        }
    }
}

/// Prints the attempt, its error and a hint. A failure of standard error is ignored.
fn report(error: &Error, colour: bool) {
    let mut text = String::new();
    let (start, end) = if colour {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    for failure in error.each() {
        text.push_str(&format!(
            "layerctl: {start}error:{end} {}\n",
            failure.describe()
        ));
        if let Some(hint) = failure.hint() {
            text.push_str(&format!("  {}\n", hint.replace('\n', "\n  ")));
        }
    }
    let _gone = io::stderr().write_all(text.as_bytes());
}
