//! The host and the configuration, as `layerd check --json` finds them.

use std::collections::BTreeMap;

use layerd_proto::layerd::v1::Health;
use serde::Deserialize;

use super::{Action, Finding};

/// Output of `layerd check --json`.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    looked: Vec<Looked>,
    /// None if the configuration is not valid.
    pub(crate) settings: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Looked {
    check: String,
    ok: bool,
    needed: bool,
    found: String,
    advice: String,
    /// Set if the configuration asks for it. Older daemons do not report it.
    #[serde(default)]
    wanted: bool,
    /// A command for a shell; empty for none.
    #[serde(default)]
    fix: String,
    #[serde(default)]
    fix_name: String,
}

#[derive(Debug, Deserialize)]
struct Told {
    settings: BTreeMap<String, String>,
}

impl Checked {
    /// Reads its output. Answers none if that is no output of this command, such as that of an
    /// older layerd.
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let mut checked = Self::default();
        for line in output.lines() {
            if let Ok(looked) = serde_json::from_str::<Looked>(line) {
                checked.looked.push(looked);
            } else {
                checked.settings = Some(serde_json::from_str::<Told>(line).ok()?.settings);
            }
        }
        (!checked.looked.is_empty()).then_some(checked)
    }

    /// One finding for each; `file` is the configuration file, if there is one.
    pub(crate) fn findings(&self, file: Option<&str>) -> Vec<Finding> {
        // The doctor looks at the disk of volumes itself, and knows where it is mounted.
        let looked = self.looked.iter().filter(|one| one.check != "volumes");
        looked.map(|looked| looked.finding(file)).collect()
    }
}

impl Looked {
    fn finding(&self, file: Option<&str>) -> Finding {
        if self.check == "configuration" {
            return configuration(self, file);
        }
        let check = format!("host: {}", self.check);
        match (self.ok, self.needed, self.wanted) {
            (true, _, _) => Finding::ok(&check, &self.found),
            (false, false, false) => Finding::info(&check, &self.found, self.advice()),
            (false, false, true) => Finding::warning(
                &check,
                &self.found,
                "The configuration asks for something that does not work.",
                self.action(),
            ),
            (false, true, _) => Finding::error(
                &check,
                &self.found,
                "layerd cannot keep layers here, and does not start.",
                self.action(),
            ),
        }
    }

    fn action(&self) -> Action {
        match (self.fix.is_empty(), self.advice.is_empty()) {
            (false, _) => Action::safe(self.fix_name.clone(), &self.fix),
            (true, false) => Action::advice(self.advice()),
            (true, true) => {
                Action::advice("Mend what the error names; `layerd check` looks at it alone.")
            }
        }
    }

    /// Where the data directory is what is wrong, with how to choose another.
    fn advice(&self) -> String {
        match self.advice.contains("the root") {
            true => format!(
                "{} (`root` in layerd's configuration, --root on its command line; `layerctl setup containerd --root DIR \
                 --write` tells containerd)",
                self.advice
            ),
            false => self.advice.clone(),
        }
    }
}

fn configuration(looked: &Looked, file: Option<&str>) -> Finding {
    const CHECK: &str = "configuration";
    let name = file.unwrap_or("no file, so the defaults hold");
    if looked.ok {
        return Finding::ok(CHECK, format!("valid: {name}"));
    }
    // The parser's picture of the line is for those who can see its columns.
    let lines = looked.found.lines().filter(|line| !line.contains(" |"));
    let found: Vec<_> = lines.collect();
    Finding::error(
        CHECK,
        found.join(": "),
        "layerd would not start with it; one that runs goes on with what it read.",
        Action::advice(format!(
            "Mend the line; `layerd check --config {}` shows where it is.",
            super::quoted(file.unwrap_or_default())
        )),
    )
}

/// Finding for a daemon whose effective configuration differs from its file.
pub(crate) fn effective(file: &BTreeMap<String, String>, health: &Health) -> Finding {
    const CHECK: &str = "effective configuration";
    let keys = file.keys().chain(health.settings.keys());
    let mut differing: Vec<String> = keys
        .filter(|key| !health.overridden.contains(key))
        .filter(|key| file.get(*key) != health.settings.get(*key))
        .map(|key| {
            let value = |from: &BTreeMap<String, String>| {
                format!("{:?}", from.get(key).cloned().unwrap_or_default())
            };
            format!(
                "{key} is {} in the file and {} in the daemon",
                value(file),
                value(&health.settings)
            )
        })
        .collect();
    differing.sort();
    differing.dedup();
    if differing.is_empty() {
        return Finding::ok(CHECK, "the daemon runs with what its file says");
    }
    Finding::warning(
        CHECK,
        super::some_of(&differing),
        "The file was changed after layerd started; the next start will take it.",
        Action::safe(
            "restart-for-configuration",
            "systemctl restart layerd.service",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    const OUTPUT: &str = r#"{"check":"configuration","ok":true,"needed":true,"found":"valid","advice":""}
{"check":"overlayfs","ok":false,"needed":true,"found":"no","advice":"modprobe overlay"}
{"check":"id-mapped layers","ok":false,"needed":false,"found":"old","advice":"run a later one"}
{"settings":{"root":"/r"}}
"#;

    #[test]
    fn what_layerd_says_of_the_host_is_taken_over() {
        let checked = Checked::parse(OUTPUT).unwrap();
        let found = checked.findings(Some("/etc/layerd/config.toml"));
        let severities: Vec<_> = found.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Ok, Severity::Error, Severity::Info]);
        assert_eq!(found[1].check, "host: overlayfs");
        assert_eq!(found[1].advice, "modprobe overlay");
        assert_eq!(checked.settings.unwrap()["root"], "/r");
    }

    #[test]
    fn an_older_layerd_is_told_from_a_good_one() {
        assert!(Checked::parse("ok   configuration: valid\n").is_none());
        assert!(Checked::parse("").is_none());
    }

    #[test]
    fn a_wrong_configuration_is_an_error() {
        let output = r#"{"check":"configuration","ok":false,"needed":true,"found":"TOML error at line 3\n  |\n3 | x\n  | ^\nunknown field","advice":""}"#;
        let checked = Checked::parse(output).unwrap();
        let found = checked.findings(Some("/a b"));
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].found, "TOML error at line 3: unknown field");
        assert!(found[0].advice.contains("`layerd check --config '/a b'`"));
        assert!(checked.settings.is_none());
    }

    #[test]
    fn a_file_that_was_changed_is_noticed_but_not_the_command_line() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let health = Health {
            settings: map(&[("root", "/other"), ("trash.keep_secs", "2")]),
            overridden: vec!["root".to_owned()],
            ..Health::default()
        };
        let same = effective(&map(&[("root", "/r"), ("trash.keep_secs", "2")]), &health);
        assert_eq!(same.severity, Severity::Ok, "{same:?}");
        let changed = effective(&map(&[("root", "/r"), ("trash.keep_secs", "9")]), &health);
        assert_eq!(changed.severity, Severity::Warning);
        assert_eq!(
            changed.found,
            "trash.keep_secs is \"9\" in the file and \"2\" in the daemon"
        );
    }
}
