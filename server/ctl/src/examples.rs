//! Examples of every command, as its help and its manual page show them.

mod others;
mod storage;

/// A purpose, and the command line that serves it.
type Example = (&'static str, &'static str);

/// Examples by command, in the order of the program's help.
fn all() -> impl Iterator<Item = &'static (&'static str, &'static [Example])> {
    storage::EXAMPLES.iter().chain(others::EXAMPLES)
}

/// Examples of the command with this path, such as `volume ls`.
pub(crate) fn of(path: &str) -> &'static [Example] {
    let found = all().find(|(command, _)| *command == path);
    found.map_or(&[], |(_, examples)| examples)
}

/// The end of a command's help.
pub(crate) fn text(path: &str) -> String {
    let mut text = "Examples:".to_owned();
    for (purpose, line) in of(path) {
        text.push_str(&format!("\n  # {purpose}\n  {line}"));
    }
    text + "\n\nOptions of all commands: layerctl --help"
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::{all, of};
    use crate::help;

    /// Words of a command line, up to a pipe or redirection.
    fn words(line: &str) -> Vec<String> {
        let words = shlex::split(line).unwrap();
        let end = words.iter().position(|word| word == "|" || word == ">");
        words[..end.unwrap_or(words.len())].to_vec()
    }

    #[test]
    fn examples_are_accepted() {
        for (command, examples) in all() {
            assert!(help::find(&help::command(), command).is_some(), "{command}");
            for (purpose, line) in *examples {
                let words = words(line);
                let result = help::command().try_get_matches_from(&words);
                assert!(result.is_ok(), "{line}: {}", result.unwrap_err());
                assert!(line.chars().count() <= 90, "{line}");
                assert!(!purpose.is_empty());
            }
        }
    }

    #[test]
    fn every_command_has_examples_of_its_own() {
        fn check(command: &Command, above: &str) {
            for below in command.get_subcommands() {
                let path = format!("{above}{}", below.get_name());
                let start = format!("layerctl {}", path.split(' ').next().unwrap_or_default());
                assert!(!of(&path).is_empty(), "{path}");
                for (_, line) in of(&path) {
                    assert!(line.starts_with(&start), "{path}: {line}");
                }
                check(below, &format!("{path} "));
            }
        }
        check(&help::command(), "");
    }
}
