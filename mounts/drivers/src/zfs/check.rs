//! What the machine and the dataset must have, whose layers these are, and facts for people.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use layerd_mounts::Error;
use layerd_mounts::folder::sync_path;
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::unistd::symlinkat;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};

use super::capabilities::objects;
use super::datasets::{Datasets, OWNER, TRIAL, check_name};
use super::program::{Failure, LIMIT, Programs};
use crate::dirs::LayerDirs;
use crate::finding::Finding;

/// Name of the symlink that says who the root is.
pub(super) const OWNER_LINK: &str = "owner";

/// Name of the file that is locked.
pub(super) const LOCK: &str = "lock";

const MODULE: &str = "zfs module";
const PROGRAM: &str = "zfs program";
const DATASET: &str = "zfs dataset";
const TRIED: &str = "zfs trial";
const SYNC: &str = "zfs sync";

/// Interval at which the lock is tried.
const AGAIN: Duration = Duration::from_millis(20);
/// Objects of a dataset without files besides its top directory, where none could be tried.
const OBJECTS: u64 = 5;

/// Result of all checks.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    /// The datasets, if a good name was given.
    pub(super) datasets: Option<Datasets>,
    /// Root that the dataset belongs to; `-` if it is to be had.
    pub(super) owner: String,
    /// Objects of a dataset without files besides its top directory.
    pub(super) own_objects: u64,
}

/// Looks for the module, the programs and the dataset, and tries to make one below it.
pub(super) fn look(root: &Path, dataset: Option<&str>, programs: Programs) -> Looked {
    let mut looked = Looked {
        findings: vec![module()],
        datasets: None,
        owner: "-".to_owned(),
        own_objects: OBJECTS,
    };
    let Some(name) = dataset else {
        looked.findings.push(no_dataset());
        return looked;
    };
    if let Err(rule) = check_name(name) {
        let detail = format!("the setting `zfs.dataset` is {name:?}: it {rule}");
        let bad = Finding::bad(DATASET, detail, "name another dataset");
        looked.findings.push(bad);
        return looked;
    }
    let datasets = Datasets::new(programs, name);
    if !looked.findings.iter().any(Finding::refuses) {
        let (findings, owner) = parent(root, &datasets);
        looked.findings.extend(findings);
        looked.owner = owner;
    }
    if !looked.findings.iter().any(Finding::refuses) {
        let (finding, objects) = trial(&datasets);
        looked.findings.push(finding);
        looked.own_objects = objects.unwrap_or(OBJECTS);
    }
    looked.datasets = Some(datasets);
    looked
}

/// The setting is missing.
pub(super) fn no_dataset() -> Finding {
    let advice = "make a dataset for layerd alone, such as `zfs create -o mountpoint=none tank/layerd`, and \
                  set `dataset = \"tank/layerd\"` under [zfs]";
    Finding::bad(DATASET, "the setting `zfs.dataset` names none", advice)
}

/// Finding about the programs, which tell their release also without the module.
pub(super) fn program(programs: &Programs) -> Finding {
    match programs.zfs(&["version"]) {
        Ok(said) => Finding::good(PROGRAM, said.lines().next().unwrap_or_default()),
        Err(Failure::Said { text, .. }) => Finding::good(PROGRAM, text),
        Err(cause) => no_program(&cause),
    }
}

fn no_program(cause: &Failure) -> Finding {
    Finding::bad(
        PROGRAM,
        cause.to_string(),
        "install zfs and zpool; Debian has them in zfsutils-linux (contrib)",
    )
}

fn module() -> Finding {
    let version = fs::read_to_string("/sys/module/zfs/version");
    match (version, Path::new("/dev/zfs").exists()) {
        (Ok(version), true) => Finding::good(MODULE, version.trim()),
        (Ok(_), false) => Finding::bad(
            MODULE,
            "it is loaded, and there is no /dev/zfs here",
            "run layerd where the devices of the host are",
        ),
        (Err(_), _) => Finding::bad(
            MODULE,
            "the kernel has no ZFS: /sys/module/zfs is missing",
            "load it with `modprobe zfs`; Debian builds it from zfs-dkms (contrib)",
        ),
    }
}

