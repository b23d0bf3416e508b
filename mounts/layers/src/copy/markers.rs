//! The attributes in which overlayfs keeps its notes, and the names that AUFS has for its own.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, shown};
use crate::node::{self, Stat, Xattrs};

/// Prefix of the names of deletions, in layers' archives and in branches of AUFS.
const DELETION: &[u8] = b".wh.";
/// Name of the file with which AUFS marks an opaque directory.
const OPAQUE: &CStr = c".wh..wh..opq";

/// Where the mounts that show the layers look for notes about what is below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Markers {
    /// In `trusted.overlay.*`, as overlayfs does unless told otherwise.
    #[default]
    Trusted,
    /// In `user.overlay.*`, as with the mount option `userxattr`.
    User,
    /// In names, as AUFS does: `.wh.NAME` deletes NAME, `.wh..wh..opq` in a directory hides all that is
    /// below it, and other names with `.wh..wh.` are AUFS's own.
    Aufs,
}

/// Meaning of a name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// Name of a file.
    No,
    /// That what is called so below is deleted.
    Deletes(CString),
    /// Something that the file system keeps for itself, and shows to no one.
    Own,
}

impl Markers {
    /// The attribute of an opaque directory; `None` where it has a file.
    pub(crate) fn opaque(self) -> Option<&'static CStr> {
        match self {
            Self::Trusted => Some(c"trusted.overlay.opaque"),
            Self::User => Some(c"user.overlay.opaque"),
            Self::Aufs => None,
        }
    }

    pub(super) fn redirect(self) -> Option<&'static CStr> {
        match self {
            Self::Trusted => Some(c"trusted.overlay.redirect"),
            Self::User => Some(c"user.overlay.redirect"),
            Self::Aufs => None,
        }
    }

    /// Beginning of the attributes; `None` if there are none.
    fn prefix(self) -> Option<&'static [u8]> {
        match self {
            Self::Trusted => Some(b"trusted.overlay."),
            Self::User => Some(b"user.overlay."),
            Self::Aufs => None,
        }
    }

    /// True if notes are files with names of their own, in place of devices and attributes.
    pub(crate) fn has_names(self) -> bool {
        self == Self::Aufs
    }

    /// Meaning of a name in a directory of a layer.
    pub(crate) fn note(self, name: &CStr) -> Note {
        let rest = name.to_bytes().strip_prefix(DELETION);
        match rest.filter(|_| self.has_names()) {
            None => Note::No,
            Some(rest) if rest.starts_with(DELETION) || rest.is_empty() => Note::Own,
            Some(rest) => CString::new(rest).map_or(Note::Own, Note::Deletes),
        }
    }

    /// The name that says that `name` is deleted; `None` where a device of that name does.
    pub(crate) fn deletion(self, name: &CStr) -> Option<CString> {
        let all = || [DELETION, name.to_bytes()].concat();
        self.has_names()
            .then(|| CString::new(all()).unwrap_or_default())
    }

    /// True if a file says that what has its name below is deleted.
    pub(crate) fn is_whiteout(self, stat: &Stat) -> bool {
        !self.has_names() && stat.is_whiteout()
    }

    /// True if a directory hides what is below it.
    pub(crate) fn is_opaque(self, dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        match self.opaque() {
            Some(name) => {
                let value = node::xattr(&node::proc_path(dir), name)?;
                Ok(value.as_deref() == Some(b"y"))
            }
            None => is_there(dir, OPAQUE),
        }
    }

    /// Has a directory hide what is below it. Answers the number of files made for that.
    pub(crate) fn make_opaque(self, dir: BorrowedFd<'_>) -> Result<u64, Errno> {
        match self.opaque() {
            Some(name) => rustix::fs::fsetxattr(dir, name, b"y", XattrFlags::empty()).map(|()| 0),
            None => make_note(dir, OPAQUE).map(u64::from),
        }
    }

    /// Attributes of a layer's file as a mount shows them, without overlayfs' own. One that a nested
    /// overlay set through the mount lies in the layer with a second `overlay.` in its name, and is
    /// shown without it (from Linux 6.7 on; older kernels hide these as well).
    pub(crate) fn strip(self, xattrs: Xattrs, path: &Path) -> Result<Xattrs, Error> {
        let Some(prefix) = self.prefix() else {
            return Ok(xattrs);
        };
        let mut shown_ones = Vec::new();
        for (name, value) in xattrs {
            match name.to_bytes().strip_prefix(prefix) {
                None => shown_ones.push((name, value)),
                Some(rest) => match rest.strip_prefix(b"overlay.") {
                    Some(rest) => shown_ones.push((nested(prefix, rest), value)),
                    None => refuse(rest, path)?,
                },
            }
        }
        Ok(shown_ones)
    }

    /// The same attributes as a layer keeps them: without overlayfs' own notes, which are of what lies
    /// below, and with those that are hidden for a nested overlay, as they are.
    pub(crate) fn keep(self, xattrs: Xattrs, path: &Path) -> Result<Xattrs, Error> {
        let Some(prefix) = self.prefix() else {
            return Ok(xattrs);
        };
        let mut kept = Vec::new();
        for (name, value) in xattrs {
            match name.to_bytes().strip_prefix(prefix) {
                Some(rest) if !rest.starts_with(b"overlay.") => refuse(rest, path)?,
                _ => kept.push((name, value)),
            }
        }
        Ok(kept)
    }
}

fn nested(prefix: &[u8], rest: &[u8]) -> CString {
    CString::new([prefix, rest].concat()).unwrap_or_default()
}

/// True if a directory has a name.
pub(crate) fn is_there(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Makes an empty file whose name says something; false if it is there.
pub(crate) fn make_note(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // The mode that AUFS gives it.
    match rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o444)) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn refuse(note: &[u8], path: &Path) -> Result<(), Error> {
    let feature = match note {
        b"metacopy" => "metacopy",
        b"redirect" => "redirect_dir",
        b"whiteout" => "whiteouts as attributes",
        _ => return Ok(()),
    };
    let path = shown(path);
    Err(Error::Feature { path, feature })
}
