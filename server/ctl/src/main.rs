//! `layerctl`, the command line of layerd: asks the daemon over its socket, never opens its
//! files. Output for people by default, JSON lines for programs, exit codes for scripts.

mod address;
mod atomic_file;
mod attachment;
mod bundle;
mod cli;
mod client;
mod cmd;
mod complete;
mod confirm;
mod containerd;
mod dispatch;
mod docker_root;
mod doctor;
mod error;
mod examples;
mod format;
mod fullness;
mod help;
mod host_file;
mod human;
mod images;
mod managed_file;
mod oci_state;
mod operand;
mod orphans;
mod output;
mod output_file;
mod progress;
mod readonly;
mod reference;
mod snapshot;
mod table;
mod text;
mod tree_layout;
mod view;
mod volume;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use clap::FromArgMatches;

use cli::Cli;
use error::{Error, Exit};
use output::Output;

/// Colour of the word "error".
const ERROR: Style = AnsiColor::Red.on_default().bold();

fn main() -> ExitCode {
    // A shell that completes a command line asks by the variable COMPLETE.
    clap_complete::CompleteEnv::with_factory(help::command).complete();
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(&words) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &words),
    };
    let (plain, json) = (cli.no_color, cli.output == cli::Format::Json);
    let stdout = io::stdout();
    let mut out = Output {
        json,
        colour: !plain && is_coloured(&stdout),
        terminal: stdout.is_terminal(),
        columns: columns(&stdout),
        lines: terminal_size::terminal_size_of(&stdout).map(|(_, height)| height.0),
        now: human::now(),
        out: Box::new(io::BufWriter::new(stdout)),
    };
    let result = dispatch::run(cli, &mut out).and_then(|()| out.flush());
    drop(out);
    match result {
        Ok(()) => Exit::Done.into(),
        // The reader of our output closed it, as `head` does.
        Err(Error::Output(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
        Err(error) => {
            match json {
                true => report_json(&error),
                false => report(&error, !plain && is_coloured(&io::stderr())),
            }
            error.exit().into()
        }
    }
}

fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = help::command();
    let mut matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Prints the help that was asked for, or the error of a command line.
fn refuse(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if !error.use_stderr() || !asks_for_json(words) {
        let _gone = error.print();
        return match error.use_stderr() {
            true => Exit::Wrong.into(),
            false => Exit::Done.into(),
        };
    }
    let text = error.render().to_string();
    let paragraph: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
    let sentence = paragraph.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    print_error(&error::Json {
        error: text::escape_message(sentence),
        code: Exit::Wrong.name(),
        exit_code: Exit::Wrong as u8,
        hint: "`layerctl --help` has the commands.".to_owned(),
    });
    Exit::Wrong.into()
}

/// True if a command line that could not be parsed has `-o json` in it.
fn asks_for_json(words: &[OsString]) -> bool {
    let is = |word: &OsString, text: &str| word.to_str() == Some(text);
    let joined = ["-ojson", "-o=json", "--output=json"];
    let is_pair = |pair: &[OsString]| {
        ["-o", "--output"].iter().any(|flag| is(&pair[0], flag)) && is(&pair[1], "json")
    };
    words.windows(2).any(is_pair)
        || words
            .iter()
            .any(|word| joined.iter().any(|one| is(word, one)))
}

/// True for a terminal that shows colours, unless NO_COLOR or TERM forbids them.
fn is_coloured(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Width of the terminal: as COLUMNS has it, which `watch` sets, or as the terminal says.
fn columns(stdout: &io::Stdout) -> Option<u16> {
    let variable = std::env::var_os("COLUMNS");
    let variable = variable.and_then(|text| text.to_str()?.parse().ok());
    let size = || terminal_size::terminal_size_of(stdout).map(|(width, _)| width.0);
    variable.or_else(size).filter(|columns| *columns > 0)
}

/// Prints the attempt, its error and a hint. A failure of standard error is ignored.
fn report(error: &Error, colour: bool) {
    let mut text = String::new();
    let style = if colour { ERROR } else { Style::new() };
    for failure in error.each() {
        text.push_str(&format!(
            "layerctl: {style}error:{style:#} {}\n",
            failure.describe()
        ));
        if let Some(hint) = failure.hint() {
            text.push_str(&format!("  {}\n", hint.replace('\n', "\n  ")));
        }
    }
    let _gone = io::stderr().write_all(text.as_bytes());
}

/// Prints an object for each failure.
fn report_json(error: &Error) {
    for failure in error.each() {
        print_error(&failure.json());
    }
}

/// A failure of standard error is ignored.
fn print_error(error: &error::Json) {
    if let Ok(json) = serde_json::to_string(error) {
        let _gone = writeln!(io::stderr(), "{}", text::escape_json(&json));
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{asks_for_json, parse};

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn json_is_recognised_on_a_broken_command_line() {
        for line in [
            "layerctl -o json nothing",
            "layerctl nothing --output=json",
            "layerctl -ojson",
        ] {
            assert!(asks_for_json(&words(line)), "{line}");
            assert!(parse(&words(line)).is_err(), "{line}");
        }
        assert!(!asks_for_json(&words(
            "layerctl volume inspect json -o table"
        )));
    }
}
