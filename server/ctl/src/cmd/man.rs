//! `layerctl man`.

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::error::Error;
use crate::examples;
use crate::output::Output;
use crate::reference::{ESCAPES, EXIT_CODES, JSON_FIELDS, JSON_FORM};
use crate::text::escape;

/// Writes the man pages of layerctl and its commands into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An existing directory, such as /usr/local/share/man/man1
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

const DESCRIPTION: &str = "layerd keeps container layers and volumes on disk. This program asks the \
    running daemon over its socket; it opens none of the daemon's files.";
/// Pages of the daemon, as `layerd man` writes them.
const DAEMON: [(&str, &str); 2] = [("layerd", "8"), ("layerd-config", "5")];

/// `root` is the whole command line.
pub(crate) fn run(args: &Args, root: Command, out: &mut Output) -> Result<(), Error> {
    write_all(root, &args.dir).map_err(|cause| Error::Io {
        what: format!("write man pages to {}", args.dir.display()),
        cause,
    })?;
    if !out.json {
        out.line(&escape(&format!("Man pages are in {}", args.dir.display())))?;
    }
    Ok(())
}

fn write_all(root: Command, dir: &Path) -> io::Result<()> {
    let mut root = root.long_about(DESCRIPTION).disable_help_subcommand(true);
    root.build();
    write_below(&root, "", dir)
}

/// Writes the page of a command and those of the commands below it.
fn write_below(command: &Command, path: &str, dir: &Path) -> io::Result<()> {
    let file = dir.join(format!("{}.1", page_name(path)));
    std::fs::write(file, page(command, path)?)?;
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let path = format!("{path} {}", below.get_name());
        write_below(below, path.trim_start(), dir)?;
    }
    Ok(())
}

fn page_name(path: &str) -> String {
    format!("layerctl {path}").trim_end().replace(' ', "-")
}

fn page(command: &Command, path: &str) -> io::Result<Vec<u8>> {
    let source = format!("layerctl {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .title(page_name(path).to_uppercase())
        .source(source)
        .manual("layerctl");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    commands(&mut rest, command, path);
    match path {
        "" => reference(&mut rest),
        _ => fields(&mut rest, path),
    }
    show_examples(&mut rest, path);
    see_also(&mut rest, command, path);
    rest.to_writer(&mut page)?;
    Ok(page)
}

fn commands(roff: &mut Roff, command: &Command, path: &str) {
    let mut below = command
        .get_subcommands()
        .filter(|one| !one.is_hide_set())
        .peekable();
    if below.peek().is_none() {
        return;
    }
    roff.control("SH", ["COMMANDS"]);
    for one in below {
        let name = page_name(format!("{path} {}", one.get_name()).trim_start());
        let about = one.get_about().map(ToString::to_string);
        tagged(roff, &format!("{name}(1)"), &about.unwrap_or_default());
    }
}

/// Exit codes and JSON fields of all commands.
fn reference(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        tagged(roff, code, meaning);
    }
    roff.control("PP", []);
    roff.text([roman(
        "With several operands all are tried, and the first failure decides.",
    )]);
    roff.control("SH", ["JSON OUTPUT"]);
    roff.text([roman(JSON_FORM)]);
    for (commands, fields) in JSON_FIELDS {
        tagged(roff, &commands.join(", "), fields);
    }
    roff.control("SH", ["NOTES"]);
    roff.text([roman(ESCAPES)]);
}

/// JSON fields of one command.
fn fields(roff: &mut Roff, path: &str) {
    let of = JSON_FIELDS
        .iter()
        .find(|(commands, _)| commands.contains(&path));
    if let Some((_, fields)) = of {
        roff.control("SH", ["JSON OUTPUT"]);
        roff.text([roman("With "), bold("-o json"), roman(": ")]);
        roff.text([roman(*fields)]);
    }
}

fn show_examples(roff: &mut Roff, path: &str) {
    let examples = match path {
        "" => ["info", "snapshot", "volume", "doctor"]
            .map(examples::of)
            .concat(),
        _ => examples::of(path).to_vec(),
    };
    roff.control("SH", ["EXAMPLES"]);
    for (purpose, line) in examples {
        roff.control("PP", []);
        roff.text([roman(format!("{purpose}:"))]);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([bold(line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

/// The page above and the pages beside it; those of the daemon for the program.
fn see_also(roff: &mut Roff, command: &Command, path: &str) {
    let mut pages = Vec::new();
    if let Some((above, _)) = path.rsplit_once(' ') {
        pages.push((page_name(above), "1"));
    }
    if !path.is_empty() {
        pages.push((page_name(""), "1"));
    }
    let below = command.get_subcommands().filter(|one| !one.is_hide_set());
    let below = below.map(|one| format!("{path} {}", one.get_name()));
    pages.extend(below.map(|path| (page_name(path.trim_start()), "1")));
    pages.extend(DAEMON.map(|(name, section)| (name.to_owned(), section)));
    roff.control("SH", ["SEE ALSO"]);
    let mut text = Vec::new();
    for (index, (name, section)) in pages.into_iter().enumerate() {
        if index > 0 {
            text.push(roman(", "));
        }
        text.push(bold(name));
        text.push(roman(format!("({section})")));
    }
    roff.text(text);
}

fn tagged(roff: &mut Roff, tag: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(tag)]);
    roff.text([roman(text)]);
}
