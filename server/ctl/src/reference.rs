//! Exit codes and JSON fields, as the manual pages list them. Scripts rely on both.

/// Exit codes with their meanings.
pub(crate) const EXIT_CODES: [(&str, &str); 12] = [
    ("0", "Done."),
    (
        "1",
        "Failed for a reason not listed here; doctor: there are warnings.",
    ),
    ("2", "The command line is wrong; doctor: there are errors."),
    (
        "3",
        "No such snapshot, volume or attachment, or what a mount wants is missing and not to be created.",
    ),
    (
        "4",
        "The key or name is taken, or is there with other settings.",
    ),
    (
        "5",
        "Refused in the present state: the snapshot has children, is committed, is not active, a file \
         exists or was edited since, the records are sound, the volume is in use, or it was not confirmed.",
    ),
    ("6", "An argument or filter breaks a rule."),
    (
        "7",
        "The daemon cannot be reached, is stopping, or has lost its records and waits for layerctl restore.",
    ),
    (
        "8",
        "No answer in time; a change may have been made all the same.",
    ),
    ("9", "Data on disk is damaged."),
    ("10", "The disk or a quota is full."),
    (
        "11",
        "fsck: problems are left; orphans: there are differences.",
    ),
];

/// Form of the JSON output in general.
pub(crate) const JSON_FORM: &str = "With -o json each command prints one object a line, and nothing \
    if there is nothing to show. Names of fields stay as they are between releases; new ones may be \
    added. Sizes are bytes, times are RFC 3339 in UTC. A snapshot that vanished while it was looked \
    at has null for bytes and inodes. Errors are objects on standard error, one a line: error (a \
    sentence), code (not_found, refused, ...), exit_code, hint (\"\" for none).";

/// Characters of keys and labels.
pub(crate) const ESCAPES: &str = "Keys and labels come from others: control characters in them are \
    printed as escapes such as \\u{1b}, and a backslash as two. JSON and ls -q -0 carry them unchanged.";

