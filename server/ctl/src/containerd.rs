//! containerd's configuration: which release wants which lines.

pub(crate) mod dropin;
pub(crate) mod effective;
pub(crate) mod import;
pub(crate) mod main_file;
pub(crate) mod nri;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// Name of layerd as a snapshotter, unless its data lie where containerd looks for those of another name.
pub(crate) const SNAPSHOTTER: &str = "layerd";
/// Begin of the name of the folder in which containerd looks for a snapshotter's data.
const FOLDER: &str = "io.containerd.snapshotter.v1.";

/// Name of the snapshotter whose data lie at `root`: instances have it from their folder.
pub(crate) fn snapshotter(root: &Path) -> &str {
    let name = root.file_name().and_then(OsStr::to_str);
    let name = name.and_then(|name| name.strip_prefix(FOLDER));
    name.filter(|name| !name.is_empty()).unwrap_or(SNAPSHOTTER)
}

/// Reads the name of an instance, NAME of `layerd@NAME.service`: it becomes a part of paths, and of the names
/// of units and of containerd's plugins.
pub(crate) fn instance(text: &str) -> Result<String, String> {
    const MAX: usize = 32;
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let is_good = is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(is_inner);
    if !is_good || bytes.len() > MAX {
        return Err(format!(
            "1 to {MAX} lower-case letters, digits and - are wanted, the first and last a letter or digit"
        ));
    }
    match text {
        "layerd" => Err("its socket would be that of layerd.service".to_owned()),
        _ if text.rsplit('-').next() == Some("diff") => {
            Err("containerd's names for what layerd unpacks with end so".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// Name of the instance that a snapshotter is; `None` for the layerd without a name, and for others.
pub(crate) fn instance_of(snapshotter: &str) -> Option<&str> {
    let name = snapshotter.strip_prefix(SNAPSHOTTER)?.strip_prefix('-')?;
    instance(name).is_ok().then_some(name)
}

/// Name of the instance whose socket this is, by its default path.
pub(crate) fn instance_at(socket: &Path) -> Option<String> {
    let file = socket.strip_prefix("/run/layerd").ok()?.to_str()?;
    instance(file.strip_suffix(".sock")?).ok()
}

/// Socket of a containerd with the default configuration.
pub(crate) const ADDRESS: &str = "/run/containerd/containerd.sock";

/// A release of containerd. Without a patch number it stands for the newest of its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    patch: Option<u32>,
}

/// The oldest series that layerd knows.
const OLDEST: (u32, u32) = (1, 6);

impl Version {
    /// Reads `1.7`, `v2.1.4`, `1.6.20~ds1`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("a version such as 1.7 or 2.1.4 is wanted, not {text:?}");
        let mut numbers = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let mut whole = || numbers.next().and_then(|number| number.parse().ok());
        let (major, minor) = whole().zip(whole()).ok_or_else(wrong)?;
        let version = Self {
            major,
            minor,
            patch: numbers
                .next()
                .map(leading_number)
                .transpose()
                .map_err(|()| wrong())?,
        };
        if (major, minor) < OLDEST {
            return Err(format!(
                "containerd {version} is too old, 1.6 is the oldest that layerd serves"
            ));
        }
        Ok(version)
    }

    /// Finds the version in what `containerd --version` prints: name, package, version, revision.
    pub(crate) fn from_output(output: &str) -> Result<Self, String> {
        let word = output.split_whitespace().nth(2).unwrap_or_default();
        Self::parse(word)
    }

    /// True for this release or a later one.
    pub(crate) fn since(self, major: u32, minor: u32, patch: u32) -> bool {
        let own = self.patch.unwrap_or(u32::MAX);
        (self.major, self.minor, own) >= (major, minor, patch)
    }

    pub(crate) fn is_same_series(self, other: Self) -> bool {
        self.is_series(other.major, other.minor)
    }

    pub(crate) fn is_series(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) == (major, minor)
    }
}

fn leading_number(text: &str) -> Result<u32, ()> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().map_err(|_| ())
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.patch {
            Some(patch) => write!(f, ".{patch}"),
            None => Ok(()),
        }
    }
}

/// Version of the configuration format. A drop-in may not be newer than config.toml: containerd
/// then refuses to start, or no longer migrates config.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Schema {
    /// Short plugin names, no `version` line.
    V1,
    V2,
    /// containerd 2.x.
    V3,
}

