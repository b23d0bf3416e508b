//! Files that a command makes for a person: whole and durable, or not at all.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::Error;

const TAKEN: &str = "Name another file, or replace it with --force.";

/// A file that is being written. Dropped before it [`appear`](Self::appear)s, it leaves nothing.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    dir: PathBuf,
    force: bool,
    temporary: NamedTempFile,
}

impl OutputFile {
    /// Looks at what is there, so that no work is done in vain. Only a file is ever replaced, and
    /// only with `force`.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self, Error> {
        check(path, force)?;
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let temporary = NamedTempFile::new_in(&dir).map_err(|cause| failed(path, cause))?;
        let path = path.to_owned();
        Ok(Self {
            path,
            dir,
            force,
            temporary,
        })
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let written = self.temporary.write_all(piece);
        written.map_err(|cause| failed(&self.path, cause))
    }

    /// Brings the file to the disk and gives it its name in one step.
    pub(crate) fn appear(self) -> Result<(), Error> {
        let path = self.path;
        let synced = self.temporary.as_file().sync_all();
        synced.map_err(|cause| failed(&path, cause))?;
        let named = match self.force {
            true => self.temporary.persist(&path),
            false => self.temporary.persist_noclobber(&path),
        };
        match named.map_err(|refused| refused.error) {
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refused(&path, "it is there by now", TAKEN));
            }
            Err(cause) => return Err(failed(&path, cause)),
        }
        let synced = fs::File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|cause| failed(&path, cause))
    }
}

/// Refuses to write binary data to a terminal.
pub(crate) fn refuse_terminal(what: &str) -> Result<(), Error> {
    if !io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Error::Refused {
        what: what.to_owned(),
        why: "it is not text, and standard output is a terminal".to_owned(),
        hint: "Name a file, or send the output somewhere.".to_owned(),
    })
}

fn check(path: &Path, force: bool) -> Result<(), Error> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.is_file() {
        return Err(refused(
            path,
            "something that is no file is there",
            "Name another file; `-` writes to standard output.",
        ));
    }
    if !force {
        return Err(refused(path, "it is there already", TAKEN));
    }
    Ok(())
}

fn failed(path: &Path, cause: io::Error) -> Error {
    Error::Io {
        what: format!("write {}", path.display()),
        cause,
    }
}

fn refused(path: &Path, why: &str, hint: &str) -> Error {
    Error::Refused {
        what: format!("write {}", path.display()),
        why: why.to_owned(),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{OutputFile, check};
    use std::fs;
    use std::path::Path;

    #[test]
    fn only_files_are_replaced_and_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        check(&file, false).unwrap();
        fs::write(&file, "old").unwrap();
        assert!(check(&file, false).is_err());
        check(&file, true).unwrap();
        for other in [Path::new("/dev/null"), dir.path()] {
            assert!(check(other, true).is_err(), "{}", other.display());
        }
    }

    #[test]
    fn a_file_that_came_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        let ours = |force: bool| {
            let mut ours = OutputFile::create(&path, force).unwrap();
            ours.write(b"ours").unwrap();
            ours
        };
        let first = ours(false);
        fs::write(&path, "theirs").unwrap();
        first.appear().unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        drop(ours(true));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        ours(true).appear().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
