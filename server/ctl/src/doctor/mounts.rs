//! The mount table against layerd's attachments: leaked mounts, and attachments without a mount.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mountinfo::Entry;

use super::{Action, Finding, quoted, some_of};
use crate::attachment::Attachment;

const CHECK: &str = "mounts";

/// Mounts below `<root>/mnt` without an attachment. The attachments must have been read after
/// the table: an attachment is recorded before it is mounted and dropped after it is unmounted.
/// Mounts new or gone in the second table are ignored.
pub(crate) fn leaked(
    before: &[Entry],
    attachments: &[Attachment],
    after: &[Entry],
    root: &Path,
) -> Option<Finding> {
    let own = root.join("mnt");
    let known: Vec<PathBuf> = attachments
        .iter()
        .map(|attachment| own.join(&attachment.id))
        .collect();
    let is_left = |entry: &&Entry| after.iter().any(|other| other.id == entry.id);
    let leaked: Vec<String> = before
        .iter()
        .filter(|entry| entry.target.parent() == Some(&own) && !known.contains(&entry.target))
        .filter(is_left)
        .map(|entry| entry.target.display().to_string())
        .collect();
    (!leaked.is_empty()).then(|| {
        Finding::warning(
            CHECK,
            format!("mounted without an attachment: {}", some_of(&leaked)),
            "No detach unmounts it, and what it shows cannot be removed. layerd unmounts only what it is told to.",
            Action::fix("unmount-leaked", command("umount", &leaked)),
        )
    })
}

/// Attachments whose mounts are gone.
pub(crate) fn waiting(attachments: &[Attachment]) -> Option<Finding> {
    let waiting: Vec<_> = attachments
        .iter()
        .filter(|attachment| attachment.state == "waiting")
        .collect();
    let keys: Vec<String> = waiting.iter().map(|one| one.key.clone()).collect();
    (!keys.is_empty()).then(|| {
        Finding::warning(
            CHECK,
            format!("attachments whose mounts are gone: {}", some_of(&keys)),
            "They hold their volumes until the same attach mounts them again, or they are detached.",
            Action::fix("detach-waiting", command("layerctl detach", &keys)),
        )
    })
}

/// Facts about layers and the users of their mounts.
pub(crate) struct Layers<'a> {
    /// The data directory.
    pub(crate) root: &'a Path,
    /// True for the directory of a snapshot.
    pub(crate) is_layer: &'a dyn Fn(&Path) -> bool,
    /// Id of a removed layer that can be restored, by its directory.
    pub(crate) removed: &'a BTreeMap<PathBuf, String>,
    /// Devices of the file systems that are the root of a process.
    pub(crate) running: &'a BTreeSet<(u32, u32)>,
}

/// Overlays over writable layers: those whose layer is gone, and two over one layer.
pub(crate) fn overlays(table: &[Entry], known: &Layers<'_>) -> Vec<Finding> {
    // Those that are held to a size are in a folder of their own.
    let layers = ["l", "c"].map(|folder| known.root.join(folder));
    let mut by_upper: BTreeMap<PathBuf, Vec<&Entry>> = BTreeMap::new();
    for entry in table.iter().filter(|entry| entry.kind == "overlay") {
        let is_layer = |upper: &PathBuf| layers.iter().any(|folder| upper.starts_with(folder));
        if let Some(upper) = upper(&entry.super_options).filter(is_layer) {
            by_upper.entry(upper).or_default().push(entry);
        }
    }
    let gone = by_upper
        .iter()
        .filter(|(upper, _)| !(known.is_layer)(upper));
    let mut found: Vec<Finding> = gone
        .map(|(upper, entries)| orphaned(upper, entries, known))
        .collect();
    let shared = by_upper.values().filter(|entries| {
        // Binds of one mount have its device.
        entries
            .iter()
            .any(|entry| entry.device != entries[0].device)
    });
    found.extend(shared.map(|entries| doubled(entries, known)));
    found
}

/// A mount whose layer is gone. That of a running container must not be unmounted.
fn orphaned(upper: &Path, entries: &[&Entry], known: &Layers<'_>) -> Finding {
    let targets = targets(entries);
    let shown = some_of(&targets);
    if !entries
        .iter()
        .any(|entry| known.running.contains(&entry.device))
    {
        return Finding::warning(
            CHECK,
            format!("still mounted, though the snapshot was removed: {shown}"),
            "A container's root file system was never unmounted. Its space comes back only when it is.",
            Action::fix("unmount-removed", command("umount", &targets)),
        );
    }
    let found = format!(
        "a container runs on {shown}, and its writable layer {} is gone",
        upper.display()
    );
    let impact = "What it has written is lost when it ends, and some of its calls fail already.";
    let action = match known.removed.get(upper) {
        Some(id) => Action::safe("restore-running", format!("layerctl trash restore {id}")),
        None => Action::advice(
            "Copy what is worth it out of `/proc/PID/root` while it runs, then stop the container and create it anew.",
        ),
    };
    Finding::error(CHECK, found, impact, action)
}

fn doubled(entries: &[&Entry], known: &Layers<'_>) -> Finding {
    let all = targets(entries);
    let unused = entries
        .iter()
        .rev()
        .find(|entry| !known.running.contains(&entry.device));
    let action = match unused {
        Some(entry) => {
            let same = entries.iter().filter(|one| one.device == entry.device);
            let targets: Vec<String> = same.map(|one| one.target.display().to_string()).collect();
            Action::fix("unmount-doubled", command("umount", &targets))
        }
        None => Action::advice("Stop one of the two containers that run on them."),
    };
    Finding::error(
        CHECK,
        format!("mounted twice with one writable layer: {}", some_of(&all)),
        "To the kernel this is undefined: the two can spoil each other's files.",
        action,
    )
}

