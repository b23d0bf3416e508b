//! NRI in containerd: whether its configuration has it on, and the drop-in that turns it on.

use std::path::Path;

use toml::{Table, Value};

use super::effective::{Effective, NRI};
use super::{Schema, Version};

/// Settings that turn NRI, or plugins that connect by themselves, off.
const OFF: [&str; 2] = ["disable", "disable_connections"];

/// NRI under a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Plugins can connect.
    On,
    /// The release has no NRI.
    Unknown,
    /// Settings or the release's defaults have it off.
    Off,
    /// `disabled_plugins` names it, which no drop-in can take back.
    Barred,
}

/// State of NRI in containerd `version` with these files, apart from `ignored`.
pub(crate) fn state(version: Version, files: &Effective, ignored: Option<&Path>) -> State {
    if !version.since(1, 7, 0) {
        return State::Unknown;
    }
    let is_nri = |one: &String| NRI.contains(&one.as_str());
    if files.disabled.iter().any(is_nri) {
        return State::Barred;
    }
    let section = section(files, ignored);
    let is_set = |key: &str| section.get(key).and_then(Value::as_bool);
    let default = !version.since(2, 0, 0);
    match is_set("disable").unwrap_or(default) || is_set("disable_connections").unwrap_or(false) {
        true => State::Off,
        false => State::On,
    }
}

/// The settings that count.
fn section(files: &Effective, ignored: Option<&Path>) -> Table {
    let mut all = files.nri.iter().rev();
    let last = all.find(|(path, _)| Some(path.as_path()) != ignored);
    last.map(|(_, table)| table.clone()).unwrap_or_default()
}

/// Text of the drop-in. containerd 1.7 replaces the table of a plugin as a whole, so other settings of it are
/// repeated. `own` is the drop-in's path.
pub(crate) fn drop_in(version: Version, schema: Schema, files: &Effective, own: &Path) -> String {
    let mut section = section(files, Some(own));
    section.insert("disable".to_owned(), Value::Boolean(false));
    if section.contains_key("disable_connections") {
        section.insert("disable_connections".to_owned(), Value::Boolean(false));
    }
    let name = match schema {
        Schema::V1 => NRI[1],
        Schema::V2 | Schema::V3 => NRI[0],
    };
    let plugin = Table::from_iter([(name.to_owned(), Value::Table(section))]);
    let file = Table::from_iter([("plugins".to_owned(), Value::Table(plugin))]);
    let version_line = schema.line().map(|line| format!("{line}\n\n"));
    format!(
        "# NRI of containerd {version} on, so that layerd-nri can give containers volumes.\n{}{file}",
        version_line.unwrap_or_default()
    )
}

/// True if a configuration that containerd has dumped has NRI on.
pub(crate) fn is_on(dump: &str) -> bool {
    let Ok(file) = toml::from_str::<Table>(dump) else {
        return false;
    };
    let section = file.get("plugins").and_then(|all| all.get(NRI[0]));
    section.is_some_and(|section| {
        let is_off = |key: &&str| section.get(key).and_then(Value::as_bool) == Some(true);
        section.get("disable").is_some() && !OFF.iter().any(is_off)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sections: &[(&str, &str)], disabled: &[&str]) -> Effective {
        let sections = sections
            .iter()
            .map(|(path, text)| (path.into(), toml::from_str(text).unwrap()));
        Effective {
            nri: sections.collect(),
            disabled: disabled.iter().map(|&one| one.to_owned()).collect(),
            ..Effective::default()
        }
    }

    #[test]
    fn releases_settings_and_lists_decide() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], State);
        let table: &[Case<'_>] = &[
            ("1.6", &[], &[], State::Unknown),
            ("1.7", &[], &[], State::Off),
            ("2.1", &[], &[], State::On),
            ("1.7", &[("/a", "disable = false")], &[], State::On),
            ("2.1", &[("/a", "disable = true")], &[], State::Off),
            (
                "2.1",
                &[("/a", "disable_connections = true")],
                &[],
                State::Off,
            ),
            (
                "1.7",
                &[("/a", "disable = false"), ("/b", "")],
                &[],
                State::Off,
            ),
            ("1.7", &[("/own", "disable = false")], &[], State::Off),
            ("2.1", &[], &["io.containerd.nri.v1.nri"], State::Barred),
            (
                "1.7",
                &[("/a", "disable = false")],
                &["cri", "nri"],
                State::Barred,
            ),
        ];
        for (version, sections, disabled, wanted) in table {
            let version = Version::parse(version).unwrap();
            let found = state(version, &files(sections, disabled), Some(Path::new("/own")));
            assert_eq!(found, *wanted, "{version} {sections:?} {disabled:?}");
        }
    }

    #[test]
    fn other_settings_are_kept() {
        let files = files(
            &[
                (
                    "/a",
                    "disable = true\nsocket_path = \"/s\"\ndisable_connections = true",
                ),
                ("/own", "plugin_path = \"/old\""),
            ],
            &[],
        );
        let version = Version::parse("1.7").unwrap();
        let text = drop_in(version, Schema::V2, &files, Path::new("/own"));
        assert!(text.contains("version = 2\n"), "{text}");
        assert!(is_on(&text), "{text}");
        let file: Table = toml::from_str(&text).unwrap();
        let section = file["plugins"][NRI[0]].as_table().unwrap();
        assert_eq!(section["socket_path"].as_str(), Some("/s"));
        assert_eq!(section.len(), 3);
        let text = drop_in(version, Schema::V1, &files, Path::new("/own"));
        assert!(text.contains("[plugins.nri]"), "{text}");
        assert!(!text.contains("version ="), "{text}");
    }
}
