//! Input of an OCI hook: the state of a container on standard input, and the config.json of its
//! bundle. Both are read up to a limit and checked field by field; unknown fields are passed over.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::attachment::Owner;
use crate::error::Error;

/// Annotation with the mounts: a value of `--mount` a line.
pub(crate) const ANNOTATION: &str = "volumes.layerd.io/mounts";

/// Largest state, and largest config.json, in bytes. Both hold the annotations.
const SIZE_MAX: u64 = 4 * 1024 * 1024;
/// Longest id, in bytes: an owner has 255, and `oci:` stands before it.
const ID_MAX: usize = 251;

/// State of a container, as a runtime writes it.
#[derive(Debug)]
pub(crate) struct State(Value);

impl State {
    /// Reads it to its end.
    pub(crate) fn read(input: impl Read) -> Result<Self, Error> {
        read(input, "the state on standard input").map(Self)
    }

    /// Owner of what the container has: `container:oci:ID`.
    pub(crate) fn owner(&self) -> Result<Owner, Error> {
        let id = self.text("/id", "id")?;
        if id.is_empty() || id.len() > ID_MAX || id.chars().any(char::is_control) {
            let rule = format!("must be 1 to {ID_MAX} bytes without control characters");
            return Err(self.broken("id", &format!("{id:?}"), &rule));
        }
        Owner::parse(&format!("container:oci:{id}"))
            .map_err(|rule| self.broken("id", &format!("{id:?}"), &rule))
    }

    /// The container's process, in the pid namespace of the caller.
    pub(crate) fn pid(&self) -> Result<u32, Error> {
        let value = self.0.get("pid").unwrap_or(&Value::Null);
        let pid = value.as_u64().and_then(|pid| u32::try_from(pid).ok());
        match pid {
            Some(pid @ 1..) => Ok(pid),
            _ => Err(self.broken("pid", &value.to_string(), "must be the number of a process")),
        }
    }

    /// Directory with the config.json.
    pub(crate) fn bundle(&self) -> Result<PathBuf, Error> {
        let path = self.text("/bundle", "bundle")?;
        if Path::new(path).is_absolute() {
            return Ok(path.into());
        }
        Err(self.broken("bundle", &format!("{path:?}"), "must be an absolute path"))
    }

    fn text(&self, pointer: &str, field: &str) -> Result<&str, Error> {
        text(&self.0, pointer)
            .map_err(|value| self.broken(field, &value, "must be a string"))?
            .ok_or_else(|| self.broken(field, "missing", "must be a string"))
    }

    fn broken(&self, field: &str, value: &str, rule: &str) -> Error {
        broken("the state on standard input", field, value, rule)
    }
}

/// Fields of a config.json that a hook needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Root directory of the container, before it is pivoted to.
    pub(crate) root: PathBuf,
    /// Values of `--mount`, one for each line of the annotation that is not blank.
    pub(crate) mounts: Vec<String>,
    /// SELinux label of the container's mounts; empty for none.
    pub(crate) mount_label: String,
}

impl Config {
    /// Reads that of a bundle.
    pub(crate) fn open(bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join("config.json");
        let shown = path.display().to_string();
        let file = File::open(&path).map_err(|cause| Error::Io {
            what: format!("read {shown}"),
            cause,
        })?;
        Self::of(&read(file, &shown)?, bundle, &shown)
    }

    fn of(config: &Value, bundle: &Path, shown: &str) -> Result<Self, Error> {
        let get = |pointer: &str, field: &str| {
            text(config, pointer).map_err(|value| broken(shown, field, &value, "must be a string"))
        };
        let root = get("/root/path", "root.path")?;
        let root = root
            .filter(|path| !path.is_empty())
            .ok_or_else(|| broken(shown, "root.path", "missing", "must be a path"))?;
        refuse_quoted(config, shown)?;
        let pointer = format!("/annotations/{}", ANNOTATION.replace('/', "~1"));
        let lines = get(&pointer, &format!("annotations[{ANNOTATION:?}]"))?;
        let lines = lines.unwrap_or_default().lines().map(str::trim);
        Ok(Self {
            root: bundle.join(root),
            mounts: lines
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
            mount_label: get("/linux/mountLabel", "linux.mountLabel")?
                .unwrap_or_default()
                .to_owned(),
        })
    }
}

/// Refuses the annotation under a name with quotes, which a shell or a runtime has left there: the container
/// would be started without what it asks for.
fn refuse_quoted(config: &Value, shown: &str) -> Result<(), Error> {
    let annotations = config.get("annotations").and_then(Value::as_object);
    let mut names = annotations.into_iter().flatten().map(|(name, _)| name);
    let is_quoted = |name: &&String| {
        let plain = name.trim_matches(['"', '\'', ' ']);
        plain == ANNOTATION && *name != ANNOTATION
    };
    match names.find(is_quoted) {
        None => Ok(()),
        Some(name) => {
            let rule = format!("must be {ANNOTATION}, without quotes");
            Err(broken(shown, "the name of an annotation", name, &rule))
        }
    }
}

