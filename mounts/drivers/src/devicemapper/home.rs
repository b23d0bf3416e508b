//! Notes of a root about its pool, in `<root>/d`.
//!
//! `pool` says once which pool it is, and what its devices are like. `state` has two numbers that change:
//! the transaction of the pool that this root has seen last, and a number below which all ids are that a
//! device may have been made with. Both are in one sector, which is written in place and synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use layerd_mounts::Error;
use layerd_mounts::folder::{Folder, open_file, sync_path};

use super::figures::Figures;
use super::settings::FileSystem;

/// Name of the folder below the root.
pub(crate) const HOME: &str = "d";

/// The pool of a root, and its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) pool: String,
    pub(super) file_system: FileSystem,
    /// Size of each device.
    pub(super) sectors: u64,
    /// Figures of the base, once it is made.
    pub(super) base: Option<Figures>,
}

impl Note {
    /// The note of a root; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; `InvalidData` if it is not as it was written.
    pub(super) fn read(root: &Path) -> Result<Option<Self>, Error> {
        let path = path(root, "pool");
        let Some(text) = content(&path)? else {
            return Ok(None);
        };
        Self::parse(&text).map(Some).ok_or_else(|| bad(&path))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        };
        let name = value("file_system")?;
        let mut all = FileSystem::ALL.into_iter();
        Some(Self {
            pool: value("pool")?.to_owned(),
            file_system: all.find(|file_system| file_system.name() == name)?,
            sectors: value("sectors")?.parse().ok()?,
            base: match value("base") {
                None => None,
                Some(figures) => Some(figures.parse().ok()?),
            },
        })
    }

    fn text(&self) -> String {
        let Self {
            pool,
            file_system,
            sectors,
            base,
        } = self;
        let base = base.map_or_else(String::new, |figures| format!("base {figures}\n"));
        format!("pool {pool}\nfile_system {file_system}\nsectors {sectors}\n{base}")
    }

    /// Writes it in place of another one, durably.
    pub(super) fn write(&self, home: &Folder) -> Result<(), Error> {
        let (path, new) = (home.path.join("pool"), home.path.join("pool.new"));
        let write = || {
            let _ = std::fs::remove_file(&new);
            let mut file = created(&new)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|cause| Error::io("write", &path, cause))?;
        sync_path(&home.path)
    }
}

/// The two numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Transaction of the pool.
    pub(super) transaction: u64,
    /// No device was made of an id from this on.
    pub(super) ids_below: u64,
}

impl Numbers {
    /// Those of a root; `None` if it has none.
    ///
    /// # Errors
    /// As for [`Note::read`].
    pub(super) fn read(root: &Path) -> Result<Option<Self>, Error> {
        let path = path(root, "state");
        let Some(text) = content(&path)? else {
            return Ok(None);
        };
        Self::parse(&text).map(Some).ok_or_else(|| bad(&path))
    }

    fn parse(text: &str) -> Option<Self> {
        let (transaction, ids_below) = text.trim_end().split_once(' ')?;
        Some(Self {
            transaction: transaction.parse().ok()?,
            ids_below: ids_below.parse().ok()?,
        })
    }

    /// Of the same length for all numbers, so that a write never leaves a part of an older one.
    fn text(self) -> String {
        format!("{:020} {:020}\n", self.transaction, self.ids_below)
    }
}

/// The file of the two numbers, open.
#[derive(Debug)]
pub(super) struct NumbersFile {
    file: File,
    path: PathBuf,
}

impl NumbersFile {
    /// Opens it; makes it if it is missing, durably.
    pub(super) fn open(home: &Folder) -> Result<Self, Error> {
        let path = home.path.join("state");
        let open = || match open_file(&path, true) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let (new, first) = (home.path.join("state.new"), Numbers::default());
                let _ = std::fs::remove_file(&new);
                let mut file = created(&new)?;
                file.write_all(first.text().as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&new, &path).map(|()| file)
            }
            opened => opened,
        };
        let file = open().map_err(|cause| Error::io("open", &path, cause))?;
        sync_path(&home.path)?;
        Ok(Self { file, path })
    }

    /// Durable on return.
    pub(super) fn write(&self, numbers: Numbers) -> Result<(), Error> {
        let written = self.file.write_all_at(numbers.text().as_bytes(), 0);
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(|cause| Error::io("write", &self.path, cause))
    }
}

fn path(root: &Path, name: &str) -> PathBuf {
    root.join(HOME).join(name)
}

fn created(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn content(path: &Path) -> Result<Option<String>, Error> {
    let mut text = String::new();
    match open_file(path, false).and_then(|file| file.take(4096).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io("read", path, cause)),
    }
}

fn bad(path: &Path) -> Error {
    let cause = io::Error::new(io::ErrorKind::InvalidData, "it is not as layerd wrote it");
    Error::io("read", path, cause)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use layerd_mounts::folder::Folder;

    use super::{Note, Numbers, NumbersFile};
    use crate::devicemapper::figures::Figures;
    use crate::devicemapper::settings::FileSystem;

    #[test]
    fn notes_come_back() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Note::read(root.path()).expect("read"), None);
        assert_eq!(Numbers::read(root.path()).expect("read"), None);
        let home = Folder::open(root.path(), c"d").expect("a folder");
        let mut note = Note {
            pool: "a pool".to_owned(),
            file_system: FileSystem::Xfs,
            sectors: 7,
            base: None,
        };
        for base in [None, Some(Figures::default())] {
            note.base = base;
            note.write(&home).expect("write");
            let read = Note::read(root.path()).expect("read");
            assert_eq!(read.as_ref(), Some(&note));
        }
        let file = NumbersFile::open(&home).expect("make");
        let read = || Numbers::read(root.path()).expect("read");
        assert_eq!(read(), Some(Numbers::default()));
        for number in [u64::MAX, 0, 12] {
            let numbers = Numbers {
                transaction: number,
                ids_below: number / 2,
            };
            file.write(numbers).expect("write");
            assert_eq!(read(), Some(numbers));
        }
        drop(NumbersFile::open(&home).expect("open again"));
        assert_eq!(read().map(|numbers| numbers.transaction), Some(12));
    }

    #[test]
    fn others_are_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let home = root.path().join("d");
        fs::create_dir(&home).expect("a directory");
        for text in [
            "",
            "pool x\nfile_system ext4\n",
            "pool x\nfile_system ext2\nsectors 1\n",
            "pool x\nfile_system ext4\nsectors 1\nbase 1\n",
        ] {
            fs::write(home.join("pool"), text).expect("write");
            let refused = Note::read(root.path()).expect_err(text);
            assert!(refused.io_kind().is_some(), "{refused}");
        }
        for text in ["", "1", "1 2 3", "x 1", "1 -1"] {
            fs::write(home.join("state"), text).expect("write");
            assert!(Numbers::read(root.path()).is_err(), "{text:?}");
        }
    }
}
