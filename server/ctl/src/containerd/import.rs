//! The line of config.toml that has containerd read the drop-ins: adding it and taking it out
//! again. Comments, order and all other lines stay.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Value};

use super::dropin::quoted;
use super::main_file::MainFile;
use super::{Schema, Version};

const KEY: &str = "imports";

/// The pattern by which `drop_in` and its neighbours are imported.
pub(crate) fn pattern(drop_in: &Path) -> String {
    let dir = drop_in.parent().unwrap_or(drop_in);
    dir.join("*.toml").display().to_string()
}

/// Where the file is kept as it was before the line was added.
pub(crate) fn backup(main: &Path) -> PathBuf {
    let mut name = main.file_name().unwrap_or_default().to_owned();
    name.push(".before-layerd");
    main.with_file_name(name)
}

/// `text` with the import of `drop_in`; none if this release reads `drop_in` already. Fails with a
/// reason if `text` is no TOML or its imports are no list.
pub(crate) fn added(
    text: &str,
    version: Version,
    main: &Path,
    drop_in: &Path,
) -> Result<Option<String>, String> {
    match MainFile::parse(text)?.imports(version, main, drop_in) {
        true => Ok(None),
        false => with_line(text, drop_in).map(Some),
    }
}

/// `text` with one more import, that of `drop_in`. Fails as [`added`].
pub(crate) fn with_line(text: &str, drop_in: &Path) -> Result<String, String> {
    let mut document = parse(text)?;
    let item = document
        .entry(KEY)
        .or_insert(Item::Value(Value::Array(Array::new())));
    let list = item.as_array_mut().ok_or("its `imports` are no list")?;
    list.push(pattern(drop_in));
    Ok(with_ends_of(text, &document.to_string()))
}

/// `new` with the ends of lines that `old` has, which are lost where it is written anew: those of
/// unchanged lines stay, and changed ones end as Windows has it if any line of `old` does.
fn with_ends_of(old: &str, new: &str) -> String {
    const WINDOWS: &str = "\r\n";
    if !old.contains(WINDOWS) {
        return new.to_owned();
    }
    let before: Vec<&str> = old.split_inclusive('\n').collect();
    let lines: Vec<&str> = new.lines().collect();
    let is_same = |(old, new): &(&&str, &&str)| old.trim_end_matches(['\r', '\n']) == **new;
    let head = before.iter().zip(&lines).take_while(is_same).count();
    let rest = before[head..].iter().rev().zip(lines[head..].iter().rev());
    let tail = rest.take_while(is_same).count();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let from_end = lines.len() - number;
        let kept = match (number < head, from_end <= tail) {
            (true, _) => Some(before[number]),
            (_, true) => Some(before[before.len() - from_end]),
            _ => None,
        };
        text.push_str(line);
        text.push_str(match kept {
            Some(kept) if kept.ends_with('\n') => &kept[line.len()..],
            Some(_) if from_end == 1 => "",
            _ => WINDOWS,
        });
    }
    text
}

/// `text` without the import of `drop_in`; none if the exact pattern is not in it.
pub(crate) fn removed(text: &str, drop_in: &Path) -> Result<Option<String>, String> {
    let mut document = parse(text)?;
    let Some(list) = document.get_mut(KEY).and_then(Item::as_array_mut) else {
        return Ok(None);
    };
    let before = list.len();
    let pattern = pattern(drop_in);
    list.retain(|value| value.as_str() != Some(&pattern));
    if list.len() == before {
        return Ok(None);
    }
    if list.is_empty() {
        document.remove(KEY);
    }
    Ok(Some(with_ends_of(text, &document.to_string())))
}

