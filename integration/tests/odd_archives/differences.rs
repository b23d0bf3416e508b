//! Where layerd differs from containerd, and why.

use std::collections::BTreeMap;

use layerd_integration::Version;

/// Cases that are unlike for one reason. A star stands for anything.
struct Known {
    reason: &'static str,
    cases: &'static [&'static str],
    /// The only release in which they are; all if none is named.
    only: Option<Version>,
}

const fn known(reason: &'static str, cases: &'static [&'static str]) -> Known {
    Known {
        reason,
        cases,
        only: None,
    }
}

const KNOWN: &[Known] = &[
    known(
        "layerd reads what Go's archive/tar knows and containerd does not make: contiguous files, the \
         sparse files of old GNU tar, extended headers of Solaris; it passes over volume labels",
        &[
            "type '7'",
            "type 'V'",
            "a volume label",
            "an extended header of Solaris",
            "sparse of old GNU tar",
        ],
    ),
    known(
        "Go refuses a file for a field that does not concern it; layerd does not look at the field",
        &[
            "major number of a file *",
            "record ctime *",
            "record linkpath with a NUL, of a file",
            "record uname with a NUL, *",
            "records with no key",
        ],
    ),
    known(
        "layerd passes over global headers without reading them; Go wants them sound, and forgets the \
         extended header before one",
        &[
            "a damaged global header",
            "a global header between",
            "type 'g'",
        ],
    ),
    known(
        "an owner, group, mode or device number that no file can have is refused; containerd cuts \
         off what does not fit, so that the file belongs to another",
        &[
            "uid binary and negative",
            "uid binary and too large",
            "gid binary and negative",
            "gid binary and too large",
            "mode binary and negative",
            "major number of a device binary and *",
            "record uid negative",
            "record gid negative",
        ],
    ),
    known(
        "a sign before a number is none of pax, and no program is known to write one; Go reads it",
        &[
            "record uid with a plus sign",
            "record gid with a plus sign",
            "record size with a plus sign",
            "record mtime with a plus sign",
            "record atime with a plus sign",
            "records with a length with a plus sign",
            "sparse 1.0 with a sign",
        ],
    ),
    known(
        "a sparse file of a version that is not known is refused; containerd takes its map for content",
        &[
            "record GNU.sparse.major *",
            "sparse an unknown version",
            "sparse 1.0 without a size",
        ],
    ),
    known(
        "layerd reads maps of sparse files that Go refuses: without a length, and in records that Go \
         wants in one order only",
        &["sparse 0.0*", "sparse 0.1 without a size"],
    ),
    known(
        "GNU tar writes an equals sign in the name of an attribute as %3D, and layerd does; containerd \
         takes the three letters for the name",
        &["record SCHILY.xattr.user.a%3Db *"],
    ),
    known(
        "a deletion is of what is below, as the image specification has it; containerd deletes in a \
         mount also what the same layer brought",
        &["a whiteout of a file of the layer"],
    ),
    known(
        "a blob whose media type says that it is plain is decompressed if it begins so and is no \
         archive; containerd says that the archive is damaged",
        &["gzip that says it is plain"],
    ),
    known(
        "containerd sets the times of directories by name at the end, and fails where the name is that of a \
         dangling symlink by then; layerd sets those of what is there",
        &["a symlink in the place of a directory"],
    ),
    Known {
        reason: "igzip, which containerd 2 calls where it is installed, passes over what follows the \
                 last member; Go's gzip, which it uses otherwise, refuses it as layerd does",
        cases: &["gzip with zeros behind", "gzip with text behind"],
        only: Some(Version::V2_1),
    },
];

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Holds what was found to what is known.
pub(crate) fn check(version: Version, found: &BTreeMap<String, String>, cases: usize) {
    let known = || {
        KNOWN
            .iter()
            .filter(|known| known.only.is_none_or(|only| only == version))
    };
    let is_known =
        |name: &str| known().any(|known| known.cases.iter().any(|case| fits(case, name)));
    let unknown = found.iter().filter(|(name, _)| !is_known(name));
    let mut wrong: Vec<String> = unknown
        .map(|(name, difference)| format!("{name}: {difference}"))
        .collect();
    for known in known() {
        let gone = |case: &&&str| !found.keys().any(|name| fits(case, name));
        let gone = known.cases.iter().filter(gone);
        wrong.extend(gone.map(|case| format!("{case}: alike by now, though {}", known.reason)));
    }
    eprintln!("{cases} archives, {} differences", found.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