/// Looks at the parent dataset. Answers also whose it is.
fn parent(root: &Path, datasets: &Datasets) -> (Vec<Finding>, String) {
    let name = datasets.parent();
    let values = match values(datasets, &format!("type,sync,keystatus,{OWNER}")) {
        Ok(values) => values,
        Err(cause @ Failure::Start { .. }) => return (vec![no_program(&cause)], String::new()),
        Err(cause) => {
            let advice = match cause.is_missing() {
                true => format!("make it: `zfs create -o mountpoint=none {name}`"),
                false => "see `zpool status`".to_owned(),
            };
            let bad = Finding::bad(DATASET, cause.to_string(), advice);
            return (vec![bad], String::new());
        }
    };
    let value = |property: &str| {
        let mut all = values.iter();
        let found = all.find_map(|(name, value)| (name == property).then_some(value.as_str()));
        found.unwrap_or("-").to_owned()
    };
    let owner = value(OWNER);
    let bad = match (&*value("type"), &*value("keystatus")) {
        ("filesystem", "unavailable") => Some(Finding::bad(
            DATASET,
            format!("{name} is encrypted, and its key is not loaded"),
            format!("`zfs load-key {name}`"),
        )),
        ("filesystem", _) => others(root, name, &owner),
        (other, _) => Some(Finding::bad(
            DATASET,
            format!("{name} is a {other}"),
            "name a file system",
        )),
    };
    if let Some(finding) = bad {
        return (vec![finding], owner);
    }
    let mut findings = vec![Finding::good(DATASET, name)];
    if value("sync") == "disabled" {
        let detail = "sync=disabled: what containers sync is not on the disk; layers are";
        let advice = format!("`zfs inherit sync {name}`");
        findings.push(Finding::bad(SYNC, detail, advice).tolerable());
    }
    (findings, owner)
}

/// The finding that a dataset is another root's.
fn others(root: &Path, name: &str, owner: &str) -> Option<Finding> {
    let own = fs::read_link(root.join(super::HOME).join(OWNER_LINK)).ok();
    let own = own.as_deref().and_then(Path::to_str);
    if owner == "-" || Some(owner) == own {
        return None;
    }
    let detail = format!("{name} holds the layers of another root of layerd ({OWNER} is {owner})");
    let advice = format!(
        "name another dataset; if that root is gone for good, destroy the datasets below {name} and run \
         `zfs inherit {OWNER} {name}`"
    );
    Some(Finding::bad(DATASET, detail, advice))
}

/// Properties of the parent dataset with their values. Of layerd's own only one that was set here counts.
fn values(datasets: &Datasets, properties: &str) -> Result<Vec<(String, String)>, Failure> {
    let columns = "property,value,source";
    let arguments = ["get", "-Hp", "-o", columns, properties, datasets.parent()];
    let said = datasets.programs().zfs(&arguments)?;
    let parsed = said.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, value, source] = fields[..] else {
            return None;
        };
        let is_others = name == OWNER && source != "local";
        let value = if is_others { "-" } else { value };
        Some((name.to_owned(), value.to_owned()))
    });
    parsed.collect::<Option<_>>().ok_or_else(|| Failure::Odd {
        program: "zfs get".to_owned(),
        problem: "its answer is not understood",
    })
}

/// Makes a dataset, mounts it, and destroys it again. Answers the objects that it had of its own.
fn trial(datasets: &Datasets) -> (Finding, Option<u64>) {
    let name = datasets.below(TRIAL);
    let arguments = [
        "create",
        "-o",
        "mountpoint=legacy",
        "-o",
        "canmount=noauto",
        &name,
    ];
    let made = match datasets.programs().zfs(&arguments) {
        // Another check is at work, or one was interrupted.
        Err(cause) if cause.is_taken() => Ok(()),
        made => made
            .map(drop)
            .map_err(|cause| cause.to_error("create", &name)),
    };
    let mounted = made.and_then(|()| objects(&datasets.open(&name, false)?, &name));
    let own = mounted.as_ref().ok().map(|all| all.saturating_sub(1));
    let destroyed = datasets.programs().zfs(&["destroy", &name]);
    let finding = match (mounted, destroyed) {
        (Err(cause), _) if cause.is_full() => {
            Finding::good(TRIED, "not tried: the pool or a quota is full")
        }
        (Err(cause), _) if cause.io_kind() == Some(ErrorKind::ReadOnlyFilesystem) => {
            Finding::good(TRIED, "not tried: the pool is read-only")
        }
        (Err(cause), _) => Finding::bad(
            TRIED,
            format!(
                "{name} cannot be made and mounted: {}",
                layerd_mounts::error::with_causes(&cause)
            ),
            "run layerd as root of the machine, where zfs may make and mount datasets",
        ),
        (Ok(_), Err(cause)) if !cause.is_missing() => Finding::bad(
            TRIED,
            format!("{name} cannot be destroyed: {cause}"),
            format!("destroy {name}"),
        )
        .tolerable(),
        (Ok(_), _) => Finding::good(TRIED, "made, mounted and destroyed"),
    };
    (finding, own)
}

