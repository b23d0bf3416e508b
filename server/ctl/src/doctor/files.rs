//! Owners, modes and mounts of what layerd rests on: its data directory, its configuration and
//! its socket.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use layerd_mounts::mountinfo::Entry;

use super::{Action, Finding, quoted};

/// The data directory: for root alone, and on a file system that can be written.
pub(crate) fn root(root: &Path, table: &[Entry]) -> Vec<Finding> {
    const CHECK: &str = "data directory";
    let Ok(found) = fs::symlink_metadata(root) else {
        return vec![Finding::error(
            CHECK,
            format!("{} is not there", root.display()),
            "layerd has no data, or those of another directory.",
            Action::advice(
                "Mount what belongs there, or name the right `root` in layerd's configuration.",
            ),
        )];
    };
    let mut all = vec![access(
        CHECK,
        root,
        &found,
        0o022,
        "Others can put files of their own where layerd keeps layers.",
    )];
    let of_root = read_only(root, table);
    let of_volumes = read_only(&root.join("volumes"), table);
    if let (None, Some(mount)) = (of_root, of_volumes) {
        all.push(Some(Finding::error(
            CHECK,
            format!(
                "the file system of volumes, mounted at {}, is read-only",
                mount.display()
            ),
            "No volume can be made, changed or removed; layers are not concerned.",
            Action::fix("remount-volumes-writable", remount(mount)),
        )));
    }
    if let Some(mount) = of_root {
        all.push(Some(Finding::error(
            CHECK,
            format!("its file system, mounted at {}, is read-only", mount.display()),
            "Nothing can be pulled, started or removed. A file system that met an error becomes so by itself.",
            Action::fix("remount-writable", remount(mount)),
        )));
    }
    or_well(CHECK, all, "root's alone, and writable")
}

/// The mount that `path` is on, if nothing can be written there.
fn read_only<'a>(path: &Path, table: &'a [Entry]) -> Option<&'a Path> {
    // Of several mounts at one place the last is seen.
    let over = table.iter().filter(|entry| path.starts_with(&entry.target));
    let mount = over.max_by_key(|entry| entry.target.as_os_str().len())?;
    let is_ro =
        |options: &std::ffi::OsStr| options.to_string_lossy().split(',').any(|one| one == "ro");
    (is_ro(&mount.options) || is_ro(&mount.super_options)).then_some(mount.target.as_path())
}

/// Findings about write access to the configuration of layerd or containerd.
pub(crate) fn configuration(files: &[&Path]) -> Vec<Finding> {
    const CHECK: &str = "configuration files";
    const IMPACT: &str = "Who can change it decides where layers are kept, and who serves them.";
    let found = files
        .iter()
        .filter_map(|file| Some((file, fs::metadata(file).ok()?)));
    let all = found.map(|(file, found)| access(CHECK, file, &found, 0o022, IMPACT));
    or_well(CHECK, all.collect(), "root's alone to change")
}

/// Findings about access to the socket, which gives root's rights over layers.
pub(crate) fn socket(socket: &Path) -> Vec<Finding> {
    const CHECK: &str = "socket";
    const IMPACT: &str = "Who can connect can read and delete every layer.";
    let Some(found) = fs::metadata(socket)
        .ok()
        .filter(|found| found.file_type().is_socket())
    else {
        return Vec::new(); // the daemon's absence is told elsewhere
    };
    or_well(
        CHECK,
        vec![access(CHECK, socket, &found, 0o007, IMPACT)],
        "closed to others",
    )
}

/// Finding for a file that is not root's, or has one of the `closed` permission bits.
fn access(
    check: &str,
    path: &Path,
    found: &Metadata,
    closed: u32,
    impact: &str,
) -> Option<Finding> {
    let name = quoted(&path.display().to_string());
    let mode = found.mode() & 0o7777;
    let mut wrong = Vec::new();
    let mut fix = Vec::new();
    if found.uid() != 0 {
        wrong.push(format!("belongs to the user {}", found.uid()));
        fix.push(format!("chown root {name}"));
    }
    if mode & closed != 0 {
        wrong.push(format!("has the mode {mode:04o}"));
        fix.push(format!("chmod {:04o} {name}", mode & !closed));
    }
    (!wrong.is_empty()).then(|| {
        Finding::error(
            check,
            format!("{} {}", path.display(), wrong.join(" and ")),
            impact,
            Action::safe("close-files", fix.join(" && ")),
        )
    })
}

fn remount(mount: &Path) -> String {
    format!(
        "mount -o remount,rw {}",
        quoted(&mount.display().to_string())
    )
}

fn or_well(check: &str, found: Vec<Option<Finding>>, well: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> = found.into_iter().flatten().collect();
    if found.is_empty() {
        found.push(Finding::ok(check, well));
    }
    found
}

#[cfg(test)]
mod tests {
    use layerd_mounts::mountinfo::parse;

    use super::*;

    #[test]
    fn the_mount_that_counts_is_the_nearest_and_the_last() {
        let table = "\
30 1 8:1 / / ro - ext4 /dev/sda1 rw
31 30 8:2 / /var rw - ext4 /dev/sda2 rw
32 31 8:3 / /var/lib/c rw - ext4 /dev/sda3 ro,errors=remount-ro
";
        let table = parse(table.as_bytes()).unwrap();
        let at = |path| read_only(Path::new(path), &table).map(|mount| mount.display().to_string());
        assert_eq!(at("/x").as_deref(), Some("/"));
        assert_eq!(at("/var/lib"), None);
        assert_eq!(at("/var/lib/c/layerd").as_deref(), Some("/var/lib/c"));
        assert_eq!(at("/var/lib/cat"), None);
    }

    #[test]
    fn a_disk_of_volumes_is_told_from_that_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().display();
        for (of_root, of_volumes, wanted) in [
            ("rw", "rw", None),
            ("rw", "ro", Some("the file system of volumes")),
            ("ro", "ro", Some("its file system")),
        ] {
            let table = format!(
                "30 1 8:1 / {top} {of_root} - ext4 /dev/sda1 rw\n\
                 31 30 8:2 / {top}/volumes {of_volumes} - ext4 /dev/sda2 rw\n"
            );
            let table = parse(table.as_bytes()).unwrap();
            let found = root(dir.path(), &table);
            let told = found.iter().find(|one| one.found.contains("is read-only"));
            assert_eq!(told.is_some(), wanted.is_some(), "{found:?}");
            if let (Some(told), Some(wanted)) = (told, wanted) {
                assert!(told.found.starts_with(wanted), "{told:?}");
            }
        }
    }
}
