//! Extended attributes as they lie behind an inode.

use super::acl;
use super::error::Error;
use super::file::{FileType, Xattr};
use super::format::{XATTR_ENTRY, XATTR_HEADER, le16};

/// Prefixes that have a number; the rest of the name is stored. Longest first where one begins another.
const PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// Bytes of all attributes of one inode: its count is a number of 16 bits.
const MOST: usize = XATTR_HEADER + 4 * (u16::MAX as usize - 1);

/// Encodes them, sorted. Access lists are made to agree with the mode, as chmod(2) does; one
/// that says no more than the mode is left out, as setxattr(2) does. Empty if there are none.
pub(super) fn encode(xattrs: &[Xattr], mode: u16) -> Result<Vec<u8>, Error> {
    let mut entries = xattrs
        .iter()
        .map(|(name, value)| entry(name, value, mode))
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, Error>>()?;
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    entries.sort_unstable();
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(refused(&full_name(&pair[0].0), "it is there twice"));
    }
    let mut out = vec![0; XATTR_HEADER];
    for ((index, suffix), value) in entries {
        let (name_len, value_len) = (suffix.len(), value.len());
        let too_long = |problem| refused(&full_name(&(index, suffix)), problem);
        let name_len = u8::try_from(name_len)
            .map_err(|_| too_long("its name has more than 255 bytes behind the prefix"))?;
        let value_len = u16::try_from(value_len)
            .map_err(|_| too_long("its value has more than 65,535 bytes"))?;
        out.extend_from_slice(&[name_len, index]);
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(suffix);
        out.extend_from_slice(&value);
        out.resize(out.len().next_multiple_of(XATTR_ENTRY), 0);
        if out.len() > MOST {
            return Err(too_long(
                "all attributes of the file have more than 262,148 bytes",
            ));
        }
    }
    Ok(out)
}

type Entry<'a> = ((u8, &'a [u8]), Vec<u8>);

fn entry<'a>(name: &'a [u8], value: &[u8], mode: u16) -> Result<Option<Entry<'a>>, Error> {
    let (index, suffix) = split(name)?;
    if index == 3 && FileType::of_mode(mode) != Some(FileType::Directory) {
        return Err(refused(name, "only a directory has a default access list"));
    }
    if index == 2 && FileType::of_mode(mode) == Some(FileType::Symlink) {
        return Err(refused(name, "a symlink has no access list"));
    }
    let value = match index {
        2 | 3 => acl::normalised(value, (index == 2).then_some(mode))
            .map_err(|problem| refused(name, problem))?,
        6 if suffix == b"capability" && !is_capability(value) => {
            return Err(refused(
                name,
                "the kernel takes versions 2 and 3 of 20 and 24 bytes",
            ));
        }
        _ => Some(value.to_vec()),
    };
    Ok(value.map(|value| ((index, suffix), value)))
}

/// True for a set of capabilities that setxattr(2) would take.
fn is_capability(value: &[u8]) -> bool {
    let version = value.get(3).copied();
    matches!((version, value.len()), (Some(2), 20) | (Some(3), 24))
}

/// Prefix number and rest of a name.
fn split(name: &[u8]) -> Result<(u8, &[u8]), Error> {
    let mut found = PREFIXES.iter().filter_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        let whole = matches!(index, 2 | 3);
        (rest.is_empty() == whole).then_some((*index, rest))
    });
    let found = found
        .next()
        .ok_or_else(|| refused(name, "EROFS has no such prefix"))?;
    if name.contains(&0) {
        return Err(refused(name, "a NUL in the name"));
    }
    Ok(found)
}

/// True if EROFS can store an extended attribute of this name.
#[must_use]
pub fn is_storable(name: &[u8]) -> bool {
    split(name).is_ok()
}

/// Name of an attribute by number of its prefix and rest; `None` if the number is not known.
pub(super) fn join(index: u8, suffix: &[u8]) -> Option<Vec<u8>> {
    let (_, prefix) = PREFIXES.iter().find(|(known, _)| *known == index)?;
    Some([*prefix, suffix].concat())
}

fn full_name((index, suffix): &(u8, &[u8])) -> Vec<u8> {
    join(*index, suffix).unwrap_or_default()
}

fn refused(name: &[u8], problem: &'static str) -> Error {
    let name = name[..name.len().min(255)].to_vec();
    Error::Xattr { name, problem }
}

/// Decodes what lies behind an inode: numbers of shared attributes, which are positions in a table
/// of the image in units of 4 bytes, are passed over.
pub(super) fn decode(raw: &[u8]) -> Result<Vec<Xattr>, &'static str> {
    let mut found = Vec::new();
    if raw.is_empty() {
        return Ok(found);
    }
    if raw.len() < XATTR_HEADER {
        return Err("attributes that are cut off");
    }
    let mut rest = raw
        .get(XATTR_HEADER + 4 * usize::from(raw[4])..)
        .ok_or("more shared attributes than there is space for")?;
    // What other programs leave of the last 4 bytes is zero.
    while rest.len() >= XATTR_ENTRY && rest[..XATTR_ENTRY] != [0; XATTR_ENTRY] {
        let length = length(rest);
        let entry = rest.get(..length).ok_or("an attribute that is cut off")?;
        found.push(decode_one(entry)?);
        rest = rest
            .get(length.next_multiple_of(XATTR_ENTRY)..)
            .unwrap_or_default();
    }
    Ok(found)
}

/// Bytes of the attribute that begins with these four, which it includes.
pub(super) fn length(head: &[u8]) -> usize {
    XATTR_ENTRY + usize::from(head[0]) + usize::from(le16(head, 2))
}

/// Decodes one attribute, which is whole.
pub(super) fn decode_one(entry: &[u8]) -> Result<Xattr, &'static str> {
    let (suffix, value) = entry[XATTR_ENTRY..].split_at(entry[0].into());
    let name = join(entry[1], suffix).ok_or("an attribute whose prefix is not known")?;
    Ok((name, value.to_vec()))
}
