//! The files of digests of unpacked layers: `<root>/m/<id>`, one for a layer, named as its directory.
//!
//! Such a file counts only beside the record of a committed snapshot, and is deleted with its layer:
//!
//! | step    | effect on the file           | left by a crash: made good as |
//! |---------|------------------------------|-------------------------------|
//! | Apply   | written beside the layer; if that fails, or the layer held something before, deleted | part of one, or one whose layer others may write to: no record of a committed snapshot, deleted at start |
//! | Commit  | stays if no other process can have written to the layer; else deleted, **durable before the record** | one of a snapshot that is active: deleted at start |
//! | Remove, restore | stays                | |
//! | reap    | deleted after the layer, before the record is dropped | one without a record: deleted at start |
//!
//! So it always describes the layer that it was made of. No call waits for it: with
//! [`Durability::Full`](crate::Durability) it is as durable as the layer when Commit answers; else a
//! power cut may cut it off like any file of the layer, which its own digest detects.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use layerd_layers::Durable;
use layerd_layers::file_digests::Writer;
use layerd_mounts::folder::{Folder, sync_path};
use layerd_mounts::{Error as MountError, Slot};
use layerd_store::{Kind, LayerId, Record, file};
use tracing::{debug, warn};

use crate::{Error, Layers, slot};

/// Marks of layers beside their digests, by the end of their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The layer holds part of something (`unpack/partial.rs`).
    Partial,
    /// The layer is damaged (`quarantine/marks.rs`).
    Quarantined,
}

impl Mark {
    pub(crate) const ALL: [Self; 2] = [Self::Partial, Self::Quarantined];

    fn suffix(self) -> &'static str {
        match self {
            Self::Partial => ".part",
            Self::Quarantined => ".quarantined",
        }
    }

    /// The layer whose mark has a name.
    fn layer(self, name: &OsStr) -> Option<LayerId> {
        let slot = name.to_str()?.strip_suffix(self.suffix())?;
        Some(LayerId(slot.parse::<Slot>().ok()?.0))
    }
}

fn is_mark(name: &OsStr) -> bool {
    Mark::ALL.iter().any(|mark| mark.layer(name).is_some())
}

/// Opens a mark to write it anew. A mark that is there is never away meanwhile; anything else of its
/// name is replaced.
fn open_mark(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {
            let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
            let mut old = OpenOptions::new();
            old.write(true)
                .truncate(true)
                .custom_flags(flags)
                .open(path)
        }
        _ => file::create(path),
    }
}

/// The folder of digest files.
#[derive(Debug)]
pub(crate) struct DigestFiles {
    folder: PathBuf,
}

impl DigestFiles {
    /// The folder of a root, whether or not it is there.
    pub(crate) fn of(root: &Path) -> Self {
        let folder = root.join("m");
        Self { folder }
    }

