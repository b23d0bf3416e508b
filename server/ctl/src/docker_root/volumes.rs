//! Volumes of a data root: those of Docker's driver `local`, which has their content in the root.

use std::collections::BTreeMap;
use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

use super::{Damaged, Root, bolt, parsed};

/// The database with their labels, which a Docker that runs holds locked.
const DATABASE: &str = "volumes/metadata.db";
const BUCKET: &[u8] = b"volumes";
const MOST_OF_A_DATABASE: u64 = 256 << 20;
const MOST_OF_OPTIONS: u64 = 1 << 20;

/// A volume.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Directory of its content, relative to the root.
    pub(crate) content: String,
    /// Why its content is not in the root, or none that can be read; empty if it is there.
    pub(crate) left: String,
    /// Size that it was held to; 0 for none.
    pub(crate) size: u64,
}

/// A volume in the database.
#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(rename = "Driver", default)]
    driver: String,
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Options of the driver `local`.
#[derive(Deserialize)]
struct Options {
    #[serde(rename = "MountType", default)]
    kind: String,
    #[serde(rename = "MountDevice", default)]
    device: String,
    #[serde(rename = "Quota", default)]
    quota: Quota,
}

#[derive(Deserialize, Default)]
struct Quota {
    #[serde(rename = "Size", default)]
    size: u64,
}

/// Keeps Docker from starting on a root while it is read. None where there is no such database.
///
/// # Errors
/// If a Docker has it open.
pub(crate) fn lock(root: &Root) -> Result<Option<Flock<File>>, Damaged> {
    let Some(file) = root.file(DATABASE)? else {
        return Ok(None);
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(locked) => Ok(Some(locked)),
        Err((_, Errno::EWOULDBLOCK)) => {
            Err(Damaged::new(DATABASE, "is in use by a Docker that runs"))
        }
        Err((_, cause)) => Err(Damaged::new(DATABASE, cause.desc())),
    }
}

/// All volumes, sorted, also those of other drivers that Docker knew.
///
/// # Errors
/// If something is not as Docker writes it.
pub(crate) fn volumes(root: &Root) -> Result<Vec<Volume>, Damaged> {
    let database = root.read(DATABASE, MOST_OF_A_DATABASE)?.unwrap_or_default();
    let mut known = metadata(&database)?;
    let mut volumes = Vec::new();
    for name in root.names("volumes")? {
        let content = format!("volumes/{name}/_data");
        // The database, and a device that Docker makes for quotas.
        let is_other = matches!(name.as_str(), "metadata.db" | "backingFsBlockDev");
        if is_other || root.directory(&content)?.is_none() {
            continue;
        }
        let metadata = known.remove(&name).unwrap_or_default();
        let (left, size) = options(root, &name)?;
        volumes.push(Volume {
            labels: metadata.labels.unwrap_or_default(),
            content,
            left,
            size,
            name,
        });
    }
    for (name, metadata) in known {
        let left = match metadata.driver.as_str() {
            "" | "local" => continue,
            driver => format!("its content is the driver {driver}'s"),
        };
        volumes.push(Volume {
            labels: metadata.labels.unwrap_or_default(),
            content: String::new(),
            left,
            size: 0,
            name,
        });
    }
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(volumes)
}

fn metadata(database: &[u8]) -> Result<BTreeMap<String, Metadata>, Damaged> {
    if database.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pairs = bolt::bucket(database, BUCKET);
    let pairs = pairs.map_err(|problem| Damaged::new(DATABASE, problem))?;
    let mut known = BTreeMap::new();
    for (name, value) in pairs.unwrap_or_default() {
        let name = String::from_utf8_lossy(name).into_owned();
        known.insert(name, parsed(DATABASE, value)?);
    }
    Ok(known)
}

/// Why the content of a volume is not in the root, and its size.
fn options(root: &Root, name: &str) -> Result<(String, u64), Damaged> {
    let path = format!("volumes/{name}/opts.json");
    let Some(content) = root.read(&path, MOST_OF_OPTIONS)? else {
        return Ok((String::new(), 0));
    };
    let options: Option<Options> = parsed(&path, &content)?;
    let Some(options) = options else {
        return Ok((String::new(), 0));
    };
    let left = match (options.kind.as_str(), options.device.as_str()) {
        ("", "") => String::new(),
        (kind, device) => format!("its content is what Docker mounts there: {kind} of {device:?}"),
    };
    Ok((left, options.quota.size))
}

#[cfg(test)]
mod tests {
    use super::{lock, volumes};
    use crate::docker_root::Root;

    #[test]
    fn volumes_are_those_with_content_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(volumes(&root).unwrap().is_empty());
        let make = |name: &str, options: &str| {
            let volume = dir.path().join("volumes").join(name);
            std::fs::create_dir_all(volume.join("_data")).unwrap();
            if !options.is_empty() {
                std::fs::write(volume.join("opts.json"), options).unwrap();
            }
        };
        make("plain", "");
        make("none", "null");
        make("sized", r#"{"Quota":{"Size":4096}}"#);
        make(
            "far",
            r#"{"MountType":"nfs","MountOpts":"addr=h","MountDevice":":/x","Quota":{"Size":0}}"#,
        );
        std::fs::create_dir(dir.path().join("volumes/empty")).unwrap();
        let found = volumes(&root).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.left.as_str(), one.size))
            .collect();
        let far = "its content is what Docker mounts there: nfs of \":/x\"";
        let wanted = [
            ("far", far, 0),
            ("none", "", 0),
            ("plain", "", 0),
            ("sized", "", 4096),
        ];
        assert_eq!(shown, wanted);
        make("bad", "[");
        let said = volumes(&root).unwrap_err().to_string();
        assert!(
            said.starts_with("volumes/bad/opts.json: is not what Docker writes"),
            "{said}"
        );
    }

    #[test]
    fn a_root_in_use_and_a_damaged_database_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(lock(&root).unwrap().is_none());
        std::fs::create_dir(dir.path().join("volumes")).unwrap();
        std::fs::write(dir.path().join("volumes/metadata.db"), "no database").unwrap();
        let held = std::fs::File::open(dir.path().join("volumes/metadata.db")).unwrap();
        let held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let said = lock(&root).unwrap_err().to_string();
        assert!(said.contains("in use by a Docker that runs"), "{said}");
        drop(held);
        assert!(lock(&root).unwrap().is_some());
        let said = volumes(&root).unwrap_err().to_string();
        assert_eq!(said, "volumes/metadata.db: has no valid first page");
    }
}
