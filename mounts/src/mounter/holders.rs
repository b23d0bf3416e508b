//! Users of a mount or directory: a search through `/proc`, within a time limit.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Handle, Holder, Holders, Holds, MountError, MountId, table};
use crate::{mountinfo, sys};

/// Processes with something inside one of `mounts`.
pub(super) fn of_mounts(mounts: &[MountId], limit: Duration) -> Holders {
    search(limit, |pid, found| {
        let Ok(proc) = open_process(pid) else {
            return true; // gone
        };
        let uses = |name: &str| {
            let name = CString::new(name).ok()?;
            let held = sys::mount_id(proc.as_fd(), &name, true).ok()?;
            mounts.contains(&held).then_some(())
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
        let Some(descriptors) = numbers(&format!("/proc/{pid}/fd")) else {
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
    let at = table::position(directory)?;
    let shows = |device, seen: &Path| device == at.device && seen.starts_with(&at.path);
    let ours = namespace(Path::new("/proc/thread-self/ns/mnt")).ok();
    let mut own = table::all()?;
    own.retain(|entry| entry.id != at.mount && !known.contains(&entry.id));
    own.retain(|entry| shows(entry.device, &entry.root));
    let mut seen: HashSet<u64> = ours.into_iter().collect();
    let mut holders = search(limit, |pid, found| {
        let tasks = numbers(&format!("/proc/{pid}/task"));
        tasks.is_some_and(|tasks| {
            tasks.into_iter().fold(true, |all, task| {
                let task = format!("/proc/{pid}/task/{task}");
                all & elsewhere(pid, &task, &mut seen, shows, found)
            })
        })
    });
    let (pid, namespace) = (std::process::id(), ours.unwrap_or(0));
    holders.found.extend(own.into_iter().map(|entry| {
        let target = entry.target;
        holder(pid, Holds::Mount { target, namespace })
    }));
    Ok(holders)
}

/// Looks into the mount namespace of a thread, unless that was done before. Answers whether it
/// could; a thread that ended meanwhile holds nothing.
fn elsewhere(
    pid: u32,
    task: &str,
    seen: &mut HashSet<u64>,
    shows: impl Fn((u32, u32), &Path) -> bool,
    found: &mut Vec<Holder>,
) -> bool {
    let namespace = match namespace(&Path::new(task).join("ns/mnt")) {
        Ok(namespace) => namespace,
        Err(error) => return error.kind() != ErrorKind::PermissionDenied,
    };
    if seen.contains(&namespace) {
        return true;
    }
    let entries = match fs::read(Path::new(task).join("mountinfo")) {
        Ok(text) => mountinfo::parse(&text),
        Err(error) => return error.kind() != ErrorKind::PermissionDenied,
    };
    let Ok(entries) = entries else {
        return false;
    };
    seen.insert(namespace);
    for entry in entries {
        if shows(entry.device, &entry.root) {
            let target = entry.target;
            found.push(holder(pid, Holds::Mount { target, namespace }));
        }
    }
    true
}

/// Shows each process to `look`, which answers whether it could look at it.
fn search(limit: Duration, mut look: impl FnMut(u32, &mut Vec<Holder>) -> bool) -> Holders {
    let end = Instant::now() + limit;
    let mut holders = Holders::default();
    let Some(pids) = numbers("/proc") else {
        holders.cut_short = true;
        return holders;
    };
    for pid in pids {
        if Instant::now() >= end {
            holders.cut_short = true;
            break;
        }
        if !look(pid, &mut holders.found) {
            holders.hidden.push(pid);
        }
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

/// Names of a directory of `/proc` that are numbers; `None` if this process may not look.
fn numbers(path: &str) -> Option<Vec<u32>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    match fs::read_dir(path) {
        Ok(entries) => Some(entries.flatten().filter_map(number).collect()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => Some(Vec::new()), // gone
    }
}

/// Inode of a link to a namespace.
fn namespace(link: &Path) -> io::Result<u64> {
    Ok(fs::metadata(link)?.ino())
}
