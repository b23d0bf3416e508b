//! Findings of `layerctl doctor`, as pure functions of facts. The command gathers the facts.

pub(crate) mod containerd;
pub(crate) mod csi;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod mounts;
pub(crate) mod nri;
pub(crate) mod plugin;
pub(crate) mod references;
pub(crate) mod unit;
pub(crate) mod volumes;

use std::borrow::Cow;

use serde::Serialize;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Nothing to do, but good to know.
    Info,
    /// Works, but will not for ever.
    Warning,
    /// Does not work, or data are at risk.
    Error,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Action of a finding: a command or a sentence, never both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A command for a shell after which the finding is gone.
    Fix {
        /// Name of the fix. The tests of the package break a machine for each name in the sources.
        name: Cow<'static, str>,
        command: String,
        /// Set if it deletes nothing and containers go on: `--fix` may run it.
        is_safe: bool,
    },
    /// An action for a person, where no command can fix it.
    Advice(String),
}

impl Action {
    pub(crate) fn safe(name: impl Into<Cow<'static, str>>, command: impl Into<String>) -> Self {
        Self::Fix {
            name: name.into(),
            command: command.into(),
            is_safe: true,
        }
    }

    /// A command that gives something up: for a person to decide on.
    pub(crate) fn fix(name: &'static str, command: impl Into<String>) -> Self {
        Self::Fix {
            name: name.into(),
            command: command.into(),
            is_safe: false,
        }
    }

    pub(crate) fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }
}

/// One thing that was looked at. The field names are the documented ones of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Name of the check; the same in every release.
    pub(crate) check: String,
    pub(crate) found: String,
    /// Its impact; empty without one.
    pub(crate) impact: String,
    /// The command after which it is gone; empty if there is none.
    pub(crate) fix: String,
    /// Name of the command, the same in every release; empty if there is none.
    pub(crate) fix_name: String,
    /// Set if `--fix` may run it.
    pub(crate) safe: bool,
    /// An action for a person; empty without one, or if there is a command.
    pub(crate) advice: String,
}

impl Finding {
    pub(crate) fn ok(check: &str, found: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            check: check.to_owned(),
            found: found.into(),
            impact: String::new(),
            fix: String::new(),
            fix_name: String::new(),
            safe: false,
            advice: String::new(),
        }
    }

    pub(crate) fn info(check: &str, found: impl Into<String>, impact: impl Into<String>) -> Self {
        Self {
            severity: Severity::Info,
            impact: impact.into(),
            ..Self::ok(check, found)
        }
    }

    pub(crate) fn warning(
        check: &str,
        found: impl Into<String>,
        impact: impl Into<String>,
        action: Action,
    ) -> Self {
        let mut finding = Self {
            severity: Severity::Warning,
            ..Self::info(check, found, impact)
        };
        match action {
            Action::Fix {
                name,
                command,
                is_safe,
            } => {
                finding.fix = command;
                finding.fix_name = name.into_owned();
                finding.safe = is_safe;
            }
            Action::Advice(text) => finding.advice = text,
        }
        finding
    }

    pub(crate) fn error(
        check: &str,
        found: impl Into<String>,
        impact: impl Into<String>,
        action: Action,
    ) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::warning(check, found, impact, action)
        }
    }

    /// True if it needs an action.
    pub(crate) fn is_trouble(&self) -> bool {
        self.severity >= Severity::Warning
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=,@%+".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Two sentences' worth of a list: the first few and how many more.
pub(crate) fn some_of(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if all.len() > SHOWN {
        text.push_str(&format!("; and {} more", all.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{quoted, some_of};

    #[test]
    fn words_reach_a_shell_as_they_are() {
        let table = [
            ("k8s.io/7/sha256:ab", "k8s.io/7/sha256:ab"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
        ];
        for (word, wanted) in table {
            assert_eq!(quoted(word), wanted);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(some_of(&all), "a; b; c; and 2 more");
        assert_eq!(some_of(&all[..1]), "a");
    }
}
