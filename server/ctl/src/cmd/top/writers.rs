//! Bytes that the processes of containers have written, as the kernel accounts them to each process.
//!
//! A process belongs to the container whose layer is its root directory, whichever runtime made it: the mount
//! table of its namespace names the layer. `write_bytes` of `/proc/PID/io` counts pages when they become
//! dirty, on file systems that keep them on a device: the layer, volumes and paths of the host, but no tmpfs.
//! It has what its reaped children wrote. So a container has written the sum over its processes; where that
//! falls, as a process ended whose parent is outside, what was written meanwhile is not known.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use layerd_mounts::mountinfo;

/// Where a container's processes can be found: the key of its snapshot by the directory that it writes to.
#[derive(Debug, Default)]
pub(crate) struct Layers<'k> {
    by_path: HashMap<&'k OsStr, &'k str>,
    /// Device and inode of the same directories, which are the root of what is no overlay.
    by_inode: HashMap<(u64, u64), &'k str>,
}

impl<'k> Layers<'k> {
    /// Costs a look at each directory; one that is not there is no overlay's either.
    pub(crate) fn new(written: impl Iterator<Item = (&'k str, &'k str)>) -> Self {
        let mut layers = Self::default();
        for (key, path) in written {
            layers.by_path.insert(OsStr::new(path), key);
            if let Ok(found) = fs::metadata(path) {
                layers.by_inode.insert((found.dev(), found.ino()), key);
            }
        }
        layers
    }

    /// Key of the snapshot that is the root directory of a process, by its folder in `/proc`: `Some(None)` if
    /// it is no snapshot, and `None` if the process ended.
    fn of(&self, process: &Path) -> Option<Option<&'k str>> {
        let table = mountinfo::parse(&fs::read(process.join("mountinfo")).ok()?).ok()?;
        let root = table.iter().rfind(|one| one.target == Path::new("/"))?;
        if root.kind == "overlay" {
            let upper = upper(&root.super_options);
            return Some(upper.and_then(|upper| self.by_path.get(upper).copied()));
        }
        let root = fs::metadata(process.join("root/.")).ok()?;
        Some(self.by_inode.get(&(root.dev(), root.ino())).copied())
    }
}

/// The upper directory in the options of an overlay.
fn upper(options: &OsStr) -> Option<&OsStr> {
    let mut options = options.as_bytes().split(|byte| *byte == b',');
    let upper = options.find_map(|option| option.strip_prefix(b"upperdir="));
    upper.map(OsStr::from_bytes)
}

/// A process at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    /// Bytes that it has written, with those of its reaped children.
    written: u64,
    /// Clock ticks from the boot to its start.
    started: u64,
}

/// The processes of one container, by number.
type Processes = HashMap<u32, Process>;

/// The processes of all containers at one look, by the keys of their snapshots.
#[derive(Debug, Default)]
pub(crate) struct Look {
    containers: HashMap<String, Processes>,
    /// Latest start of a process that was seen, in clock ticks from the boot.
    newest: u64,
}

impl Look {
    /// Looks at all processes. Costs two or three reads in `/proc` for each, and one mount table for each mount
    /// namespace. Those of others are not seen by a caller who is not root.
    pub(crate) fn now(layers: &Layers<'_>) -> Self {
        let mut look = Self::default();
        let mut keys: HashMap<u64, Option<&str>> = HashMap::new();
        if let Ok(own) = fs::metadata("/proc/self/ns/mnt") {
            keys.insert(own.ino(), None);
        }
        let Ok(entries) = fs::read_dir("/proc") else {
            return look;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = entry.path();
            let Ok(namespace) = fs::metadata(path.join("ns/mnt")) else {
                continue;
            };
            let known = keys.get(&namespace.ino()).copied();
            let Some(key) = known.or_else(|| layers.of(&path)) else {
                continue;
            };
            keys.insert(namespace.ino(), key);
            let Some(process) = process(&path) else {
                continue;
            };
            look.newest = look.newest.max(process.started);
            if let Some(key) = key {
                let container = look.containers.entry(key.to_owned()).or_default();
                container.insert(pid, process);
            }
        }
        look
    }

