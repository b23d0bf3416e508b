//! The attributes in which overlayfs keeps its notes.

use std::ffi::{CStr, CString};
use std::path::Path;

use crate::error::{Error, shown};
use crate::node::Xattrs;

/// Where the mounts that show the layers look for overlayfs' own attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Markers {
    /// In `trusted.overlay.*`, as overlayfs does unless told otherwise.
    #[default]
    Trusted,
    /// In `user.overlay.*`, as with the mount option `userxattr`.
    User,
}

impl Markers {
    pub(crate) fn opaque(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
        }
    }

    pub(super) fn redirect(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.redirect",
            Self::User => c"user.overlay.redirect",
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// Attributes of a layer's file as a mount shows them, without overlayfs' own. One that a nested
    /// overlay set through the mount lies in the layer with a second `overlay.` in its name, and is
    /// shown without it (from Linux 6.7 on; older kernels hide these as well).
    pub(crate) fn strip(self, xattrs: Xattrs, path: &Path) -> Result<Xattrs, Error> {
        let mut shown_ones = Vec::new();
        for (name, value) in xattrs {
            match name.to_bytes().strip_prefix(self.prefix()) {
                None => shown_ones.push((name, value)),
                Some(rest) => match rest.strip_prefix(b"overlay.") {
                    Some(rest) => shown_ones.push((self.nested(rest), value)),
                    None => refuse(rest, path)?,
                },
            }
        }
        Ok(shown_ones)
    }

    /// The same attributes as a layer keeps them: without overlayfs' own notes, which are of what lies
    /// below, and with those that are hidden for a nested overlay, as they are.
    pub(crate) fn keep(self, xattrs: Xattrs, path: &Path) -> Result<Xattrs, Error> {
        let mut kept = Vec::new();
        for (name, value) in xattrs {
            match name.to_bytes().strip_prefix(self.prefix()) {
                Some(rest) if !rest.starts_with(b"overlay.") => refuse(rest, path)?,
                _ => kept.push((name, value)),
            }
        }
        Ok(kept)
    }

    fn nested(self, rest: &[u8]) -> CString {
        CString::new([self.prefix(), rest].concat()).unwrap_or_default()
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
