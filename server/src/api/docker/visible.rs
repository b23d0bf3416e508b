//! Visibility of a volume's folder to the program that asks for a mount: in a mount namespace of its
//! own it may have another directory at that path, or none, and would fill that one.

use std::io;
use std::path::{Path, PathBuf};

use layerd_mounts::mountinfo::{self, Entry};

/// Why a folder cannot be handed out.
#[derive(Debug, thiserror::Error)]
#[error(
    "process {pid} does not see {} as layerd does: it is in a mount namespace of its own (PrivateMounts=, MountFlags= or a container), \
     into which the mount below that path did not propagate",
    path.display()
)]
pub(super) struct Hidden {
    pid: i32,
    path: PathBuf,
}

/// Compares the two mount tables. A process whose table cannot be read, or is not told, passes: that is
/// no proof of anything.
pub(super) fn check(path: &Path, pid: Option<i32>) -> Result<(), Hidden> {
    let Some(pid) = pid else {
        return Ok(());
    };
    let (Ok(own), Ok(other)) = (mountinfo::read(), read(pid)) else {
        return Ok(());
    };
    match shown(&own, path) == shown(&other, path) {
        true => Ok(()),
        false => Err(Hidden {
            pid,
            path: path.to_owned(),
        }),
    }
}

fn read(pid: i32) -> io::Result<Vec<Entry>> {
    let text = std::fs::read(format!("/proc/{pid}/mountinfo"))?;
    mountinfo::parse(&text).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
}

/// The file system and the directory of it that are seen at a path: those of the last mount at its
/// longest prefix.
fn shown(table: &[Entry], path: &Path) -> Option<((u32, u32), PathBuf)> {
    let above = table.iter().filter(|entry| path.starts_with(&entry.target));
    let mount = above.max_by_key(|entry| entry.target.components().count())?;
    let rest = path.strip_prefix(&mount.target).ok()?;
    Some((mount.device, mount.root.join(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &str) -> Vec<Entry> {
        mountinfo::parse(lines.as_bytes()).unwrap()
    }

    #[test]
    fn the_same_directory_is_found_whatever_the_mounts_are() {
        let path = Path::new("/srv/layerd/volumes/1/data");
        let host = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /srv rw - xfs /dev/b rw\n";
        let with_bind =
            "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 /layerd /srv/layerd rw - xfs /dev/b rw\n";
        let without = "1 0 8:1 / / rw - ext4 /dev/a rw\n";
        let hidden = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /srv rw - xfs /dev/b rw\n3 2 0:9 / /srv rw - tmpfs none rw\n";
        let own = shown(&table(host), path);
        assert_eq!(own, Some(((8, 2), "/layerd/volumes/1/data".into())));
        assert_eq!(shown(&table(with_bind), path), own);
        assert_ne!(shown(&table(without), path), own);
        assert_ne!(shown(&table(hidden), path), own);
    }

    #[test]
    fn this_process_sees_what_it_sees() {
        let pid = i32::try_from(std::process::id()).ok();
        assert!(check(Path::new("/proc"), pid).is_ok());
        assert!(check(Path::new("/proc"), None).is_ok());
    }
}
