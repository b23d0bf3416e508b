//! config.toml as far as a drop-in depends on it: its format and its imports. Never written.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::dropin::quoted;
use super::{Schema, Version};

/// containerd's own configuration.
pub(crate) const MAIN: &str = "/etc/containerd/config.toml";
/// The directory that containerd's own defaults name.
pub(crate) const DROP_INS: &str = "/etc/containerd/conf.d";

#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    imports: Vec<String>,
}

/// What config.toml says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MainFile {
    pub(crate) schema: Schema,
    imports: Vec<String>,
}

impl MainFile {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|cause| cause.to_string())?;
        let schema = match raw.version {
            ..=1 => Schema::V1,
            2 => Schema::V2,
            _ => Schema::V3,
        };
        Ok(Self {
            schema,
            imports: raw.imports,
        })
    }

    /// Whether containerd would read `drop_in`. Stars stand for parts of names, as in a shell.
    pub(crate) fn imports(&self, own_path: &Path, drop_in: &Path) -> bool {
        let base = own_path.parent().unwrap_or(Path::new("/"));
        self.imports
            .iter()
            .any(|pattern| matches(&base.join(pattern), drop_in))
    }
}

/// The files that a pattern stands for, in the order of their names, as containerd reads them.
/// `base` is the folder of the file that imports them.
pub(crate) fn expand(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = normal(&base.join(pattern));
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = part.as_os_str();
        let has_star = name.as_encoded_bytes().contains(&b'*');
        let next = |folder: PathBuf| match has_star {
            true => entries(&folder, name.as_encoded_bytes()),
            false => vec![folder.join(name)],
        };
        found = found.into_iter().flat_map(next).collect();
    }
    found.retain(|path| path.is_file());
    found
}

fn entries(folder: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut matching: Vec<PathBuf> = listed
        .filter(|entry| part_matches(pattern, entry.file_name().as_encoded_bytes()))
        .map(|entry| entry.path())
        .collect();
    matching.sort();
    matching
}

/// What is left to do by hand so that containerd reads the drop-in; none if it does already.
pub(crate) fn advice(
    version: Version,
    main: Option<&MainFile>,
    main_path: &Path,
    drop_in: &Path,
) -> Option<String> {
    let pattern = drop_in
        .parent()
        .unwrap_or(drop_in)
        .join("*.toml")
        .display()
        .to_string();
    let Some(main) = main else {
        return Some(missing(version, main_path, &pattern));
    };
    if main.imports(main_path, drop_in) {
        return None;
    }
    let file = main_path.display();
    if main.imports.is_empty() {
        let line = format!("imports = [{}]", quoted(&pattern));
        return Some(format!(
            "containerd does not read the drop-in yet. Add this line to {file}, above its first table:\n  {line}"
        ));
    }
    let all: Vec<String> = main
        .imports
        .iter()
        .chain([&pattern])
        .map(|path| quoted(path))
        .collect();
    Some(format!(
        "containerd does not read the drop-in yet. In {file}, change the line of imports to:\n  imports = [{}]",
        all.join(", ")
    ))
}

fn missing(version: Version, main_path: &Path, pattern: &str) -> String {
    let head = Schema::choose(version, None).line().unwrap_or_default();
    let known = if version.since(2, 2, 0) && Path::new(pattern).starts_with(DROP_INS) {
        "This release names the directory in its defaults, but not every release reads it then.\n"
    } else {
        ""
    };
    format!(
        "There is no {file}, so containerd may not read the drop-in. {known}Make it with these two lines; \
         for all else the defaults stay:\n  {head}\n  imports = [{imports}]",
        file = main_path.display(),
        imports = quoted(pattern)
    )
}

/// Compares part by part; anything but a star stands for itself.
fn matches(pattern: &Path, path: &Path) -> bool {
    let (pattern, path) = (normal(pattern), normal(path));
    let mut parts = pattern.components().zip(path.components());
    pattern.components().count() == path.components().count()
        && parts.all(|(pattern, part)| {
            part_matches(
                pattern.as_os_str().as_encoded_bytes(),
                part.as_os_str().as_encoded_bytes(),
            )
        })
}

/// Without `.` and `..`, as containerd cleans paths: by their text.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

fn part_matches(pattern: &[u8], part: &[u8]) -> bool {
    let mut pieces = pattern.split(|&byte| byte == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = part.strip_prefix(first) else {
        return false;
    };
    let pieces: Vec<&[u8]> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        match find(rest, piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::{MainFile, Schema, advice};
    use crate::containerd::Version;
    use std::path::Path;

    const MAIN: &str = "/etc/containerd/config.toml";
    const DROP_IN: &str = "/etc/containerd/conf.d/layerd.toml";

    fn imports(pattern: &str) -> bool {
        let main =
            MainFile::parse(&format!("version = 2\nimports = [\"x\", \"{pattern}\"]")).unwrap();
        main.imports(Path::new(MAIN), Path::new(DROP_IN))
    }

    #[test]
    fn imports_match_as_in_a_shell() {
        for pattern in [
            "/etc/containerd/conf.d/*.toml",
            "/etc/containerd/conf.d/layerd.toml",
            "/etc/containerd/conf.d/l*y*d.toml",
            "/etc/containerd/*/layerd.toml",
            "conf.d/*.toml",
            "./conf.d/../conf.d/*",
        ] {
            assert!(imports(pattern), "{pattern}");
        }
        for pattern in [
            "/etc/containerd/*.toml",
            "/etc/containerd/conf.d/*.conf",
            "/etc/containerd/conf.d/x*.toml",
            "/etc/containerd/conf.d/layerd.toml*l",
            "/etc/containerd/conf.d",
            "layerd.toml",
        ] {
            assert!(!imports(pattern), "{pattern}");
        }
    }

    #[test]
    fn the_format_is_read() {
        let schema = |text| MainFile::parse(text).unwrap().schema;
        assert_eq!(schema("disabled_plugins = [\"cri\"]"), Schema::V1);
        assert_eq!(schema("version = 1"), Schema::V1);
        assert_eq!(schema("version = 2"), Schema::V2);
        assert_eq!(schema("version = 3\n[plugins.x]\ny = 1"), Schema::V3);
        assert_eq!(schema("version = 4"), Schema::V3);
        assert!(MainFile::parse("version = \n").is_err());
    }

    fn told(version: &str, main: Option<&str>) -> Option<String> {
        let version = Version::parse(version).unwrap();
        let main = main.map(|text| MainFile::parse(text).unwrap());
        advice(version, main.as_ref(), Path::new(MAIN), Path::new(DROP_IN))
    }

    #[test]
    fn says_exactly_which_line_to_add() {
        assert_eq!(
            told("1.7", Some("imports = [\"/etc/containerd/conf.d/*.toml\"]")),
            None
        );
        let line = "imports = [\"/etc/containerd/conf.d/*.toml\"]";
        assert!(told("1.7", Some("version = 2")).unwrap().ends_with(line));
        let both = "imports = [\"/a.toml\", \"/etc/containerd/conf.d/*.toml\"]";
        assert!(
            told("2.2", Some("imports = [\"/a.toml\"]"))
                .unwrap()
                .ends_with(both)
        );
        let file = told("1.6", None).unwrap();
        assert!(file.ends_with(&format!("version = 2\n  {line}")), "{file}");
        let file = told("2.3", None).unwrap();
        assert!(file.ends_with(&format!("version = 3\n  {line}")), "{file}");
        assert!(file.contains("in its defaults"), "{file}");
    }
}
