//! Attributes of entries as an image stores them.

use crate::apply::attributes::PendingAttributes;
use crate::erofs::{Attributes, FileType, Xattr, is_storable};
use crate::error::Error;
use crate::tar::Entry;

/// Attributes that an entry gives a file of this type.
pub(super) fn of_entry(entry: &Entry, kind: FileType) -> Result<Attributes, Error> {
    Ok(of_pending(PendingAttributes::all(entry)?, kind))
}

/// The same from those that are set on files, without extended ones that the kernel would not take for the type.
pub(super) fn of_pending(pending: PendingAttributes, kind: FileType) -> Attributes {
    let (uid, gid) = pending.owner.unwrap_or_default();
    let permissions = match kind {
        FileType::Symlink => 0o777, // chmod(2) does not reach them
        _ => u16::try_from(pending.mode.unwrap_or(0) & 0o7777).unwrap_or(0),
    };
    let modified = pending.times.last_modification;
    let xattrs = pending.xattrs.into_iter();
    Attributes {
        permissions,
        uid,
        gid,
        modified: (
            modified.tv_sec,
            u32::try_from(modified.tv_nsec).unwrap_or(0),
        ),
        xattrs: xattrs
            .map(|(name, value)| (name.into_bytes(), value))
            .filter(|(name, _)| is_kept(name, kind))
            .collect(),
    }
}

fn is_kept(name: &[u8], kind: FileType) -> bool {
    let has_user = matches!(kind, FileType::Regular | FileType::Directory);
    is_storable(name)
        && (has_user || !name.starts_with(b"user."))
        && (kind != FileType::Symlink || !name.starts_with(b"system."))
}

/// New attributes, with those extended ones of before that they do not replace.
pub(super) fn merge(old: Vec<Xattr>, mut new: Attributes) -> Attributes {
    for (name, value) in old {
        if !new.xattrs.iter().any(|(known, _)| *known == name) {
            new.xattrs.push((name, value));
        }
    }
    new
}
