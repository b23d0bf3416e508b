//! POSIX access lists in the form of their extended attributes: a version, then entries of tag,
//! permissions and id. The kernel hands them to EROFS as they are, so they are checked here.

use super::format::{le16, le32};

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The list as the kernel stores it: with the permissions of `mode`, if that is given, as chmod(2)
/// puts them in. `None` for a list without entries, or one that says no more than a mode.
pub(super) fn normalised(value: &[u8], mode: Option<u16>) -> Result<Option<Vec<u8>>, &'static str> {
    let Some((header, entries)) = value.split_at_checked(HEADER) else {
        return Err("an access list needs 4 bytes at least");
    };
    if le32(header, 0) != VERSION {
        return Err("an access list of another version than 2");
    }
    if !entries.len().is_multiple_of(ENTRY) {
        return Err("an access list with part of an entry");
    }
    if entries.is_empty() {
        return Ok(None);
    }
    check(entries)?;
    let has = |tag| {
        entries
            .chunks_exact(ENTRY)
            .any(|entry| le16(entry, 0) == tag)
    };
    let is_minimal = !has(USER) && !has(GROUP) && !has(MASK);
    let Some(mode) = mode else {
        return Ok(Some(value.to_vec())); // a default list may be minimal
    };
    if is_minimal {
        return Ok(None);
    }
    let mut out = value.to_vec();
    for entry in out[HEADER..].chunks_exact_mut(ENTRY) {
        let shift = match le16(entry, 0) {
            USER_OBJ => 6,
            MASK => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2..4].copy_from_slice(&(mode >> shift & 7).to_le_bytes());
    }
    Ok(Some(out))
}

/// Checks the order of tags, and that those are there that must be.
fn check(entries: &[u8]) -> Result<(), &'static str> {
    let mut last = 0;
    let mut seen = 0;
    for entry in entries.chunks_exact(ENTRY) {
        let (tag, permissions) = (le16(entry, 0), le16(entry, 2));
        let is_repeatable = matches!(tag, USER | GROUP);
        if !matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) {
            return Err("an access list with an unknown tag");
        }
        if tag < last || (tag == last && !is_repeatable) {
            return Err("an access list whose entries are not in order");
        }
        if permissions > 7 {
            return Err("an access list with unknown permissions");
        }
        if is_repeatable && le32(entry, 4) == u32::MAX {
            return Err("an access list with an id that cannot be");
        }
        last = tag;
        seen |= tag;
    }
    let base = USER_OBJ | GROUP_OBJ | OTHER;
    let needs_mask = seen & (USER | GROUP) != 0 && seen & MASK == 0;
    if seen & base != base || needs_mask {
        return Err("an access list without one of the entries that each must have");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ID: u32 = u32::MAX;
    const OWNER: (u16, u16, u32) = (USER_OBJ, 6, NO_ID);
    const GROUP_OF_FILE: (u16, u16, u32) = (GROUP_OBJ, 4, NO_ID);
    const OTHERS: (u16, u16, u32) = (OTHER, 0, NO_ID);

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn the_mode_is_put_into_owner_mask_and_others() {
        let given = list(&[
            OWNER,
            (USER, 7, 1000),
            GROUP_OF_FILE,
            (GROUP, 5, 7),
            (GROUP, 1, 8),
            (MASK, 7, NO_ID),
            OTHERS,
        ]);
        let wanted = list(&[
            (USER_OBJ, 7, NO_ID),
            (USER, 7, 1000),
            GROUP_OF_FILE,
            (GROUP, 5, 7),
            (GROUP, 1, 8),
            (MASK, 5, NO_ID),
            (OTHER, 1, NO_ID),
        ]);
        assert_eq!(normalised(&given, Some(0o751)), Ok(Some(wanted)));
        assert_eq!(
            normalised(&given, None),
            Ok(Some(given.clone())),
            "a default list has no mode"
        );
    }

    #[test]
    fn a_list_that_says_no_more_than_a_mode_is_left_out() {
        let minimal = list(&[OWNER, GROUP_OF_FILE, OTHERS]);
        assert_eq!(normalised(&minimal, Some(0o640)), Ok(None));
        assert_eq!(normalised(&minimal, None), Ok(Some(minimal.clone())));
        assert_eq!(normalised(&list(&[]), Some(0o640)), Ok(None));
        assert_eq!(normalised(&list(&[]), None), Ok(None));
        // A mask alone is more.
        let masked = list(&[OWNER, GROUP_OF_FILE, (MASK, 4, NO_ID), OTHERS]);
        assert_eq!(normalised(&masked, Some(0o640)), Ok(Some(masked)));
    }

    #[test]
    fn malformed_lists_are_refused_by_their_rule() {
        let tag = "an access list with an unknown tag";
        let order = "an access list whose entries are not in order";
        let lacks = "an access list without one of the entries that each must have";
        let mask = (MASK, 7, NO_ID);
        let user = |id| (USER, 7, id);
        let cases = [
            (vec![OWNER, (0x40, 0, NO_ID), OTHERS], tag),
            (vec![(0, 0, NO_ID), OWNER, GROUP_OF_FILE, OTHERS], tag),
            (vec![OWNER, OTHERS, GROUP_OF_FILE], order),
            (vec![OWNER, OWNER, GROUP_OF_FILE, OTHERS], order),
            (
                vec![OWNER, GROUP_OF_FILE, (OTHER, 8, NO_ID)],
                "an access list with unknown permissions",
            ),
            (
                vec![OWNER, user(NO_ID), GROUP_OF_FILE, mask, OTHERS],
                "an access list with an id that cannot be",
            ),
            (
                vec![OWNER, GROUP_OF_FILE, (GROUP, 7, NO_ID), mask, OTHERS],
                "an access list with an id that cannot be",
            ),
            (vec![GROUP_OF_FILE, OTHERS], lacks),
            (vec![OWNER, OTHERS], lacks),
            (vec![OWNER, GROUP_OF_FILE], lacks),
            (vec![OWNER, user(7), GROUP_OF_FILE, OTHERS], lacks),
            (vec![OWNER, GROUP_OF_FILE, (GROUP, 7, 7), OTHERS], lacks),
        ];
        for (entries, why) in cases {
            assert_eq!(normalised(&list(&entries), None), Err(why), "{entries:?}");
        }
        let whole = list(&[OWNER, user(7), user(8), GROUP_OF_FILE, mask, OTHERS]);
        assert!(normalised(&whole, None).is_ok());
        let cut = &whole[..whole.len() - 1];
        let short = "an access list with part of an entry";
        assert_eq!(normalised(cut, None), Err(short));
        let short = "an access list needs 4 bytes at least";
        assert_eq!(normalised(&whole[..3], None), Err(short));
        let mut newer = whole;
        newer[0] = 3;
        let version = "an access list of another version than 2";
        assert_eq!(normalised(&newer, None), Err(version));
    }
}