/// JSON fields of each command; the commands of a row share them.
pub(crate) const JSON_FIELDS: &[(&[&str], &str)] = &[
    (
        &["snapshot ls", "snapshot label"],
        "name, parent (\"\" for none), kind (active, view, committed), created_at, updated_at, labels \
         (an object); ls: also images (names, null if containerd does not answer); ls --size: also bytes, \
         inodes, fullness (used_bytes, limit_bytes, used_inodes, limit_inodes; null without a limit)",
    ),
    (
        &["snapshot tree"],
        "as ls --size without images and fullness, and depth (0 for the bottom layer), children (a number)",
    ),
    (
        &["snapshot show"],
        "as ls --size without images, and children (names), mounts (type, source, target, options; [] if committed)",
    ),
    (
        &["snapshot mounts", "snapshot prepare", "snapshot view"],
        "type, source, target, options (an array)",
    ),
    (&["snapshot usage"], "name, bytes, inodes"),
    (
        &["snapshot rm", "orphans rm"],
        "removed (the key), one object for each",
    ),
    (
        &["doctor"],
        "severity (ok, info, warning, error), check, found, impact (what follows), fix (a command \
         that a shell runs; \"\" for none), fix_name (its name, the same in every release), safe (whether --fix may run it), advice (for people; \"\" \
         if there is a fix), one object for each finding, troubles first",
    ),
    (
        &["du"],
        "name, kind, layers, own_bytes, shared_bytes, images and fullness (as of snapshot ls)",
    ),
    (
        &["top"],
        "at, kind (container, volume), name, key (of the snapshot; \"\" for a volume), counted (processes, \
         growth, null), bytes_per_second and written_bytes (since the start of the view; null if counted is), \
         used_bytes (null if never measured), fullness (as of snapshot ls), one object for each row of a table",
    ),
    (&["report"], "file, bytes"),
    (
        &["why"],
        "name, kind, bytes (null if not known), namespace, client_key, unpacks (null for none), \
         depth, children (names), images (as of snapshot ls)",
    ),
    (
        &["orphans"],
        "state (orphan, foreign, missing), key, namespace and client_key (\"\" for what is not \
         containerd's), kind, created_at and bytes (null for missing ones), needed_by (an array of \
         what needs a missing one), fix (a command; \"\" for none), advice (for people; \"\" if there \
         is a fix)",
    ),
    (
        &["events"],
        "at (null if events were missed), topic, what, subject, missed (how many were since the line \
         before; topic is \"\" then)",
    ),
    (
        &["layer apply"],
        "key, diff_id, size (of the archive), bytes, inodes",
    ),
    (
        &["layer diff"],
        "key, file, digest, size, diff_id, uncompressed, changed (files); nothing if the layer itself \
         goes to standard output",
    ),
    (
        &[
            "volume ls",
            "volume inspect",
            "volume show",
            "volume update",
            "volume undelete",
            "volume rename",
            "volume label",
            "volume snapshot",
        ],
        "id, name, driver, path, created_at, updated_at, labels and options (objects), anonymous, \
         attachments (a number), filled_from (\"\" for nothing), snapshot_of and deleted_at (null for \
         none), bytes (null if never measured), limit (\"\" without a size)",
    ),
    (
        &["volume create", "volume clone"],
        "as volume ls, and created (false if it was there already)",
    ),
    (
        &["volume rm"],
        "removed (the name), existed, id (\"\" if it did not), one object for each",
    ),
    (
        &["volume purge"],
        "purged (the name), id, left (volumes in the trash then), one object for each",
    ),
    (
        &["volume export"],
        "name, file, bytes, files, left_out (sockets), changed (files written to meanwhile), sha256; \
         nothing if the archive itself goes to standard output",
    ),
    (
        &["volume import"],
        "as volume ls, and files, bytes, verified (whether there was a checksum)",
    ),
    (&["volume usage"], "name, bytes, inodes, as_of"),
    (
        &["volume prune"],
        "id, name, skipped (why it was passed over; \"\" if it is in the trash), one object for each; \
         with --dry-run: id, name, reason, bytes (null if not known)",
    ),
    (
        &["volume watch"],
        "at, what, subject, files, bytes, files_expected (0 but for \"filling\")",
    ),
    (
        &["mount parse"],
        "canonical, type, source, target, access, on_missing, policy_origin",
    ),
    (
        &["mount check"],
        "as mount parse, and decision (use, create, fail), detail",
    ),
    (
        &["attach", "attachments", "who-uses", "oci-apply"],
        "id, key, owner, mount (as mount parse), volume (its name; \"\" for none), state, oci_mounts \
         (destination, type, source, options), mounted_at (\"\" if layerd did not mount it), \
         effective_access (rw, ro or ro-recursive; \"\" likewise), created, filled, created_at, notes \
         (an array of sentences: what the call goes without)",
    ),
    (
        &["attachments reconcile"],
        "key, outcome (keep; detach or, with --execute, detached; failed; unknown), why",
    ),
    (
        &["detach"],
        "detached (the key), one object for each that was there",
    ),
    (
        &["info"],
        "alarms (an array of sentences), version, root, driver, backing_filesystem, kernel, features \
         (name, value), durability, active, views, committed, quarantined, trash, bytes, unmeasured, \
         disk_bytes, disk_free_bytes, uptime_seconds, layers_unpacked, layers_packed, reserves (an array: path, \
         level, bytes, bytes_free, bytes_kept, inodes, inodes_free, inodes_kept); while the \
         records are lost, driver is \"\"",
    ),
    (
        &["version"],
        "client and server (objects): version; server: also driver and kernel; null if the daemon \
         cannot be reached",
    ),
    (
        &["import containerd"],
        "namespace, image, config, chain_id, layers, imported (layers), bytes (of these), copied_bytes, one \
         object for each image that was imported, or with --dry-run would be",
    ),
    (
        &["import docker-root"],
        "kind (image, volume, container), name, id, layers, imported (layers), bytes (of these, or of a volume), \
         copied_bytes, note, one object for each image and volume that was imported; with --dry-run for everything",
    ),
    (
        &["trash ls"],
        "id, key, parent (\"\" for none), kind, removed_at, bytes (null if not known)",
    ),
    (
        &["trash restore"],
        "id, key, one object for each that is back",
    ),
    (
        &["trash empty"],
        "layers and volumes (how many are in the trash at that moment)",
    ),
    (
        &["fsck"],
        "problem, fix, repaired, quarantined, one object for each problem; with --content in the \
         end also layers, without_digests, files, bytes",
    ),
    (
        &["backup"],
        "file, bytes; nothing if the backup itself goes to standard output",
    ),
    (&["restore"], "snapshots, set_aside"),
];

#[cfg(test)]
mod tests {
    use super::JSON_FIELDS;
    use crate::help::{self, find};

    #[test]
    fn fields_are_those_of_commands() {
        let root = help::command();
        for (commands, _) in JSON_FIELDS {
            for command in *commands {
                assert!(find(&root, command).is_some(), "{command}");
            }
        }
    }
}
