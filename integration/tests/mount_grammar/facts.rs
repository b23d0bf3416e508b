//! Mounts in a container's record, in the terms of the corpus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// One mount as the corpus has it: `key=value` pairs of its canonical form.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) target: String,
    /// All others.
    pub(crate) fields: BTreeSet<String>,
}

impl Mount {
    pub(crate) fn parse(text: &str) -> Self {
        let mut fields: BTreeSet<String> = split(text).into_iter().collect();
        let target = fields
            .iter()
            .find_map(|field| field.strip_prefix("target="))
            .expect("every mount has a target")
            .to_owned();
        fields.remove(&format!("target={target}"));
        Self { target, fields }
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.fields.iter().find_map(|field| {
            let (name, value) = field.split_once('=')?;
            (name == key).then_some(value)
        })
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains(field)
    }

    /// The source, if it must be there before the mount and is not.
    pub(crate) fn missing_source(&self) -> Option<&str> {
        let source = self.value("source")?;
        let needed = self.has("type=bind") && !self.has("on-missing=create");
        (needed && !Path::new(source).exists()).then_some(source)
    }
}

/// The fields of a record, without their quotes.
fn split(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is always one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

/// Compares the mounts with the container's record, as far as it says something about them: of
/// `--tmpfs` it only repeats the flag.
pub(crate) fn compare(expected: &[Mount], record: &Value) -> Result<(), String> {
    let flags = object(&record["HostConfig"]["Tmpfs"]);
    let mut wanted = BTreeMap::new();
    for mount in expected {
        let fields = match flags.keys().any(|key| clean(key) == mount.target) {
            true => BTreeSet::from(["type=tmpfs".to_owned()]),
            false => without_policy(&mount.fields),
        };
        wanted.insert(mount.target.clone(), fields);
    }
    let found = found(record, &flags)?;
    if found != wanted {
        return Err(format!("is {found:?}, expected {wanted:?}"));
    }
    Ok(())
}

fn without_policy(fields: &BTreeSet<String>) -> BTreeSet<String> {
    let said = |field: &&String| {
        let own = ["on-missing=", "tmpfs-exec", "uid=", "gid="];
        !own.iter().any(|prefix| field.starts_with(prefix))
    };
    fields.iter().filter(said).cloned().collect()
}

fn found(
    record: &Value,
    flags: &serde_json::Map<String, Value>,
) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut found = BTreeMap::new();
    for mount in array(&record["Mounts"]) {
        let target = text(&mount["Destination"]);
        // The record has the volume as well, but the container sees the tmpfs.
        if !flags.contains_key(target) {
            found.insert(clean(target), fields(mount, record)?);
        }
    }
    for target in flags.keys() {
        let fields = BTreeSet::from(["type=tmpfs".to_owned()]);
        if found.insert(clean(target), fields).is_some() {
            return Err(format!("two mounts at {target}"));
        }
    }
    Ok(found)
}

fn fields(mount: &Value, record: &Value) -> Result<BTreeSet<String>, String> {
    let kind = text(&mount["Type"]);
    let mut fields = BTreeSet::from([format!("type={kind}")]);
    let name = text(&mount["Name"]);
    let is_random = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        "bind" => fields.insert(format!("source={}", text(&mount["Source"]))),
        "image" => fields.insert(format!("source={name}")),
        "volume" if !is_random => fields.insert(format!("source={name}")),
        _ => false,
    };
    if kind == "volume" && !Path::new(text(&mount["Source"])).is_dir() {
        return Err(format!("volume {name} was not created"));
    }
    let read_only = mount["RW"] == Value::Bool(false);
    if read_only && kind != "image" {
        fields.insert("readonly".to_owned());
    }
    for word in text(&mount["Mode"]).split(',') {
        match word {
            "z" => fields.insert("relabel=shared".to_owned()),
            "Z" => fields.insert("relabel=private".to_owned()),
            "nocopy" => fields.insert("volume-nocopy".to_owned()),
            _ => false,
        };
    }
    let target = clean(text(&mount["Destination"]));
    let given = array(&record["HostConfig"]["Mounts"])
        .iter()
        .find(|given| clean(text(&given["Target"])) == target)
        .unwrap_or(&Value::Null);
    let recursion = recursion(&given["BindOptions"]);
    let propagation = text(&mount["Propagation"]);
    let is_default = propagation == "rprivate" && recursion != Some("readonly");
    if kind == "bind" && !is_default {
        fields.insert(format!("bind-propagation={propagation}"));
    }
    fields.extend(recursion.map(|word| format!("bind-recursive={word}")));
    fields.extend(options(given));
    Ok(fields)
}

fn recursion(options: &Value) -> Option<&'static str> {
    let words = [
        ("NonRecursive", "disabled"),
        ("ReadOnlyNonRecursive", "writable"),
        ("ReadOnlyForceRecursive", "readonly"),
    ];
    let said = words
        .into_iter()
        .find(|(key, _)| options[key] == Value::Bool(true));
    said.map(|(_, word)| word)
}

/// Options of a `--mount` in the record.
fn options(given: &Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let volume = &given["VolumeOptions"];
    let driver = &volume["DriverConfig"];
    if volume["NoCopy"] == Value::Bool(true) {
        fields.insert("volume-nocopy".to_owned());
    }
    for (key, value) in [
        ("volume-subpath", &volume["Subpath"]),
        ("volume-driver", &driver["Name"]),
        ("image-subpath", &given["ImageOptions"]["Subpath"]),
    ] {
        let value = text(value);
        let value = match key.ends_with("subpath") && !value.is_empty() {
            true => clean(value).split_off(1),
            false => value.to_owned(),
        };
        if !value.is_empty() {
            fields.insert(format!("{key}={value}"));
        }
    }
    for (name, value) in object(&driver["Options"]) {
        fields.insert(format!("volume-opt={name}={}", text(&value)));
    }
    for (name, value) in object(&volume["Labels"]) {
        // Docker's own mark.
        if name == "com.docker.volume.anonymous" {
            continue;
        }
        let equals = if text(&value).is_empty() { "" } else { "=" };
        fields.insert(format!("volume-label={name}{equals}{}", text(&value)));
    }
    let tmpfs = &given["TmpfsOptions"];
    if let Some(bytes) = tmpfs["SizeBytes"].as_u64() {
        fields.insert(format!("tmpfs-size={bytes}"));
    }
    if let Some(mode) = tmpfs["Mode"].as_u64() {
        fields.insert(format!("tmpfs-mode={:04o}", mode & 0o7777));
    }
    fields
}

/// As the runtime reads a destination: from the root, and without detours.
pub(crate) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> serde_json::Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}
