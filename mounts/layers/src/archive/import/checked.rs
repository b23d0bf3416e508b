//! Checks of an archive's entries, before files are made of them.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::dir_stack;
use crate::error::Error;
use crate::node::{self, Attributes, Kind};
use crate::tar::Entry;

pub(super) fn refused(path: &[u8], problem: &'static str) -> Error {
    let shown = &path[..path.len().min(200)];
    let path = PathBuf::from(OsStr::from_bytes(shown));
    Error::Refused { path, problem }
}

/// The components of a path in an archive: relative, and never up.
pub(super) fn names(path: &[u8]) -> Result<Vec<CString>, Error> {
    if path.is_empty() {
        return Err(refused(path, "an empty name"));
    }
    if path.len() > dir_stack::LONGEST_PATH {
        return Err(Error::TooLong {
            path: PathBuf::from(OsStr::from_bytes(&path[..200])),
            length: path.len(),
            limit: dir_stack::LONGEST_PATH,
        });
    }
    if path.starts_with(b"/") {
        return Err(refused(path, "an absolute path"));
    }
    let parts = path.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    parts
        .map(|part| match part {
            b".." => Err(refused(path, "a path that leads up")),
            part if part.len() > LONGEST_NAME => Err(refused(path, "a name of over 255 bytes")),
            part => CString::new(part).map_err(|_| refused(path, "a NUL in the name")),
        })
        .collect()
}

/// Bytes of one name that the kernel takes.
const LONGEST_NAME: usize = 255;

pub(super) fn relative(names: &[CString]) -> PathBuf {
    if names.is_empty() {
        return PathBuf::from(".");
    }
    names
        .iter()
        .map(|name| OsStr::from_bytes(name.to_bytes()))
        .collect()
}

/// Attributes of an entry.
pub(super) fn attributes(entry: &Entry, kind: Kind) -> Result<Attributes, Error> {
    let id = |id: u64, problem| {
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| refused(&entry.path, problem))
    };
    let carried = entry
        .xattrs
        .iter()
        .filter(|(name, _)| node::is_carried(name));
    let xattrs = carried.map(|(name, value)| {
        let name = CString::new(&**name);
        let name = name.map_err(|_| refused(&entry.path, "a NUL in the name of an attribute"))?;
        Ok((name, value.clone()))
    });
    Ok(Attributes {
        kind,
        permissions: entry.permissions,
        uid: id(entry.uid, "an owner that cannot be")?,
        gid: id(entry.gid, "a group that cannot be")?,
        accessed: entry.accessed.unwrap_or(entry.modified),
        modified: entry.modified,
        xattrs: xattrs.collect::<Result<_, Error>>()?,
    })
}
