//! Checks of a root and of the machine, for drivers.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layerd_mounts::barrier::ext4_has_journal;
use layerd_mounts::{Error, mountinfo, sys};
use nix::errno::Errno;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the check.
    pub name: &'static str,
    /// Set if the check passed.
    pub ok: bool,
    /// Set if layers cannot be kept without it.
    pub needed: bool,
    /// The finding.
    pub detail: String,
    /// The fix; empty without one.
    pub advice: String,
}

impl Finding {
    pub(crate) fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            needed: true,
            detail: detail.into(),
            advice: String::new(),
        }
    }

    pub(crate) fn bad(
        name: &'static str,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            ok: false,
            needed: true,
            detail: detail.into(),
            advice: advice.into(),
        }
    }

    /// The same, but layers can be kept all the same.
    pub(crate) fn tolerable(mut self) -> Self {
        self.needed = false;
        self
    }

    /// True if layers cannot be kept because of it.
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

/// Type of a file system, such as `ext4`; empty if not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileSystem(pub(crate) String);

/// File system that holds `root`. Nothing is decided by it but a warning.
pub(crate) fn file_system(root: &Path) -> Result<(Finding, FileSystem), Error> {
    const NAME: &str = "file system";
    let dir = open(root)?;
    let fail = |cause: Errno| Error::io("look at", root, cause);
    let id = sys::stat(dir.as_fd(), c"").map_err(fail)?.mount;
    let device = dir
        .metadata()
        .map_err(|cause| Error::io("look at", root, cause))?
        .dev();
    let table = mountinfo::read()?;
    let entry = match id {
        Some(id) => table.iter().find(|entry| entry.id == id),
        None => containing(&table, root),
    };
    let Some(entry) = entry else {
        let unknown = Finding::good(NAME, "not in the mount table");
        return Ok((unknown, FileSystem(String::new())));
    };
    let kind = entry.kind.to_string_lossy();
    let source = entry.source.to_string_lossy();
    let kept = if kind == "ext4" && !ext4_has_journal(device) {
        " without a journal"
    } else {
        ""
    };
    let detail = format!("{kind}{kept}, {source} on {}", entry.target.display());
    if ["tmpfs", "ramfs"].contains(&&*kind) {
        let advice = "put the root on a disk if layers are to outlive a reboot";
        let finding = Finding::bad(NAME, detail, advice).tolerable();
        return Ok((finding, FileSystem(kind.into_owned())));
    }
    Ok((Finding::good(NAME, detail), FileSystem(kind.into_owned())))
}

fn containing<'a>(table: &'a [mountinfo::Entry], path: &Path) -> Option<&'a mountinfo::Entry> {
    let holders = table.iter().filter(|entry| path.starts_with(&entry.target));
    holders.max_by_key(|entry| entry.target.as_os_str().len())
}

pub(crate) fn open(root: &Path) -> Result<std::fs::File, Error> {
    std::fs::File::open(root).map_err(|cause| Error::io("open directory", root, cause))
}