/// A command with all of its operands: what is left out of it would not be mended.
fn command(name: &str, operands: &[String]) -> String {
    let words = operands
        .iter()
        .map(|operand| format!(" {}", quoted(operand)));
    format!("{name}{}", words.collect::<String>())
}

fn targets(entries: &[&Entry]) -> Vec<String> {
    let targets = entries
        .iter()
        .map(|entry| entry.target.display().to_string());
    targets.collect()
}

/// The directory that an overlay writes to.
fn upper(options: &OsStr) -> Option<PathBuf> {
    let mut options = options.as_bytes().split(|byte| *byte == b',');
    let path = options.find_map(|option| option.strip_prefix(b"upperdir="))?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// All that concerns mounts; one finding that all is well if nothing is wrong.
pub(crate) fn or_well(mut found: Vec<Finding>, looked: &str) -> Vec<Finding> {
    if found.is_empty() {
        found.push(Finding::ok(CHECK, looked));
    }
    found
}

#[cfg(test)]
mod tests {
    use layerd_mounts::mountinfo::parse;

    use super::super::Severity;
    use super::*;

    const TABLE: &str = "\
30 1 8:1 / / rw - ext4 /dev/sda1 rw
31 30 0:40 / /r/mnt/1 rw - tmpfs none rw
32 30 0:41 / /r/mnt/35 rw - tmpfs none rw
33 30 0:50 / /run/web rw - overlay overlay rw,lowerdir=/r/l/1,upperdir=/r/l/2,workdir=/r/w/2
34 30 0:51 / /run/db rw - overlay overlay rw,lowerdir=/r/l/1,upperdir=/r/l/3,workdir=/r/w/3
35 30 0:51 / /run/db2 rw - overlay overlay rw,lowerdir=/r/l/1,upperdir=/r/l/3,workdir=/r/w/3
36 30 0:52 / /other rw - overlay overlay rw,lowerdir=/x/1,upperdir=/x/2,workdir=/x/w
37 30 0:53 / /run/cache rw - overlay overlay rw,lowerdir=/r/l/1,upperdir=/r/c/4/data/u,workdir=/r/c/4/data/w
";

    fn table() -> Vec<Entry> {
        parse(TABLE.as_bytes()).unwrap()
    }

    fn attachment(id: &str, state: &str) -> Attachment {
        Attachment::from(layerd_proto::layerd::v1::Attachment {
            id: id.to_owned(),
            key: format!("container:web:/{id}"),
            state: state.to_owned(),
            ..Default::default()
        })
    }

    #[test]
    fn mounts_without_an_attachment_are_leaked_if_they_stay() {
        let (root, table) = (Path::new("/r"), table());
        let known = [attachment("1", "attached")];
        let found = leaked(&table, &known, &table, root).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.fix, "umount /r/mnt/35");
        let all = [attachment("1", "attached"), attachment("35", "attached")];
        assert_eq!(leaked(&table, &all, &table, root), None);
        let later: Vec<_> = table
            .iter()
            .filter(|entry| entry.id != 32)
            .cloned()
            .collect();
        assert_eq!(leaked(&table, &known, &later, root), None);
    }

    #[test]
    fn attachments_that_wait_are_told() {
        let found = waiting(&[attachment("1", "attached"), attachment("2", "waiting")]).unwrap();
        assert_eq!(found.fix, "layerctl detach container:web:/2");
        assert_eq!(waiting(&[attachment("1", "attached")]), None);
    }

    fn look(
        table: &[Entry],
        gone: &str,
        removed: &[(&str, &str)],
        running: &[(u32, u32)],
    ) -> Vec<Finding> {
        let removed = removed
            .iter()
            .map(|(path, id)| (PathBuf::from(path), (*id).to_owned()))
            .collect();
        let layers = Layers {
            root: Path::new("/r"),
            is_layer: &|path| path != Path::new(gone),
            removed: &removed,
            running: &running.iter().copied().collect(),
        };
        overlays(table, &layers)
    }

    #[test]
    fn overlays_are_told_whose_layer_is_gone_or_another_s_too() {
        assert_eq!(look(&table(), "", &[], &[]), []);
        let found = look(&table(), "/r/l/3", &[], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].fix, "umount /run/db /run/db2");
        let limited = look(&table(), "/r/c/4/data/u", &[], &[]);
        assert_eq!(limited[0].fix, "umount /run/cache");
        let mut twice = table();
        twice[5].device = (0, 60);
        let found = look(&twice, "", &[], &[]);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].fix, "umount /run/db2");
        let found = look(&twice, "", &[], &[(0, 60)]);
        assert_eq!(found[0].fix, "umount /run/db", "not the one that runs");
        let found = look(&twice, "", &[], &[(0, 60), (0, 51)]);
        assert!(found[0].fix.is_empty() && found[0].advice.contains("Stop one"));
    }

    #[test]
    fn the_root_of_a_running_container_is_never_to_be_unmounted() {
        let running = [(0, 50)];
        let found = look(&table(), "/r/l/2", &[("/r/l/2", "2")], &running);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].fix, "layerctl trash restore 2");
        let found = look(&table(), "/r/l/2", &[], &running);
        assert!(found[0].fix.is_empty() && found[0].advice.contains("/proc/PID/root"));
    }
}
