//! Resources of a process and its root, in numbers.

use std::fmt;
use std::fs;
use std::path::Path;

use layerd_integration::scratch::mounts_below;
use nix::unistd::Pid;

use crate::Verdict;
use crate::home::names;
use crate::process::Site;

/// Taken while all clients rest and none is connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    /// Answered since the beginning.
    pub(super) calls: u64,
    pub(super) descriptors: usize,
    pub(super) threads: u64,
    /// Resident memory that belongs to no file, in KiB.
    pub(super) memory: u64,
    pub(super) mounts: usize,
    /// Directories of layers, of work and of volumes.
    pub(super) directories: usize,
    pub(super) trash: usize,
}

impl Figures {
    pub(super) fn take(site: &Site, scratch: &Path, pid: Pid, calls: u64) -> Verdict<Self> {
        let count = |folder: &str| names(&site.root.join(folder)).len();
        let own = [".staging", ".trash", "by-name"].len();
        Ok(Self {
            calls,
            descriptors: names(Path::new(&format!("/proc/{pid}/fd"))).len(),
            threads: of_status(pid, "Threads:")?,
            memory: of_status(pid, "RssAnon:")?,
            mounts: mounts_below(scratch).len(),
            directories: count("l") + count("w") + count("volumes").saturating_sub(own),
            trash: count("t") + count("volumes/.trash"),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            calls,
            descriptors,
            threads,
            memory,
            mounts,
            directories,
            trash,
        } = self;
        write!(
            f,
            "calls {calls}, descriptors {descriptors}, threads {threads}, "
        )?;
        write!(
            f,
            "memory {memory} KiB, mounts {mounts}, directories {directories}, trash {trash}"
        )
    }
}

fn of_status(pid: Pid, name: &str) -> Verdict<u64> {
    let path = format!("/proc/{pid}/status");
    let status =
        fs::read_to_string(path).map_err(|cause| format!("the daemon is gone: {cause}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("no {name} in:\n{status}"))
}