/// A whole config.toml for a containerd that has none: all but the imports stays at its default.
pub(crate) fn made(version: Version, drop_in: &Path) -> String {
    let head = Schema::choose(version, None).line().unwrap_or_default();
    format!("{head}\nimports = [{}]\n", quoted(&pattern(drop_in)))
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse()
        .map_err(|cause: toml_edit::TomlError| cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "/etc/containerd/config.toml";
    const DROP_IN: &str = "/etc/containerd/conf.d/layerd.toml";
    const LINE: &str = "imports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    /// As Debian 12, 13 and 14 have it.
    const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
                          [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n";

    fn add_for(version: &str, text: &str) -> Result<Option<String>, String> {
        let version = Version::parse(version).unwrap();
        added(text, version, Path::new(MAIN), Path::new(DROP_IN))
    }

    fn add(text: &str) -> Option<String> {
        add_for("2.1", text).unwrap()
    }

    #[test]
    fn lines_end_as_they_did() {
        let table = [
            (
                "# c\r\nversion = 2\r\n\r\n[grpc]\r\n  uid = 0 # x\r\n",
                "# c\r\nversion = 2\r\nIMPORTS\r\n\r\n[grpc]\r\n  uid = 0 # x\r\n",
            ),
            (
                "version = 2\r\nroot = \"/a\"",
                "version = 2\r\nroot = \"/a\"\r\nIMPORTS\r\n",
            ),
            (
                "version = 2\r\nroot = \"/a\"\n[grpc]\r\n",
                "version = 2\r\nroot = \"/a\"\nIMPORTS\r\n[grpc]\r\n",
            ),
            (
                "root = \"\"\"a\r\nb\"\"\"\r\n[grpc]\r\n",
                "root = \"\"\"a\r\nb\"\"\"\r\nIMPORTS\r\n[grpc]\r\n",
            ),
        ];
        for (text, wanted) in table {
            let edited = add(text).unwrap();
            assert_eq!(edited, wanted.replace("IMPORTS", LINE.trim_end()));
            let back = remove(&edited).unwrap();
            assert_eq!(back.trim_end(), text.trim_end());
        }
    }

    #[test]
    fn a_release_that_does_not_find_a_relative_name_gets_a_full_one() {
        let text = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
        let edited = add_for("1.6", text).unwrap().unwrap();
        assert!(
            edited.contains("\"/etc/containerd/conf.d/*.toml\""),
            "{edited}"
        );
        assert_eq!(add_for("1.6", &edited).unwrap(), None);
        assert_eq!(remove(&edited).unwrap(), text);
    }

    fn remove(text: &str) -> Option<String> {
        removed(text, Path::new(DROP_IN)).unwrap()
    }

    #[test]
    fn one_line_comes_and_goes_and_all_else_stays() {
        let head = "# a comment\nversion = 2\n# another\n";
        let table = [
            (DEBIAN, DEBIAN.replacen("2\n", &format!("2\n{LINE}"), 1)),
            ("", LINE.to_owned()),
            (
                "disabled_plugins = [\"cri\"]\n",
                format!("disabled_plugins = [\"cri\"]\n{LINE}"),
            ),
            (
                &format!("{head}\n[grpc] # here\nuid=0\n"),
                format!("# a comment\nversion = 2\n{LINE}# another\n\n[grpc] # here\nuid=0\n"),
            ),
        ];
        for (text, wanted) in table {
            let edited = add(text).unwrap();
            toml::from_str::<toml::Table>(&edited).unwrap();
            let lines = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(lines(&edited), lines(&wanted), "{edited}");
            assert_eq!(add(&edited), None, "it is there now");
            assert_eq!(remove(&edited).unwrap(), text);
        }
    }

    #[test]
    fn a_list_that_is_there_keeps_its_entries_and_their_comments() {
        let text = "imports = [\n  \"/a.toml\", # mine\n]\n[grpc]\n";
        let edited = add(text).unwrap();
        let table: toml::Table = toml::from_str(&edited).unwrap();
        let imports: Vec<&str> = table[KEY]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(toml::Value::as_str)
            .collect();
        assert_eq!(imports, ["/a.toml", "/etc/containerd/conf.d/*.toml"]);
        assert!(edited.contains("# mine"), "{edited}");
        let table: toml::Table = toml::from_str(&remove(&edited).unwrap()).unwrap();
        assert_eq!(table[KEY].as_array().unwrap().len(), 1);
        assert_eq!(add("imports = [\"conf.d/*.toml\"]"), None, "read already");
        assert_eq!(remove("imports = [\"conf.d/*.toml\"]"), None, "not ours");
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for bad in ["imports = 3", "version = ", "imports = [1]"] {
            assert!(add_for("2.1", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_made_for_a_containerd_without_one() {
        let made = |version| made(Version::parse(version).unwrap(), Path::new(DROP_IN));
        assert_eq!(made("1.6"), format!("version = 2\n{LINE}"));
        assert_eq!(made("2.3"), format!("version = 3\n{LINE}"));
    }
}
