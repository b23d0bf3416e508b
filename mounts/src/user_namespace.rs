//! The user namespace of this process: whether it is the machine's, and the ids that it has.
//!
//! In another one root is root of the files and mounts of that namespace alone. The kernel keeps to root of
//! the machine: devices, quotas, loop devices, attributes in `trusted.`, file systems on disks, and id
//! mappings of mounts of these.

use std::fmt;
use std::fs;
use std::sync::OnceLock;

use crate::types::{IdMap, IdMaps};

/// The user namespace of this process; `None` for the machine's. Read once: a process with threads stays in
/// its own.
#[must_use]
pub fn current() -> Option<&'static UserNamespace> {
    static CURRENT: OnceLock<Option<UserNamespace>> = OnceLock::new();
    let read = || {
        let text = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        UserNamespace::of(&text("uid_map"), &text("gid_map"))
    };
    CURRENT.get_or_init(read).as_ref()
}

/// A user namespace that is not the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    ids: IdMaps,
}

impl UserNamespace {
    /// `None` for maps with all ids, and for none at all, as without /proc.
    fn of(uid_map: &str, gid_map: &str) -> Option<Self> {
        let is_whole = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
        let is_inside = !is_whole && !uid_map.trim().is_empty();
        is_inside.then(|| Self {
            ids: IdMaps {
                uid: uid_map.lines().filter_map(range).collect(),
                gid: gid_map.lines().filter_map(range).collect(),
            },
        })
    }

    /// Mappings from ids within it to those of the namespace above, as the kernel tells them.
    #[must_use]
    pub fn ids(&self) -> &IdMaps {
        &self.ids
    }
}

/// As in "users 0 to 65536, groups 0 to 65536".
impl fmt::Display for UserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ranges: &[IdMap]| match joined(ranges) {
            ranges if ranges.is_empty() => "none".to_owned(),
            ranges => ranges.join(", "),
        };
        write!(f, "users {}", shown(&self.ids.uid))?;
        write!(f, ", groups {}", shown(&self.ids.gid))
    }
}

/// Ranges within the namespace, those that follow each other as one.
fn joined(ranges: &[IdMap]) -> Vec<String> {
    let mut ends: Vec<(u32, u32)> = ranges
        .iter()
        .map(|range| {
            (
                range.container,
                range.container.saturating_add(range.length - 1),
            )
        })
        .collect();
    ends.sort_unstable();
    let mut all: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ends {
        match all.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ => all.push((first, last)),
        }
    }
    let shown = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    all.iter().map(shown).collect()
}

/// A line of a map; `None` for what is not three numbers, or has no ids.
fn range(line: &str) -> Option<IdMap> {
    let mut words = line.split_whitespace().map(str::parse);
    let mut next = || words.next()?.ok();
    let range = IdMap {
        container: next()?,
        host: next()?,
        length: next()?,
    };
    (range.length > 0).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::UserNamespace;

    const WHOLE: &str = "         0          0 4294967295\n";

    #[test]
    fn the_machines_own_is_told_apart() {
        assert_eq!(UserNamespace::of(WHOLE, WHOLE), None);
        assert_eq!(UserNamespace::of("", ""), None);
        for inside in ["0 1000 1\n", "0 0 4294967294\n", "0 0 4294967295\n1 1 1\n"] {
            assert!(UserNamespace::of(inside, inside).is_some(), "{inside}");
        }
    }

    #[test]
    fn ranges_are_shown_as_they_are_within() {
        for (uid, gid, shown) in [
            (
                "0 1000 1\n1 100000 65536\n",
                "0 1000 1\n",
                "users 0 to 65536, groups 0",
            ),
            ("5 7 2\n0 1 1\n", "x\n", "users 0, 5 to 6, groups none"),
            (
                "0 0 4294967294\n",
                "1 1 0\n",
                "users 0 to 4294967293, groups none",
            ),
        ] {
            let found = UserNamespace::of(uid, gid).expect("inside");
            assert_eq!(found.to_string(), shown);
        }
    }
}
