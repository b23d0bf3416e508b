//! Who uses a mount or a directory: a search through `/proc`, within a time limit.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Handle, Holder, Holders, Holds, MountEntry, MountError, MountId, table};
use crate::{mountinfo, sys};

/// Processes with something inside mount `id`.
pub(super) fn of_mount(id: MountId, limit: Duration) -> Holders {
    search(limit, |pid, found| {
        let Ok(proc) = open_process(pid) else {
            return true; // gone
        };
        let uses = |name: &str| {
            let name = CString::new(name).ok()?;
            let held = sys::mount_id(proc.as_fd(), &name, true).ok()?;
            (held == id).then_some(())
        };
        let places = [
            ("cwd", Holds::WorkingDirectory),
            ("root", Holds::Root),
            ("exe", Holds::Program),
        ];
        for (name, holds) in places {
            if uses(name).is_some() {
                found.push(holder(pid, holds));
            }
        }
        let Some(descriptors) = descriptors(pid) else {
            return false;
        };
        for descriptor in descriptors {
            if uses(&format!("fd/{descriptor}")).is_some() {
                found.push(holder(pid, Holds::File { descriptor }));
            }
        }
        true
    })
}

/// See [`super::Mounter::holders`].
pub(super) fn mounts_of(
    directory: &Handle,
    known: &[MountId],
    limit: Duration,
) -> Result<Holders, MountError> {
    let through = table::mount_of(directory)?;
    let inner = table::real_path(directory)?;
    let inner = inner.strip_prefix(&through.target).unwrap_or(Path::new(""));
    let root = if inner.as_os_str().is_empty() {
        through.root.clone()
    } else {
        through.root.join(inner)
    };
    let ours = namespace(Path::new("/proc/thread-self/ns/mnt"));
    let shows = |device, seen: &Path| device == through.device && seen.starts_with(&root);
    let own = |entry: &MountEntry| entry.id != through.id && !known.contains(&entry.id);
    let mut holders = Holders::default();
    for entry in table::all()?.into_iter().filter(own) {
        if shows(entry.device, &entry.root) {
            let (target, namespace) = (entry.target, ours.unwrap_or(0));
            let holds = Holds::Mount { target, namespace };
            holders.found.push(holder(std::process::id(), holds));
        }
    }
    let mut seen: HashSet<u64> = ours.into_iter().collect();
    let others = search(limit, |pid, found| {
        let Some(namespace) = namespace(&PathBuf::from(format!("/proc/{pid}/ns/mnt"))) else {
            return !Path::new(&format!("/proc/{pid}")).exists();
        };
        if !seen.insert(namespace) {
            return true;
        }
        let Some(entries) = mounts_seen_by(pid) else {
            seen.remove(&namespace); // another process of it may answer
            return !Path::new(&format!("/proc/{pid}")).exists();
        };
        for entry in entries {
            if shows(entry.device, &entry.root) {
                let target = entry.target;
                found.push(holder(pid, Holds::Mount { target, namespace }));
            }
        }
        true
    });
    holders.found.extend(others.found);
    holders.complete = others.complete;
    Ok(holders)
}

/// Shows each process to `look`, which answers whether it could look at it.
fn search(limit: Duration, mut look: impl FnMut(u32, &mut Vec<Holder>) -> bool) -> Holders {
    let end = Instant::now() + limit;
    let mut holders = Holders {
        found: Vec::new(),
        complete: true,
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        holders.complete = false;
        return holders;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if Instant::now() >= end {
            holders.complete = false;
            break;
        }
        holders.complete &= look(pid, &mut holders.found);
    }
    holders
}

fn holder(pid: u32, holds: Holds) -> Holder {
    let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder {
        pid,
        command: String::from_utf8_lossy(&command).trim_end().to_owned(),
        holds,
    }
}

fn open_process(pid: u32) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(format!("/proc/{pid}").as_str(), flags, Mode::empty())
}

/// `None` if this process may not look.
fn descriptors(pid: u32) -> Option<Vec<u32>> {
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => Some(
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect(),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(Vec::new()), // gone
    }
}

fn mounts_seen_by(pid: u32) -> Option<Vec<mountinfo::Entry>> {
    let text = fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    mountinfo::parse(&text).ok()
}

/// Inode of a link of namespaces.
fn namespace(link: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(link).ok()?.ino())
}
