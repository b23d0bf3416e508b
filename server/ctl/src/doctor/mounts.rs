//! The mount table against what layerd knows: mounts that nobody will unmount, and attachments
//! without one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mountinfo::Entry;

use super::{Finding, quoted, some_of};
use crate::attachment::Attachment;

const CHECK: &str = "mounts";

/// What stands below `<root>/mnt` without an attachment. The attachments must have been read after
/// the table: an attachment is recorded before it is mounted and dropped after it is unmounted.
/// What is new or gone by the second table was on its way.
pub(crate) fn leaked(
    before: &[Entry],
    attachments: &[Attachment],
    after: &[Entry],
    root: &Path,
) -> Option<Finding> {
    let own = root.join("mnt");
    let known: Vec<PathBuf> = attachments
        .iter()
        .map(|attachment| own.join(attachment.id.to_string()))
        .collect();
    let is_left = |entry: &&Entry| after.iter().any(|other| other.id == entry.id);
    let leaked: Vec<String> = before
        .iter()
        .filter(|entry| entry.target.parent() == Some(&own) && !known.contains(&entry.target))
        .filter(is_left)
        .map(|entry| entry.target.display().to_string())
        .collect();
    let first = leaked.first()?;
    Some(Finding::warning(
        CHECK,
        format!("mounted without an attachment: {}", some_of(&leaked)),
        "Nobody will unmount it, and what it shows cannot be removed. layerd unmounts nothing that nobody asked for.",
        format!("umount {}", quoted(first)),
    ))
}

/// Attachments whose mounts are gone.
pub(crate) fn waiting(attachments: &[Attachment]) -> Option<Finding> {
    let waiting: Vec<_> = attachments
        .iter()
        .filter(|attachment| attachment.state == "waiting")
        .collect();
    let first = waiting.first()?;
    let keys: Vec<String> = waiting.iter().map(|one| one.key.clone()).collect();
    Some(Finding::warning(
        CHECK,
        format!("attachments whose mounts are gone: {}", some_of(&keys)),
        "They hold their volumes. The same attach mounts them again; what nobody will attach again is to be detached.",
        format!("layerctl detach {}", quoted(&first.key)),
    ))
}

/// Overlays over writable layers of `root`: those whose layer is gone, and two over one layer.
/// `is_layer` answers whether a directory is that of a snapshot.
pub(crate) fn overlays(
    table: &[Entry],
    root: &Path,
    is_layer: &dyn Fn(&Path) -> bool,
) -> Vec<Finding> {
    let layers = root.join("l");
    let mut by_upper: BTreeMap<PathBuf, Vec<&Entry>> = BTreeMap::new();
    for entry in table.iter().filter(|entry| entry.kind == "overlay") {
        if let Some(upper) = upper(&entry.super_options).filter(|upper| upper.starts_with(&layers))
        {
            by_upper.entry(upper).or_default().push(entry);
        }
    }
    let gone = by_upper.iter().filter(|(upper, _)| !is_layer(upper));
    let gone: Vec<String> = gone.flat_map(|(_, entries)| targets(entries)).collect();
    let shared = by_upper.values().filter(|entries| {
        // Binds of one mount have its device.
        entries
            .iter()
            .any(|entry| entry.device != entries[0].device)
    });
    let shared: Vec<String> = shared.flat_map(|entries| targets(entries)).collect();
    [orphaned(&gone), doubled(&shared)]
        .into_iter()
        .flatten()
        .collect()
}

fn orphaned(gone: &[String]) -> Option<Finding> {
    let first = gone.first()?;
    Some(Finding::warning(
        CHECK,
        format!(
            "still mounted, though the snapshot was removed: {}",
            some_of(gone)
        ),
        "A container's root file system was never unmounted. Its space comes back only when it is.",
        format!("umount {}", quoted(first)),
    ))
}

fn doubled(shared: &[String]) -> Option<Finding> {
    let last = shared.last()?;
    Some(Finding::error(
        CHECK,
        format!("mounted twice with one writable layer: {}", some_of(shared)),
        "To the kernel this is undefined: the two can spoil each other's files.",
        format!("umount {}", quoted(last)),
    ))
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
";

    fn table() -> Vec<Entry> {
        parse(TABLE.as_bytes()).unwrap()
    }

    fn attachment(id: u64, state: &str) -> Attachment {
        Attachment::from(layerd_proto::layerd::volumes::v1::Attachment {
            id,
            key: format!("container:web:/{id}"),
            state: state.to_owned(),
            ..Default::default()
        })
    }

    #[test]
    fn mounts_without_an_attachment_are_leaked_if_they_stay() {
        let (root, table) = (Path::new("/r"), table());
        let known = [attachment(1, "attached")];
        let found = leaked(&table, &known, &table, root).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.mend, "umount /r/mnt/35");
        let all = [attachment(1, "attached"), attachment(35, "attached")];
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
        let found = waiting(&[attachment(1, "attached"), attachment(2, "waiting")]).unwrap();
        assert_eq!(found.mend, "layerctl detach container:web:/2");
        assert_eq!(waiting(&[attachment(1, "attached")]), None);
    }

    #[test]
    fn overlays_are_told_whose_layer_is_gone_or_another_s_too() {
        let root = Path::new("/r");
        assert_eq!(overlays(&table(), root, &|_| true), []);
        let found = overlays(&table(), root, &|path| path != Path::new("/r/l/2"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mend, "umount /run/web");
        let mut twice = table();
        twice[5].device = (0, 60);
        let found = overlays(&twice, root, &|_| true);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].mend, "umount /run/db2");
    }
}
