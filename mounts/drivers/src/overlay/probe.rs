//! Finds out at start whether layers can be kept below a root, and with which mount options. Each
//! refusal says what to change.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use layerd_mounts::{Error, mount, mountinfo, sys};
use nix::errno::Errno;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use crate::overlay::Options;
use crate::overlay::plan::Layout;

mod trial;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// Whether all is well with it.
    pub ok: bool,
    /// Whether layers cannot be kept unless it is.
    pub needed: bool,
    /// What was found.
    pub detail: String,
    /// What to change; empty if nothing.
    pub advice: String,
}

impl Finding {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            needed: true,
            detail: detail.into(),
            advice: String::new(),
        }
    }

    fn bad(name: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            ok: false,
            needed: true,
            detail: detail.into(),
            advice: advice.into(),
        }
    }

    /// The same, but layers can be kept all the same.
    fn tolerable(mut self) -> Self {
        self.needed = false;
        self
    }

    /// Whether layers cannot be kept because of it.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.needed && !self.ok
    }

    pub(crate) fn to_error(&self, root: &Path) -> Error {
        Error::Unsuitable {
            path: root.to_owned(),
            check: self.name,
            problem: self.detail.clone(),
            advice: self.advice.clone(),
        }
    }
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) layout: Layout,
    pub(crate) findings: Vec<Finding>,
}

/// Looks at `root`, an existing directory without symlinks in its path.
///
/// # Errors
/// [`Error::Unsuitable`] for a path or options that cannot be used at all, [`Error::Io`] if the
/// root cannot be written.
pub(crate) fn run(root: &Path, options: &Options) -> Result<Checked, Error> {
    let in_userns = in_user_namespace();
    trial::load_module();
    let index = Path::new("/sys/module/overlay/parameters/index").exists();
    let options = complete(&options.mount_options, in_userns, index);
    let layout = Layout::new(root, options.clone(), mount::page_size())?;
    let mut findings = vec![on_overlay(root)?, file_system(root)?];
    // Overlay on overlay fails in ways that the trial could only guess at.
    if !findings.iter().any(Finding::refuses) {
        findings.extend(tried(root, &options)?);
    }
    findings.push(user_namespace(in_userns));
    Ok(Checked { layout, findings })
}

/// A root that holds layers passed the trial before. If there is no room to repeat it, the daemon
/// must start all the same: to remove layers is what makes room.
fn tried(root: &Path, options: &[String]) -> Result<Vec<Finding>, Error> {
    let in_use = root.join("l").exists();
    match trial::run(root, options, in_use) {
        Err(cause) if in_use && cause.is_full() => Ok(vec![trial::no_room(&cause)]),
        outcome => outcome,
    }
}

/// Adds what this kernel needs to what was configured. `index=off`: with it on, an upper directory
/// that moved, or one that is mounted twice for a moment, would be refused. `userxattr`: in a user
/// namespace overlayfs may not use its own attributes.
fn complete(configured: &[String], in_userns: bool, index: bool) -> Vec<String> {
    let named = |name: &str| {
        let is = |option: &String| option.split('=').next() == Some(name);
        configured.iter().any(is)
    };
    let mut options = configured.to_vec();
    if in_userns && !named("userxattr") {
        options.push("userxattr".to_owned());
    }
    if index && !named("index") {
        options.push("index=off".to_owned());
    }
    options
}

fn on_overlay(root: &Path) -> Result<Finding, Error> {
    const NAME: &str = "not on overlayfs";
    let dir = open(root)?;
    let fail = |cause: Errno| Error::io("look at the file system of", root, cause);
    let magic = fstatfs(dir.as_fd()).map_err(fail)?.filesystem_type();
    if magic == OVERLAYFS_SUPER_MAGIC {
        return Ok(Finding::bad(
            NAME,
            "the root is itself inside an overlay mount, such as a container's file system",
            "put the root on a volume or a disk",
        ));
    }
    Ok(Finding::good(NAME, "yes"))
}

/// Name of what holds the root, for people. Nothing is decided by it but a warning.
fn file_system(root: &Path) -> Result<Finding, Error> {
    const NAME: &str = "file system";
    let dir = open(root)?;
    let fail = |cause: Errno| Error::io("look at", root, cause);
    let id = sys::stat(dir.as_fd(), c"").map_err(fail)?.mount;
    let table = mountinfo::read()?;
    let entry = match id {
        Some(id) => table.iter().find(|entry| entry.id == id),
        None => containing(&table, root),
    };
    let Some(entry) = entry else {
        return Ok(Finding::good(NAME, "not in the mount table"));
    };
    let kind = entry.kind.to_string_lossy();
    let source = entry.source.to_string_lossy();
    let detail = format!("{kind}, {source} on {}", entry.target.display());
    if ["tmpfs", "ramfs"].contains(&&*kind) {
        let advice = "put the root on a disk if layers are to outlive a reboot";
        return Ok(Finding::bad(NAME, detail, advice).tolerable());
    }
    Ok(Finding::good(NAME, detail))
}

fn containing<'a>(table: &'a [mountinfo::Entry], path: &Path) -> Option<&'a mountinfo::Entry> {
    let holders = table.iter().filter(|entry| path.starts_with(&entry.target));
    holders.max_by_key(|entry| entry.target.as_os_str().len())
}

fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map))
}

fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn user_namespace(inside: bool) -> Finding {
    let detail = if inside {
        "inside one; overlayfs keeps its marks in user.overlay attributes"
    } else {
        "not inside one"
    };
    Finding::good("user namespace", detail)
}

fn open(root: &Path) -> Result<std::fs::File, Error> {
    std::fs::File::open(root).map_err(|cause| Error::io("open directory", root, cause))
}

/// Name of the directory that one process tries things in.
fn scratch(root: &Path) -> PathBuf {
    root.join(format!("{SCRATCH}{}", std::process::id()))
}

const SCRATCH: &str = "probe.";

#[cfg(test)]
mod tests;
