//! A managed file: this program replaces it until another program or a person edits it.
//!
//! The first line carries a checksum of the others. A file without it, or with a wrong one, is a
//! person's work and is neither replaced nor removed.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::host_file;

const MARK: &str =
    "# Written by `layerctl setup`; do not edit, it would no longer be updated. Checksum: ";

/// Owner of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is no file.
    Absent,
    /// This program's; what it wrote.
    Us(String),
    /// A person's, or edited by one.
    Foreign(String),
}

/// Outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The file is as wanted now.
    Now,
    /// It was before.
    Already,
}

/// `body` with its mark.
pub(crate) fn sealed(body: &str) -> String {
    format!("{MARK}{:016x}\n{body}", xxh3_64(body.as_bytes()))
}

/// Owner of the file at `path`.
pub(crate) fn owner(path: &Path) -> io::Result<Owner> {
    let bytes = match host_file::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Owner::Absent),
        Err(cause) => return Err(cause),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match is_sealed(&text) {
        true => Owner::Us(text),
        false => Owner::Foreign(text),
    })
}

/// True for a text that has its mark and was not edited.
pub(crate) fn is_sealed(text: &str) -> bool {
    let body = text.split_once('\n').map(|(_, body)| body);
    body.is_some_and(|body| sealed(body) == text)
}

/// Removes `path` durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The lines that differ, as in a patch: `-` is in `old`, `+` in `new`.
pub(crate) fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = old
        .iter()
        .zip(&new)
        .take_while(|(old, new)| old == new)
        .count();
    let rest = old[same..].iter().rev().zip(new[same..].iter().rev());
    let tail = rest.take_while(|(old, new)| old == new).count();
    let gone = old[same..old.len() - tail]
        .iter()
        .map(|line| format!("-{line}\n"));
    let come = new[same..new.len() - tail]
        .iter()
        .map(|line| format!("+{line}\n"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::{Owner, difference, owner, remove, sealed};
    use crate::atomic_file::replace;
    use std::fs;

    #[test]
    fn a_file_is_ours_until_it_is_edited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf.d/layerd.toml");
        assert_eq!(owner(&path).unwrap(), Owner::Absent);
        let text = sealed("a = 1\n");
        replace(&path, text.as_bytes()).unwrap();
        assert_eq!(owner(&path).unwrap(), Owner::Us(text.clone()));
        for edited in [
            format!("{text}b = 2\n"),
            text.replace("a = 1", "a = 2"),
            String::new(),
        ] {
            fs::write(&path, &edited).unwrap();
            assert_eq!(owner(&path).unwrap(), Owner::Foreign(edited));
        }
        fs::write(&path, b"\xff\n\xff").unwrap();
        assert!(matches!(owner(&path).unwrap(), Owner::Foreign(_)));
    }

    #[test]
    fn replacing_leaves_nothing_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layerd.toml");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        assert_eq!(owner(&path).unwrap(), Owner::Absent);
    }

    #[test]
    fn differences_leave_out_what_is_the_same() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "-b\n+x\n+y\n");
        assert_eq!(difference("a\n", "a\n"), "");
        assert_eq!(difference("a\na\n", "a\n"), "-a\n");
        assert_eq!(difference("", "a\n"), "+a\n");
    }
}
