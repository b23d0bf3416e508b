//! config.toml as far as a drop-in depends on it: its format and its imports.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Schema, Version};

/// containerd's own configuration.
pub(crate) const MAIN: &str = "/etc/containerd/config.toml";
/// The directory that containerd's own defaults name.
pub(crate) const DROP_INS: &str = "/etc/containerd/conf.d";

/// layerd's data directory, by default.
pub(crate) const ROOT: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.layerd";

#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    imports: Vec<String>,
}

/// Content of config.toml.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MainFile {
    pub(crate) schema: Schema,
    pub(super) imports: Vec<String>,
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

    /// True if this release of containerd would read `drop_in`. Stars stand for parts of names, as in
    /// a shell. 1.6 and early 1.7 look for a relative name with a star in their working directory.
    pub(crate) fn imports(&self, version: Version, own_path: &Path, drop_in: &Path) -> bool {
        let base = own_path.parent().unwrap_or(Path::new("/"));
        let is_found = |pattern: &&String| {
            version.since(2, 0, 0) || pattern.starts_with('/') || !pattern.contains('*')
        };
        self.imports
            .iter()
            .filter(is_found)
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
    use super::{MainFile, Schema, Version};
    use std::path::Path;

    const MAIN: &str = "/etc/containerd/config.toml";
    const DROP_IN: &str = "/etc/containerd/conf.d/layerd.toml";

    fn imports_of(version: &str, pattern: &str) -> bool {
        let main =
            MainFile::parse(&format!("version = 2\nimports = [\"x\", \"{pattern}\"]")).unwrap();
        let version = Version::parse(version).unwrap();
        main.imports(version, Path::new(MAIN), Path::new(DROP_IN))
    }

    fn imports(pattern: &str) -> bool {
        imports_of("2.1", pattern)
    }

    #[test]
    fn relative_names_with_a_star_are_found_by_later_releases_alone() {
        let table = [
            ("conf.d/*.toml", false),
            ("conf.d/layerd.toml", true),
            ("/etc/containerd/conf.d/*.toml", true),
        ];
        for (pattern, by_1_6) in table {
            assert_eq!(imports_of("1.6", pattern), by_1_6, "{pattern}");
            assert!(imports_of("2.0", pattern), "{pattern}");
        }
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
}
