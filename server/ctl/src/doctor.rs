//! What `layerctl doctor` finds: facts come in, findings come out. Gathering the facts is the
//! command's part.

pub(crate) mod containerd;
pub(crate) mod daemon;
pub(crate) mod host;
pub(crate) mod mounts;
pub(crate) mod unit;

use serde::Serialize;

/// How much a finding matters.
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

/// One thing that was looked at. The field names are the documented ones of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What was looked at; the same word in every release.
    pub(crate) check: String,
    pub(crate) found: String,
    /// What follows from it; empty if nothing.
    pub(crate) means: String,
    /// The command that mends it; empty if there is nothing to mend.
    pub(crate) mend: String,
}

impl Finding {
    pub(crate) fn ok(check: &str, found: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            check: check.to_owned(),
            found: found.into(),
            means: String::new(),
            mend: String::new(),
        }
    }

    pub(crate) fn info(check: &str, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self {
            severity: Severity::Info,
            means: means.into(),
            ..Self::ok(check, found)
        }
    }

    pub(crate) fn warning(
        check: &str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            mend: mend.into(),
            ..Self::info(check, found, means)
        }
    }

    pub(crate) fn error(
        check: &str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::warning(check, found, means, mend)
        }
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
