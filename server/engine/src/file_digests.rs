//! Where manifests of unpacked layers lie: `<root>/m/<id>`, one for a layer, named as its directory.
//!
//! A manifest counts only beside the record of a committed snapshot, and goes with its layer:
//!
//! | step    | what happens to the manifest | left by a crash: made good as |
//! |---------|------------------------------|-------------------------------|
//! | Apply   | written beside the layer; if that fails, or the layer held something before, deleted | part of one, or one whose layer others may write to: no record of a committed snapshot, deleted at start |
//! | Commit  | stays if nobody else can have written to the layer; else deleted, **durable before the record** | one of a snapshot that is active: deleted at start |
//! | Remove, restore | stays                | |
//! | reap    | deleted after the layer, before the record is dropped | one without a record: deleted at start |
//!
//! So it never says anything of what it was not made of, and nothing waits for it: with
//! [`Durability::Full`](crate::Durability) it is as durable as the layer when Commit answers; else a
//! power cut may cut it off like any file of the layer, which its own digest shows.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use layerd_layers::Durable;
use layerd_layers::file_digests::Writer;
use layerd_mounts::{Error as MountError, Slot};
use layerd_store::{Kind, LayerId, Record};
use tracing::{debug, warn};

use crate::check::Problem;
use crate::{Engine, Error, slot};

/// The folder of manifests.
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

    /// Makes the folder if it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, MountError> {
        let digest_files = Self::of(root);
        let made = DirBuilder::new().mode(0o700).create(&digest_files.folder);
        match made {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("create directory", &digest_files.folder, cause))
            }
            _ => Ok(digest_files),
        }
    }

    pub(crate) fn path(&self, id: LayerId) -> PathBuf {
        self.folder.join(slot(id).to_string())
    }

    /// The manifest of a layer, if there is one.
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
        let mut new = OpenOptions::new();
        let opened = new.write(true).create_new(true).mode(0o600).open(&path);
        opened
            .map(Writer::new)
            .map_err(|cause| failed("create", &path, cause))
    }

    /// Deletes a manifest, and answers whether there was one. Not durable.
    pub(crate) fn remove(&self, id: LayerId) -> Result<bool, MountError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(failed("delete", &path, cause)),
        }
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> Result<(), MountError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| failed("sync", &self.folder, cause))
    }

    /// The layers of which there is one, and what else is in the folder.
    pub(crate) fn list(&self) -> Result<(Vec<LayerId>, Vec<PathBuf>), MountError> {
        let fail = |cause| failed("read directory", &self.folder, cause);
        let entries = match fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            entries => entries.map_err(fail)?,
        };
        let (mut ids, mut strangers) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let slot = entry.file_name().to_str().map(str::parse::<Slot>);
            match slot {
                Some(Ok(slot)) if is_file => ids.push(LayerId(slot.0)),
                _ => strangers.push(entry.path()),
            }
        }
        Ok((ids, strangers))
    }
}

/// What is in the folder of manifests and is none. What cannot be read is not judged here.
pub(crate) fn odd(root: &Path) -> Vec<Problem> {
    let (_, strangers) = DigestFiles::of(root).list().unwrap_or_default();
    let strangers = strangers.into_iter();
    strangers.map(|path| Problem::Stranger { path }).collect()
}

impl Engine {
    /// Begins the manifest of a layer, if one is `wanted`, in place of what is there. A layer does
    /// without one that cannot be written.
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

    /// Ends the manifest of a layer that is whole, and answers whether it has one now.
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

    /// Deletes the manifest of a layer that is not whole. If that fails, Commit tries it again.
    pub(crate) fn drop_digests(&self, id: LayerId) {
        if let Err(cause) = self.digest_files.remove(id) {
            let cause = &cause as &dyn std::error::Error;
            warn!(error = cause, %id, "delete the manifest of a layer that is not whole");
        }
    }

    /// Has a layer keep its manifest only if that was made when the layer was unpacked, and if the
    /// layer is `trusted` to hold nothing else.
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

    /// Deletes what an earlier process left in the folder that counts for nothing. What bears an id
    /// that was never handed out is left alone, like a layer of that id, and so are those of `kept`,
    /// layers that no record names.
    pub(crate) fn remove_stray_digests(&self, kept: &BTreeSet<LayerId>) {
        let ids = match self.digest_files.list() {
            Ok((ids, _)) => ids,
            Err(cause) => {
                let cause = &cause as &dyn std::error::Error;
                return warn!(error = cause, "look for manifests of layers that are gone");
            }
        };
        let view = self.store.records();
        let counts = |id: LayerId| {
            let record = view.get(id).or_else(|| view.get_removed(id));
            record.is_some_and(|record| record.kind == Kind::Committed)
        };
        let is_due =
            |id: &LayerId| self.store.is_issued(id.0) && !kept.contains(id) && !counts(*id);
        for id in ids.into_iter().filter(is_due) {
            debug!(%id, "a manifest of no committed layer is deleted");
            self.drop_digests(id);
        }
    }
}

fn without(id: LayerId, cause: &(dyn std::error::Error + 'static)) {
    warn!(error = cause, %id, "a layer that is unpacked has no manifest");
}

fn failed(attempt: &'static str, path: &Path, cause: io::Error) -> MountError {
    MountError::Io {
        attempt,
        path: path.to_owned(),
        cause,
    }
}
