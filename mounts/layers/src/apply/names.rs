//! The names in an archive, made into places below the root of the layer. Pure.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::Error;

/// The components of a path as containerd understands it: cleaned of what leads nowhere by its
/// text alone, and never above the root.
pub(super) fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

/// Meaning of a name in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// Itself.
    Plain,
    /// The name that is deleted.
    Whiteout(&'a [u8]),
    /// All of the directory that is below.
    Opaque,
    /// Nothing that could be.
    Bad,
}

/// Tells whiteouts from other names. Of the names that begin with `.wh..wh.` only one is special:
/// containerd takes the others for whiteouts of a name that begins with `.wh.`.
pub(super) fn meaning(name: &[u8]) -> Name<'_> {
    match name.strip_prefix(b".wh.") {
        None => Name::Plain,
        Some(b".wh..opq") => Name::Opaque,
        Some(b"" | b"." | b"..") => Name::Bad,
        Some(hidden) => Name::Whiteout(hidden),
    }
}

/// A name as the kernel takes it.
pub(super) fn c_name(name: &[u8]) -> Result<CString, Error> {
    CString::new(name).map_err(|_| {
        let path = PathBuf::from(OsStr::from_bytes(&name[..name.len().min(200)]));
        let problem = "a NUL in the name";
        Error::Refused { path, problem }
    })
}

#[cfg(test)]
mod tests {
    use super::{Name, clean, meaning};

    #[test]
    fn paths_stay_below_the_root() {
        let table: &[(&str, &str)] = &[
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a/b", "a/b"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/..", ""),
            ("..", ""),
            ("", ""),
            (".", ""),
            ("/", ""),
            ("...", "..."),
        ];
        for (path, expected) in table {
            let cleaned = clean(path.as_bytes()).join(&b'/');
            assert_eq!(cleaned, expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn whiteouts_are_known_by_name() {
        assert_eq!(meaning(b"a"), Name::Plain);
        assert_eq!(meaning(b"a.wh.b"), Name::Plain);
        assert_eq!(meaning(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(meaning(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk"), Name::Whiteout(b".wh.plnk"));
        assert_eq!(meaning(b".wh..wh..opqx"), Name::Whiteout(b".wh..opqx"));
        assert_eq!(meaning(b".wh...a"), Name::Whiteout(b"..a"));
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(meaning(bad), Name::Bad);
        }
    }
}