    /// Makes the folder if it is missing. Durable on return: marks in it are.
    pub(crate) fn open(root: &Path) -> Result<Self, MountError> {
        let digest_files = Self::of(root);
        let made = DirBuilder::new().mode(0o700).create(&digest_files.folder);
        match made {
            Ok(()) => sync_path(root)?,
            // A symlink would lead to the files of others.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                drop(Folder::make(root, c"m")?);
            }
            Err(cause) => return Err(failed("create directory", &digest_files.folder, cause)),
        }
        Ok(digest_files)
    }

    pub(crate) fn path(&self, id: LayerId) -> PathBuf {
        self.folder.join(slot(id).to_string())
    }

    /// The digest file of a layer, if there is one.
    pub(crate) fn find(&self, id: LayerId) -> Result<Option<File>, MountError> {
        let path = self.path(id);
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failed("open", &path, cause)),
        }
    }

    fn create(&self, id: LayerId) -> Result<Writer, MountError> {
        let path = self.path(id);
        file::create(&path)
            .map(Writer::new)
            .map_err(|cause| failed("create", &path, cause))
    }

    /// Deletes a digest file; true if there was one. Not durable.
    pub(crate) fn remove(&self, id: LayerId) -> Result<bool, MountError> {
        let path = self.path(id);
        file::remove(&path).map_err(|cause| failed("delete", &path, cause))
    }

    /// Makes the names in the folder durable.
    pub(crate) fn sync(&self) -> Result<(), MountError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| failed("sync", &self.folder, cause))
    }

    /// Marks a layer; `text` is what the mark says. With `durable`, it is on the disk on return.
    pub(crate) fn mark(
        &self,
        id: LayerId,
        mark: Mark,
        text: &str,
        durable: bool,
    ) -> Result<(), MountError> {
        let path = self.mark_path(id, mark);
        let written = open_mark(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        written.map_err(|cause| failed("write", &path, cause))?;
        if durable { self.sync() } else { Ok(()) }
    }

    /// Path of a mark of a layer.
    pub(crate) fn mark_path(&self, id: LayerId, mark: Mark) -> PathBuf {
        self.folder.join(format!("{}{}", slot(id), mark.suffix()))
    }

    /// Deletes a mark of a layer, if it has it. Not durable.
    pub(crate) fn unmark(&self, id: LayerId, mark: Mark) -> Result<(), MountError> {
        let path = self.mark_path(id, mark);
        match file::remove(&path) {
            Ok(_) => Ok(()),
            Err(cause) => Err(failed("delete", &path, cause)),
        }
    }

    /// Deletes all marks of a layer that is gone. Not durable.
    pub(crate) fn unmark_all(&self, id: LayerId) -> Result<(), MountError> {
        Mark::ALL
            .into_iter()
            .try_for_each(|mark| self.unmark(id, mark))
    }

    /// The layers with a mark; none if the folder cannot be read.
    pub(crate) fn marks(&self, mark: Mark) -> Vec<LayerId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| mark.layer(&entry.file_name()))
            .collect()
    }

    /// The layers with a digest file, and unknown entries of the folder.
    pub(crate) fn list(&self) -> Result<(Vec<LayerId>, Vec<PathBuf>), MountError> {
        let fail = |cause| failed("read directory", &self.folder, cause);
        let entries = match fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            entries => entries.map_err(fail)?,
        };
        let (mut ids, mut unknown_entries) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let slot = entry.file_name().to_str().map(str::parse::<Slot>);
            match slot {
                _ if is_file && is_mark(&entry.file_name()) => {}
                Some(Ok(slot)) if is_file => ids.push(LayerId(slot.0)),
                _ => unknown_entries.push(entry.path()),
            }
        }
        Ok((ids, unknown_entries))
    }
}

impl Layers {
    /// Begins the digest file of a layer, if it is `wanted`; deletes an older one. A failure is logged:
    /// the layer then has none.
    pub(crate) fn begin_digests(&self, id: LayerId, wanted: bool) -> Option<Writer> {
        let begun = self.digest_files.remove(id).and_then(|_| {
            let made = wanted.then(|| self.digest_files.create(id));
            made.transpose()
        });
        begun.unwrap_or_else(|cause| {
            without(id, &cause);
            None
        })
    }

    /// Completes the digest file of a whole layer; true if it has one now.
    pub(crate) fn end_digests(
        &self,
        id: LayerId,
        digests: Option<Writer>,
        durable: Durable,
    ) -> bool {
        let Some(digests) = digests else {
            return false;
        };
        let ended = digests.finish(durable);
        match ended {
            Ok(records) => {
                debug!(%id, records, "wrote a manifest");
                true
            }
            Err(cause) => {
                without(id, &cause);
                self.drop_digests(id);
                false
            }
        }
    }

    /// Deletes the digest file of an incomplete layer. If that fails, Commit tries again.
    pub(crate) fn drop_digests(&self, id: LayerId) {
        if let Err(cause) = self.digest_files.remove(id) {
            let cause = &cause as &dyn std::error::Error;
            warn!(error = cause, %id, "delete the manifest of a layer that is not whole");
        }
    }

