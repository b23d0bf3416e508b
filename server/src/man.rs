//! `layerd man DIR`: the man pages, for packagers. Not shown in the help.
//!
//! layerd(8) and its commands come from the command line's definition, layerd-config(5) from the
//! sample configuration, so neither can say other things than those.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const SAMPLE: &str = include_str!("../../deploy/config.toml");

/// Writes all pages into an existing directory.
pub(crate) fn run(command: clap::Command, dir: &Path) -> ExitCode {
    match write(command, dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layerd: write man pages to {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn write(command: clap::Command, dir: &Path) -> io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let shown = |command: &&clap::Command| !command.is_hide_set();
    for command in command.get_subcommands().filter(shown) {
        page(command.clone()).generate_to(dir)?;
    }
    page(command).generate_to(dir)?;
    fs::write(dir.join("layerd-config.5"), configuration(SAMPLE))
}

fn page(command: clap::Command) -> Man {
    Man::new(command).section("8").manual("layerd")
}

/// The page of a sample in which comments stand before the keys they explain, and keys are
/// commented out.
fn configuration(sample: &str) -> String {
    let mut page = Roff::new();
    let version = concat!("layerd ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["layerd-config", "5", "", version, "layerd"]);
    page.control("SH", ["NAME"]);
    page.text([roman("layerd-config - configuration file of layerd")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut prose = String::new();
    for line in sample.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            prose = format!("{prose}{text}\n");
        } else if let Some(key) = line.strip_prefix('#') {
            page.control("TP", []).text([bold(key)]);
            explain(&mut page, &mut prose);
        } else if line.starts_with('[') {
            page.control("SH", [line]);
        } else if line.is_empty() {
            explain(&mut page, &mut prose);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("layerd"),
        roman("(8), "),
        bold("layerctl"),
        roman("(1)"),
    ]);
    page.render()
}

fn explain(page: &mut Roff, prose: &mut String) {
    if !prose.is_empty() {
        page.text([roman(prose.trim_end())]);
        prose.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{SAMPLE, configuration};

    #[test]
    fn every_key_of_the_sample_is_explained() {
        let page = configuration(SAMPLE);
        let keys = SAMPLE.lines().filter_map(|line| {
            let key = line.strip_prefix('#')?.split_once(" = ")?.0;
            (!key.contains(' ')).then_some(key)
        });
        let mut count = 0;
        for key in keys {
            let key = key.replace('-', "\\-");
            let heading = format!(".TP\n\\fB{key} = ");
            let (_, text) = page.split_once(&heading).unwrap_or_else(|| panic!("{key}"));
            let text = text.lines().nth(1).unwrap_or_default();
            assert!(!text.is_empty() && !text.starts_with('.'), "{key}: {text}");
            count += 1;
        }
        assert!(count > 10, "{count} keys");
    }

    #[test]
    fn sections_are_headings_and_the_beginning_is_no_key() {
        let page =
            configuration("# About\n# it all.\n\n# A: \"b\"\n#a = 1\n\n[s]\n# Of c.\n#c = 2\n");
        let body = page.split_once(".SH DESCRIPTION\n").map(|(_, body)| body);
        let wanted =
            "About\nit all.\n.TP\n\\fBa = 1\\fR\nA: \"b\"\n.SH [s]\n.TP\n\\fBc = 2\\fR\nOf c.\n";
        assert_eq!(
            body.and_then(|body| body.split_once(".SH \"SEE"))
                .map(|(body, _)| body),
            Some(wanted)
        );
    }
}
