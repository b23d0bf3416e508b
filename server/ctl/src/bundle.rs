//! The config.json of an OCI bundle, as far as mounts go. All else in it stays as it is.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};

use crate::atomic_file;
use crate::attachment::OciMount;
use crate::error::Error;
use crate::host_file;

/// A config.json in memory.
#[derive(Debug)]
pub(crate) struct Bundle {
    path: PathBuf,
    /// As it was read.
    before: Map<String, Value>,
    config: Map<String, Value>,
}

impl Bundle {
    /// Reads and checks it, and whether a file can be made beside it. Links are followed, so that
    /// saving replaces what they lead to.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        Self::read(&dir.join("config.json"))
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let what = format!("read {}", path.display());
        let io = |cause| Error::Io {
            what: what.clone(),
            cause,
        };
        let path = path.canonicalize().map_err(io)?;
        let bytes = host_file::read(&path).map_err(io)?;
        let config = check(&bytes).map_err(|why| Error::Invalid {
            what: what.clone(),
            why,
            hint: "`runc spec` writes one to begin with.".to_owned(),
        })?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        tempfile::tempfile_in(dir).map_err(|cause| Error::Io {
            what: format!("write {}", path.display()),
            cause,
        })?;
        Ok(Self {
            path,
            before: config.clone(),
            config,
        })
    }

    /// The SELinux label of the container's mounts; empty for none.
    pub(crate) fn mount_label(&self) -> &str {
        let label = self
            .config
            .get("linux")
            .and_then(|linux| linux.get("mountLabel"));
        label.and_then(Value::as_str).unwrap_or_default()
    }

    /// Puts mounts in, in their order, and writes it so that after a crash either the old or the new file is
    /// there; durable on return. Mode and owner stay. Reads it anew, as others may have written it since, and
    /// is alone in that among programs of layerd. Writes nothing if nothing changes.
    pub(crate) fn put(&self, mounts: &[OciMount]) -> Result<(), Error> {
        let lock = || {
            let dir = File::open(self.path.parent().unwrap_or(Path::new("/")))?;
            Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, cause)| io::Error::from(cause))
        };
        let _alone = lock().map_err(|cause| Error::Io {
            what: format!("lock the directory of {}", self.path.display()),
            cause,
        })?;
        let mut now = Self::read(&self.path)?;
        now.splice(mounts);
        now.save()
    }

    /// Puts mounts in, in their order.
    fn splice(&mut self, mounts: &[OciMount]) {
        let list = self
            .config
            .entry("mounts")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            merge(list, mounts);
        }
        let options = || mounts.iter().flat_map(|mount| &mount.options);
        let linux = self.config.get("linux");
        let have = linux.and_then(|linux| linux.get("rootfsPropagation"));
        if let Some(wider) = wider(have.and_then(Value::as_str).unwrap_or_default(), options()) {
            let linux = self
                .config
                .entry("linux")
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(linux) = linux {
                linux.insert("rootfsPropagation".to_owned(), wider.into());
            }
        }
    }

    fn save(&self) -> Result<(), Error> {
        if self.config == self.before {
            return Ok(());
        }
        self.replace().map_err(|cause| Error::Io {
            what: format!("write {}", self.path.display()),
            cause,
        })
    }

    fn replace(&self) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.config)?;
        text.push(b'\n');
        atomic_file::replace(&self.path, &text)
    }
}

/// Checks the preconditions of `splice`: an object, whose mounts are an array and whose linux is an
/// object, with a label that is text.
fn check(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let config: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|cause| cause.to_string())?;
    let linux = config.get("linux");
    let label = linux.and_then(|linux| linux.get("mountLabel"));
    if label.is_some_and(|label| !label.is_string() && !label.is_null()) {
        return Err("its linux.mountLabel is no string".to_owned());
    }
    match (config.get("mounts"), linux) {
        (Some(mounts), _) if !mounts.is_array() => Err("its mounts are no array".to_owned()),
        (_, Some(linux)) if !linux.is_object() => Err("its linux is no object".to_owned()),
        _ => Ok(config),
    }
}

/// Takes out what stands at the same destinations, and puts each mount where those above it come
/// before it and those below it after it. The order of all others stays.
fn merge(list: &mut Vec<Value>, mounts: &[OciMount]) {
    let wanted: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| clean(&mount.destination))
        .collect();
    list.retain(|old| destination(old).is_none_or(|old| !wanted.contains(&old)));
    for (mount, path) in mounts.iter().zip(&wanted) {
        let is = |relation: fn(&Path, &Path) -> bool| {
            move |old: &Value| destination(old).is_some_and(|old| relation(&old, path))
        };
        let above = list.iter().rposition(is(|old, new| new.starts_with(old)));
        let below = list
            .iter()
            .position(is(|old, new| old != new && old.starts_with(new)));
        // One below that comes before one above is hidden already; it stays so.
        let least = above.map_or(0, |at| at + 1);
        list.insert(below.unwrap_or(list.len()).max(least), entry(mount));
    }
}

fn entry(mount: &OciMount) -> Value {
    serde_json::json!({
        "destination": mount.destination,
        "type": mount.kind,
        "source": mount.source,
        "options": mount.options,
    })
}

fn destination(mount: &Value) -> Option<PathBuf> {
    mount.get("destination")?.as_str().map(clean)
}

/// As a runtime resolves it below the root file system: relative ones begin there, too.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The propagation that the root must have so that mounts with these options can have theirs;
/// none if it has it.
fn wider<'a>(have: &str, options: impl Iterator<Item = &'a String>) -> Option<&'static str> {
    let (mut shared, mut slave) = (false, false);
    for option in options {
        shared |= matches!(option.as_str(), "shared" | "rshared");
        slave |= matches!(option.as_str(), "slave" | "rslave");
    }
    match have {
        "shared" | "rshared" => None,
        _ if shared => Some("rshared"),
        "slave" | "rslave" => None,
        _ => slave.then_some("rslave"),
    }
}

#[cfg(test)]
mod tests;