    /// Deletes the digest file of a layer, unless it was made by this unpacking and the layer is
    /// `trusted` to be unchanged since.
    pub(crate) fn keep_digests_if_trusted(
        &self,
        active: &Record,
        trusted: bool,
    ) -> Result<(), Error> {
        let id = active.id;
        let found = self.unpacks.found(id, &active.key)?;
        if trusted && found.is_some_and(|found| found.digests) {
            return Ok(());
        }
        let removed = self
            .digest_files
            .remove(id)
            .and_then(|was_there| match was_there {
                true => self.digest_files.sync(),
                false => Ok(()),
            });
        removed.map_err(Error::driver(
            "delete the manifest of a layer that others may have written to",
        ))
    }

    /// Deletes digest files without a committed snapshot. Those with an id that was never handed out are
    /// left alone, like a layer of that id, and so are those of `kept`, layers without a record.
    pub(crate) fn remove_stray_digests(&self, kept: &BTreeSet<LayerId>) {
        let ids = match self.digest_files.list() {
            Ok((ids, _)) => ids,
            Err(cause) => {
                let cause = &cause as &dyn std::error::Error;
                return warn!(error = cause, "look for manifests of layers that are gone");
            }
        };
        let view = self.root.store.records();
        let counts = |id: LayerId| {
            let record = view.get(id).or_else(|| view.get_removed(id));
            record.is_some_and(|record| record.kind == Kind::Committed)
        };
        let is_due =
            |id: &LayerId| self.root.store.is_issued(id.0) && !kept.contains(id) && !counts(*id);
        for id in ids.into_iter().filter(is_due) {
            debug!(%id, "a manifest of no committed layer is deleted");
            self.drop_digests(id);
        }
    }
}

fn without(id: LayerId, cause: &(dyn std::error::Error + 'static)) {
    warn!(error = cause, %id, "a layer that is unpacked has no manifest");
}

pub(crate) fn failed(attempt: &'static str, path: &Path, cause: io::Error) -> MountError {
    MountError::Io {
        attempt,
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a journal, a power cut may leave a name with what had its inode before.
    #[test]
    fn marks_and_digests_take_the_place_of_anything() {
        let root = tempfile::tempdir().unwrap();
        let files = DigestFiles::open(root.path()).unwrap();
        let other = root.path().join("other");
        fs::write(&other, "another's").unwrap();
        let id = LayerId(1);
        let before: [&dyn Fn(&Path); 4] = [
            &|path| fs::write(path, "an older mark").unwrap(),
            &|path| fs::create_dir(path).unwrap(),
            &|path| std::os::unix::fs::symlink(&other, path).unwrap(),
            &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
        ];
        for before in before {
            let mark = files.mark_path(id, Mark::Quarantined);
            before(&mark);
            files.mark(id, Mark::Quarantined, "why", true).unwrap();
            assert_eq!(fs::read_to_string(&mark).unwrap(), "why");
            files.unmark_all(id).unwrap();
            before(&mark);
            files.unmark_all(id).unwrap();
            before(&files.path(id));
            drop(files.create(id).unwrap());
            assert!(files.find(id).unwrap().is_some());
            files.remove(id).unwrap();
            assert_eq!(fs::read_dir(root.path().join("m")).unwrap().count(), 0);
            assert_eq!(fs::read_to_string(&other).unwrap(), "another's");
        }
    }

    #[test]
    fn files_of_others_behind_a_symlink_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("1"), "another's").unwrap();
        std::os::unix::fs::symlink(other.path(), root.path().join("m")).unwrap();
        let refused = DigestFiles::open(root.path()).unwrap_err().to_string();
        assert!(refused.contains("open directory"), "{refused}");
        assert!(other.path().join("1").exists());
    }
}