impl Schema {
    /// The newest format that both the release and its config.toml, if there is one, use.
    pub(crate) fn choose(version: Version, main_file: Option<Self>) -> Self {
        let newest = if version.since(2, 0, 0) {
            Self::V3
        } else {
            Self::V2
        };
        main_file.map_or(newest, |main_file| newest.min(main_file))
    }

    /// The line that says so.
    pub(crate) fn line(self) -> Option<&'static str> {
        match self {
            Self::V1 => None,
            Self::V2 => Some("version = 2"),
            Self::V3 => Some("version = 3"),
        }
    }
}

/// The name that containerd gives a snapshot: its namespace, a number that it never uses again
/// there, and its client's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackendKey<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) number: u64,
    pub(crate) client_key: &'a str,
}

impl<'a> BackendKey<'a> {
    /// `None` for a name of another form, as other clients use.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (namespace, rest) = name.split_once('/')?;
        let (number, client_key) = rest.split_once('/')?;
        // A sign would be read, too.
        let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_number)?;
        Some(Self {
            namespace,
            number,
            client_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{BackendKey, Schema, Version, instance, instance_at, instance_of, snapshotter};

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_found_in_what_containerd_prints() {
        let table = [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                "1.6.20",
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7\n",
                "2.1.4",
            ),
            ("containerd containerd.io 1.7.25 bcc810d6", "1.7.25"),
            (
                "containerd github.com/containerd/containerd/v2 2.4.0-beta.1+unknown ",
                "2.4.0",
            ),
        ];
        for (output, wanted) in table {
            assert_eq!(Version::from_output(output).unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn a_snapshotter_is_named_by_the_folder_of_its_data() {
        let folder = "/var/lib/containerd/io.containerd.snapshotter.v1.";
        for (root, name) in [
            (format!("{folder}layerd"), "layerd"),
            (format!("{folder}layerd-btrfs"), "layerd-btrfs"),
            (folder.to_owned(), "layerd"),
            ("/srv/layerd".to_owned(), "layerd"),
            (String::new(), "layerd"),
        ] {
            assert_eq!(snapshotter(Path::new(&root)), name, "{root}");
        }
    }

    #[test]
    fn instances_have_names_for_paths_units_and_plugins() {
        for good in ["a", "btrfs", "disk-2", &"a".repeat(32)] {
            assert_eq!(instance(good).as_deref(), Ok(good));
            let socket = format!("/run/layerd/{good}.sock");
            assert_eq!(instance_at(Path::new(&socket)).as_deref(), Some(good));
        }
        let long = "a".repeat(33);
        let bad = [
            "", "-a", "a-", "A", "a.b", "a/b", "..", "layerd", "diff", "a-diff", &long,
        ];
        for bad in bad {
            assert!(instance(bad).is_err(), "{bad:?}");
        }
        assert_eq!(instance_of("layerd-btrfs"), Some("btrfs"));
        for other in ["layerd", "layerd-", "layerd-diff", "overlayfs", "layerdx"] {
            assert_eq!(instance_of(other), None, "{other}");
        }
        for other in ["/run/layerd/layerd.sock", "/run/a.sock", "/run/layerd/a"] {
            assert_eq!(instance_at(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in ["", "2", "two", "2.x", "1.7.x", "1.5.9", "-1.2"] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
        assert!(Version::from_output("containerd").is_err());
    }

    #[test]
    fn a_key_of_containerd_is_taken_apart() {
        let key = BackendKey::parse("k8s.io/12/sha256:ab/c").unwrap();
        assert_eq!(
            (key.namespace, key.number, key.client_key),
            ("k8s.io", 12, "sha256:ab/c")
        );
        for other in ["mine", "a/b", "a/b/c", "a//c", "a/+1/c"] {
            assert_eq!(BackendKey::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_series_stands_for_its_newest_release() {
        assert!(version("1.6").since(1, 6, 32));
        assert!(!version("1.6.31").since(1, 6, 32));
        assert!(version("2.0.0").since(1, 7, 16));
        assert!(!version("1.7").since(2, 0, 0));
    }

    #[test]
    fn a_drop_in_is_never_newer_than_the_main_file() {
        assert_eq!(Schema::choose(version("1.7"), None), Schema::V2);
        assert_eq!(Schema::choose(version("2.2"), None), Schema::V3);
        assert_eq!(Schema::choose(version("2.2"), Some(Schema::V2)), Schema::V2);
        assert_eq!(Schema::choose(version("1.6"), Some(Schema::V3)), Schema::V2);
        assert_eq!(Schema::choose(version("1.7"), Some(Schema::V1)), Schema::V1);
    }
}