/// A string; none if it is not there, else the value that is there instead.
fn text<'v>(from: &'v Value, pointer: &str) -> Result<Option<&'v str>, String> {
    match from.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(other.to_string()),
    }
}

/// Reads a JSON object of limited size.
fn read(input: impl Read, shown: &str) -> Result<Value, Error> {
    let mut bytes = Vec::new();
    input
        .take(SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| Error::Io {
            what: format!("read {shown}"),
            cause,
        })?;
    let invalid = |why: String| Error::Invalid {
        what: format!("understand {shown}"),
        why,
        hint: "An OCI runtime writes it for its hooks.".to_owned(),
    };
    if bytes.len() as u64 > SIZE_MAX {
        return Err(invalid(format!("it is larger than {SIZE_MAX} bytes")));
    }
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|cause| invalid(cause.to_string()))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(invalid("it is no JSON object".to_owned())),
    }
}

fn broken(shown: &str, field: &str, value: &str, rule: &str) -> Error {
    // A value can be as long as the whole input.
    let value: String = value.chars().take(100).collect();
    Error::Invalid {
        what: format!("understand {shown}"),
        why: format!("{field} is {value}, and {rule}"),
        hint: "`layerctl oci-hook --help` says what a hook reads.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, SIZE_MAX, State};
    use serde_json::{Value, json};
    use std::path::{Path, PathBuf};

    fn state(value: &Value) -> State {
        State::read(value.to_string().as_bytes()).unwrap()
    }

    fn config(value: &Value) -> Result<Config, String> {
        Config::of(value, Path::new("/b"), "config.json").map_err(|error| error.to_string())
    }

    #[test]
    fn a_state_names_owner_process_and_bundle() {
        let state = state(&json!({"id": "a:b", "pid": 7, "bundle": "/b", "status": "creating"}));
        assert_eq!(state.owner().unwrap().to_string(), "container:oci:a:b");
        assert_eq!(state.pid().unwrap(), 7);
        assert_eq!(state.bundle().unwrap(), PathBuf::from("/b"));
    }

    #[test]
    fn a_bad_state_is_told_with_field_value_and_rule() {
        let bad = state(&json!({"id": 3, "pid": -1, "bundle": "b"}));
        let why = [
            (bad.owner().unwrap_err(), "id is 3, and must be a string"),
            (
                bad.pid().unwrap_err(),
                "pid is -1, and must be the number of a process",
            ),
            (
                bad.bundle().unwrap_err(),
                "bundle is \"b\", and must be an absolute path",
            ),
            (
                state(&json!({})).owner().unwrap_err(),
                "id is missing, and must be a string",
            ),
            (
                state(&json!({"pid": 0})).pid().unwrap_err(),
                "pid is 0, and must be",
            ),
            (
                state(&json!({"id": "x".repeat(252)})).owner().unwrap_err(),
                "must be 1 to 251 bytes",
            ),
            (
                state(&json!({"id": "a\n"})).owner().unwrap_err(),
                "id is \"a\\n\", and must be",
            ),
        ];
        for (error, wanted) in why {
            let error = error.to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn input_is_limited() {
        let long = " ".repeat(usize::try_from(SIZE_MAX).unwrap() + 1);
        for (input, wanted) in [
            (long.as_str(), "larger than"),
            ("[]", "no JSON object"),
            ("{", "EOF"),
        ] {
            let error = State::read(input.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_config_has_root_label_and_lines() {
        let value = json!({
            "root": {"path": "rootfs"},
            "linux": {"mountLabel": "u:r:t:s0"},
            "annotations": {"volumes.layerd.io/mounts": "\n type=a\r\n\ntype=b \n", "other": "x"},
        });
        let found = config(&value).unwrap();
        assert_eq!(found.root, PathBuf::from("/b/rootfs"));
        assert_eq!(found.mounts, ["type=a", "type=b"]);
        assert_eq!(found.mount_label, "u:r:t:s0");
        let absolute = config(&json!({"root": {"path": "/r"}})).unwrap();
        assert_eq!(
            (absolute.root, absolute.mounts.len()),
            (PathBuf::from("/r"), 0)
        );
    }

    #[test]
    fn a_bad_config_is_told_with_field_value_and_rule() {
        let root = json!({"path": "r"});
        let bad = [
            (json!({}), "root.path is missing, and must be a path"),
            (
                json!({"root": {"path": 1}}),
                "root.path is 1, and must be a string",
            ),
            (
                json!({"root": root, "annotations": {"volumes.layerd.io/mounts": []}}),
                "annotations[\"volumes.layerd.io/mounts\"] is [], and must be a string",
            ),
            (
                json!({"root": root, "annotations": {"\"volumes.layerd.io/mounts": "type=a\""}}),
                "the name of an annotation is \"volumes.layerd.io/mounts, and must be",
            ),
            (
                json!({"root": root, "linux": {"mountLabel": true}}),
                "linux.mountLabel is true, and must be a string",
            ),
        ];
        for (value, wanted) in bad {
            let error = config(&value).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
