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