    /// Keys of the snapshots whose processes were found.
    pub(crate) fn keys(&self) -> HashSet<&str> {
        self.containers.keys().map(String::as_str).collect()
    }

    /// Bytes that a container wrote since a look before; `None` if it has no process.
    pub(crate) fn written_since(&self, before: &Self, key: &str) -> Option<u64> {
        let now = self.containers.get(key)?;
        let none = Processes::new();
        let earlier = before.containers.get(key).unwrap_or(&none);
        // What entered the container after it had been at work elsewhere wrote nothing here.
        let entered = now.iter().filter(|(pid, process)| {
            !earlier.contains_key(pid) && process.started <= before.newest
        });
        let entered: u64 = entered.map(|(_, process)| process.written).sum();
        let sum = |all: &Processes| all.values().map(|one| one.written).sum::<u64>();
        Some(sum(now).saturating_sub(sum(earlier).saturating_add(entered)))
    }
}

/// Reads a process by its folder; `None` if it ended, or its accounts are hidden.
fn process(path: &Path) -> Option<Process> {
    Some(Process {
        written: written(&fs::read_to_string(path.join("io")).ok()?)?,
        started: started(&fs::read(path.join("stat")).ok()?)?,
    })
}

/// `write_bytes` of `/proc/PID/io`.
fn written(io: &str) -> Option<u64> {
    let mut lines = io.lines();
    lines.find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// Field 22 of `/proc/PID/stat`. The name of the program, field 2, is in brackets and may hold anything.
fn started(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let after = std::str::from_utf8(&stat[end + 1..]).ok()?;
    after.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(newest: u64, processes: &[(u32, u64, u64)]) -> Look {
        let of = |(pid, written, started): &(u32, u64, u64)| {
            let (written, started) = (*written, *started);
            (*pid, Process { written, started })
        };
        let all: Processes = processes.iter().map(of).collect();
        let containers = match all.is_empty() {
            true => HashMap::new(),
            false => HashMap::from([("web".to_owned(), all)]),
        };
        Look { containers, newest }
    }

    #[test]
    fn a_container_wrote_the_difference_of_sums() {
        let before = look(50, &[(7, 100, 10), (8, 1000, 20)]);
        let since = |processes| look(90, processes).written_since(&before, "web");
        assert_eq!(since(&[(7, 100, 10), (8, 1500, 20)]), Some(500));
        // A child was reaped: its parent has what it wrote.
        assert_eq!(since(&[(7, 1700, 10)]), Some(600));
        // What ended was started from outside: less than was written, and never more.
        assert_eq!(since(&[(7, 150, 10)]), Some(0));
        // One that was started, and one that came in.
        assert_eq!(
            since(&[(7, 100, 10), (8, 1000, 20), (9, 30, 60), (10, 5000, 40)]),
            Some(30)
        );
        assert_eq!(since(&[]), None);
        let none = look(50, &[]);
        let started = look(90, &[(7, 100, 60)]);
        assert_eq!(started.written_since(&none, "web"), Some(100));
    }

    #[test]
    fn accounts_and_options_are_read() {
        let io = "rchar: 1\nwchar: 9\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(written(io), Some(4096));
        assert_eq!(written("rchar: 1\n"), None);
        let fields = "S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 8 9";
        let stat = format!("7 (a) b\n) {fields}");
        assert_eq!(started(stat.as_bytes()), Some(4711));
        assert_eq!(started(b"7"), None);
        let options = OsStr::new("rw,lowerdir=/l/1:/l/2,upperdir=/r/l/3,workdir=/r/w/3");
        assert_eq!(upper(options), Some(OsStr::new("/r/l/3")));
        assert_eq!(upper(OsStr::new("ro,lowerdir=/l/1:/l/2")), None);
    }

    #[test]
    fn this_process_is_in_no_container() {
        let elsewhere = tempfile::tempdir().unwrap();
        let path = elsewhere.path().to_str().unwrap();
        let layers = Layers::new(std::iter::once(("web", path)));
        let look = Look::now(&layers);
        assert_eq!(look.keys(), HashSet::new());
        assert!(look.newest > 0);
    }
}
