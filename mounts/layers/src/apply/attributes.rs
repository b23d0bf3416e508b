//! Attributes of an entry, set in containerd's order: owner, extended attributes, mode, times. Writing
//! and a change of owner clear capabilities and setuid bits.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::apply::names::c_name;
use crate::error::Error;
use crate::node::{self, Failed, Xattrs, owner_attempt, xattr_attempt};
use crate::tar::Entry;

/// The last moment that fits in nanoseconds since 1970, as 64 bits with a sign.
const LAST: (i64, i64) = (i64::MAX / 1_000_000_000, i64::MAX % 1_000_000_000);

/// Owner and group.
pub(super) type Owner = (u32, u32);

/// Attributes still to be set on a file.
#[derive(Debug, Clone)]
pub(super) struct PendingAttributes {
    /// If it differs from what the file got when it was made.
    pub(super) owner: Option<Owner>,
    pub(super) xattrs: Xattrs,
    /// Likewise.
    pub(super) mode: Option<u32>,
    pub(super) times: Timestamps,
}

impl PendingAttributes {
    /// Everything that an entry says.
    pub(super) fn all(entry: &Entry) -> Result<Self, Error> {
        Ok(Self {
            owner: Some(owner(entry)?),
            xattrs: xattrs(entry)?,
            mode: Some(entry.permissions),
            times: times(entry),
        })
    }

    /// Attributes of an entry that differ from those of a file just made by `us`, with its mode, in a
    /// plain directory.
    pub(super) fn rest(entry: &Entry, us: Owner) -> Result<Self, Error> {
        let mut attributes = Self::all(entry)?;
        attributes.owner = attributes.owner.filter(|owner| *owner != us);
        // What the kernel does to these three bits depends on more than is known here.
        let plain_mode = entry.permissions & 0o7000 == 0;
        if plain_mode && !attributes.xattrs.iter().any(|(name, _)| is_acl(name)) {
            attributes.mode = None;
        }
        Ok(attributes)
    }

    /// True if files made in a directory with these attributes get our owner and the requested mode.
    pub(super) fn keeps_plain(&self, us: Owner) -> bool {
        self.owner.is_none_or(|(_, group)| group == us.1)
            && self.mode.is_none_or(|mode| mode & libc::S_ISGID == 0)
            && !self.xattrs.iter().any(|(name, _)| is_acl(name))
    }

    /// Gives it to an open file or directory.
    pub(super) fn to(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        self.but_times(file)?;
        rustix::fs::futimens(file, &self.times).map_err(|cause| ("set the times of".into(), cause))
    }

    /// The same without times: those of a directory would not last.
    pub(super) fn but_times(&self, file: BorrowedFd<'_>) -> Result<(), Failed> {
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))
                .map_err(|cause| (owner_attempt(uid.as_raw(), gid.as_raw(), cause), cause))?;
        }
        for (name, value) in &self.xattrs {
            let set = rustix::fs::fsetxattr(file, name.as_c_str(), value, XattrFlags::empty());
            passed_over(set, name, false)?;
        }
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
                .map_err(|cause| ("change the mode of".into(), cause))?;
        }
        Ok(())
    }

    /// Gives it to what is not opened: symlinks, devices, FIFOs, and further names of files.
    pub(super) fn to_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        is_link: bool,
    ) -> Result<(), Failed> {
        if let Some((uid, gid)) = self.owner {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|cause| (owner_attempt(uid, gid, cause), cause))?;
        }
        if !self.xattrs.is_empty() {
            let (found, stat) = node::find(dir, name).map_err(|cause| ("look at".into(), cause))?;
            let path = node::proc_path(std::os::fd::AsFd::as_fd(&found));
            let special = stat.kind() != node::Kind::Regular;
            for (name, value) in &self.xattrs {
                let set = rustix::fs::setxattr(&*path, &**name, value, XattrFlags::empty());
                passed_over(set, name, special)?;
            }
        }
        if let Some(mode) = self.mode.filter(|_| !is_link) {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(|cause| ("change the mode of".into(), cause))?;
        }
        rustix::fs::utimensat(dir, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| ("set the times of".into(), cause))
    }
}

/// Ignores attributes that the file system does not support, and `user.*` on files that are neither
/// regular nor directories.
fn passed_over(set: Result<(), Errno>, name: &CStr, special: bool) -> Result<(), Failed> {
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if special && name.to_bytes().starts_with(b"user.") => Ok(()),
        other => other.map_err(|cause| (xattr_attempt(name), cause)),
    }
}

fn is_acl(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}

fn owner(entry: &Entry) -> Result<Owner, Error> {
    let id = |id: u64, problem| {
        let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| refused(&entry.path, problem))
    };
    Ok((
        id(entry.uid, "an owner that cannot be")?,
        id(entry.gid, "a group that cannot be")?,
    ))
}

/// Attributes of the archive but those in which overlayfs, or another program of root's, keeps
/// its own notes: containerd sets none of them either.
fn xattrs(entry: &Entry) -> Result<Xattrs, Error> {
    let given = entry.xattrs.iter();
    let given = given.filter(|(name, _)| !name.starts_with(b"trusted."));
    given
        .map(|(name, value)| Ok((c_name(name)?, value.clone())))
        .collect::<Result<Vec<(CString, Vec<u8>)>, Error>>()
}

fn times(entry: &Entry) -> Timestamps {
    let read = entry.accessed.unwrap_or(entry.modified);
    let later = |one: Timespec, other: Timespec| {
        let key = |time: Timespec| (time.tv_sec, time.tv_nsec);
        if key(one) < key(other) { other } else { one }
    };
    Timestamps {
        last_access: bound(later(read, entry.modified)),
        last_modification: bound(entry.modified),
    }
}

/// Times that containerd cannot express become the first of 1970.
fn bound(time: Timespec) -> Timespec {
    if time.tv_sec < 0 || (time.tv_sec, time.tv_nsec) > LAST {
        return node::timespec(0, 0);
    }
    time
}

/// An entry that cannot be.
pub(super) fn refused(path: &[u8], problem: &'static str) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let shown = &path[..path.len().min(200)];
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(shown));
    Error::Refused { path, problem }
}