/// Waits for the calls of an earlier process that was killed: its programs go on, and what they make would
/// otherwise appear after it was looked for. Programs that are started from here on inherit the lock.
pub(super) fn lock(dirs: &LayerDirs) -> Result<File, Error> {
    let path = dirs.layers.path.join(LOCK);
    let fail = |cause: rustix::io::Errno| Error::io("lock", &path, cause);
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o600).open(&path);
    let file = file.map_err(|cause| Error::io("open", &path, cause))?;
    fcntl_setfd(&file, FdFlags::empty()).map_err(fail)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LIMIT => sleep(AGAIN),
            Err(cause) => return Err(fail(cause)),
        }
    }
}

/// Makes a dataset the root's own, unless it is, as was found. The checks have passed. Durable on return.
pub(super) fn claim(dirs: &LayerDirs, datasets: &Datasets, found: &str) -> Result<(), Error> {
    let name = datasets.parent();
    let owner = own_name(dirs)?;
    if found == owner {
        return Ok(());
    }
    let set = datasets
        .programs()
        .zfs(&["set", &format!("{OWNER}={owner}"), name]);
    set.map_err(|cause| cause.to_error("set the owner of", name))?;
    // Another daemon may have done the same at this moment.
    let values = values(datasets, OWNER);
    let values = values.map_err(|cause| cause.to_error("look at", name))?;
    let now = values.into_iter().next().unwrap_or_default().1;
    match others(dirs.root(), name, &now) {
        None => Ok(()),
        Some(finding) => Err(finding.to_error(dirs.root())),
    }
}

/// Name of the root, which is made up when it is asked for first.
fn own_name(dirs: &LayerDirs) -> Result<String, Error> {
    let home = &dirs.layers;
    let path = home.path.join(OWNER_LINK);
    loop {
        match readlinkat(&home.fd, OWNER_LINK) {
            Ok(text) => return Ok(text.to_string_lossy().into_owned()),
            Err(Errno::ENOENT) => {}
            Err(cause) => return Err(Error::io("read", &path, cause)),
        }
        const SOURCE: &str = "/proc/sys/kernel/random/uuid";
        let name = fs::read_to_string(SOURCE);
        let name = name.map_err(|cause| Error::io("read", Path::new(SOURCE), cause))?;
        match symlinkat(name.trim(), &home.fd, OWNER_LINK) {
            Ok(()) | Err(Errno::EEXIST) => sync_path(&home.path)?,
            Err(cause) => return Err(Error::io("create symlink", &path, cause)),
        }
    }
}

/// Facts for people, as `docker info` has them.
pub(super) fn facts(datasets: &Datasets) -> Vec<(String, String)> {
    let pool = datasets.pool();
    let health = datasets
        .programs()
        .zpool(&["list", "-Hp", "-o", "health", pool]);
    let unknown = |cause: Failure| format!("not known: {cause}");
    let health = health.map_or_else(unknown, |said| said.trim().to_owned());
    let mut facts = vec![
        ("Zpool", pool.to_owned()),
        ("Zpool Health", health),
        ("Parent Dataset", datasets.parent().to_owned()),
    ];
    let wanted = [
        ("used", "Space Used By Parent"),
        ("available", "Space Available"),
        ("quota", "Parent Quota"),
        ("compression", "Compression"),
    ];
    match values(datasets, "used,available,quota,compression") {
        Err(cause) => facts.push(("Space Used By Parent", unknown(cause))),
        Ok(values) => facts.extend(wanted.into_iter().filter_map(|(property, shown)| {
            let (_, value) = values.iter().find(|(name, _)| name == property)?;
            let is_none = property == "quota" && value == "0";
            Some((
                shown,
                if is_none {
                    "no".to_owned()
                } else {
                    value.clone()
                },
            ))
        })),
    }
    let facts = facts.into_iter();
    facts
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
