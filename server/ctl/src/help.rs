//! Help texts: the command line as derived, with its commands in groups, its global options in the
//! program's help alone, and examples in each page.

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::Cli;
use crate::examples;

/// Groups of the program's commands, in order of display. Commands of hooks and packages are in the
/// manual page alone.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Storage",
        &["snapshot", "layer", "volume", "trash", "import"],
    ),
    (
        "Containers",
        &[
            "mount",
            "attach",
            "detach",
            "attachments",
            "who-uses",
            "oci-apply",
        ],
    ),
    (
        "Look inside",
        &[
            "info", "version", "events", "du", "top", "report", "why", "orphans",
        ],
    ),
    (
        "Keep in order",
        &["doctor", "fsck", "backup", "restore", "setup"],
    ),
];

const FOOTER: &str =
    "`layerctl COMMAND --help` has examples; exit codes and JSON fields: man layerctl";

/// The command line with its help texts.
pub(crate) fn command() -> Command {
    let root = Cli::command();
    let template = template(&root);
    // `layerctl version` is the one that is shown.
    let version = Arg::new("version")
        .short('V')
        .long("version")
        .action(ArgAction::Version)
        .hide(true);
    hide_globals(root)
        .mut_subcommands(|command| with_examples(command, ""))
        .help_template(template)
        .disable_version_flag(true)
        .arg(version)
}

/// The command of a path such as `volume ls`.
#[cfg(test)]
pub(crate) fn find<'c>(root: &'c Command, path: &str) -> Option<&'c Command> {
    path.split(' ')
        .try_fold(root, |command, name| command.find_subcommand(name))
}

fn template(root: &Command) -> String {
    let mut text = "{about}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for name in names {
            let about = root.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<12} {about}\n"));
        }
    }
    text.push_str(&format!("\nOptions:\n{{options}}\n{FOOTER}\n"));
    text
}

/// Gives each command below a hidden copy of each global option, which clap then leaves as it is.
fn hide_globals(root: Command) -> Command {
    let globals: Vec<_> = root
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .map(|argument| argument.clone().hide(true))
        .collect();
    root.mut_subcommands(|command| with_hidden(command, &globals))
}

fn with_hidden(command: Command, globals: &[clap::Arg]) -> Command {
    command
        .args(globals)
        .mut_subcommands(|below| with_hidden(below, globals))
}

fn with_examples(command: Command, above: &str) -> Command {
    let path = format!("{above}{}", command.get_name());
    let text = examples::text(&path);
    let below = format!("{path} ");
    command
        .mut_subcommands(|command| with_examples(command, &below))
        .after_help(text)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::{GROUPS, command};

    fn visible(command: &Command) -> Vec<String> {
        let visible = command.get_subcommands().filter(|one| !one.is_hide_set());
        visible.map(|one| one.get_name().to_owned()).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_program_s_help_fits_a_screen() {
        let shown = |flag| {
            let root = command().term_width(80);
            let shown = root.try_get_matches_from(["layerctl", flag]);
            shown.unwrap_err().to_string()
        };
        let help = shown("--help");
        assert_eq!(help, shown("-h"), "one help");
        let lines: Vec<_> = help.lines().collect();
        assert!((24..=43).contains(&lines.len()), "{}: {help}", lines.len());
        for line in lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(help.contains("--address"), "{help}");
    }

    #[test]
    fn every_command_has_its_group() {
        let grouped = GROUPS.iter().flat_map(|(_, names)| *names);
        let mut grouped: Vec<String> = grouped.map(ToString::to_string).collect();
        grouped.extend(["oci-hook", "completions", "man"].map(str::to_owned));
        let mut all = visible(&command());
        all.sort();
        grouped.sort();
        assert_eq!(grouped, all);
    }

    #[test]
    fn global_options_are_listed_once() {
        fn check(command: &mut Command) {
            let help = command.render_long_help().to_string();
            for option in ["--address <", "--timeout <", "--no-color", "-o, --output"] {
                let mut lines = help.lines().map(str::trim_start);
                assert!(!lines.any(|line| line.starts_with(option)), "{help}");
            }
            command.get_subcommands_mut().for_each(check);
        }
        let mut root = command();
        root.build();
        root.get_subcommands_mut()
            .filter(|command| command.get_name() != "help")
            .for_each(check);
    }

    #[test]
    fn global_options_work_below_commands() {
        let line = ["layerctl", "volume", "ls", "-o", "json", "--timeout", "5s"];
        let matches = command().try_get_matches_from(line).unwrap();
        let timeout = matches.get_one::<std::time::Duration>("timeout");
        assert_eq!(timeout, Some(&std::time::Duration::from_secs(5)));
    }
}
