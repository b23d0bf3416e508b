//! Volumes as archives: export and import.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use layerd_layers::Durable;
use layerd_layers::archive::{self, Exported, Imported};
use layerd_store::{Refusal, Volume, VolumeId, VolumeName};
use tracing::info;

use super::progress::Telling;
use super::sizes::{limit_asked, limit_of};
use super::{CreateVolume, VolumeEntry, VolumeRef, new_volume, top};
use crate::reserve::Area;
use crate::{Error, VolumeError, Volumes};

/// Content of a new volume.
#[derive(Debug)]
pub struct Filled {
    /// The volume.
    pub volume: VolumeEntry,
    /// Names made.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Set if the archive had a checksum, which matched.
    pub verified: bool,
}

/// Limits for an archive.
struct Room {
    files: u64,
    bytes: u64,
}

impl Volumes {
    /// Writes a volume to `out` as a tar archive. Pieces are written as they are read.
    ///
    /// # Errors
    /// `Missing`; `Internal` if it cannot be read or `out` fails.
    pub fn export_volume(&self, name: &VolumeName, out: impl Write) -> Result<Exported, Error> {
        let source = self.pinned(&VolumeRef::Name(name.clone()))?;
        let data = self.open_content(source.id())?;
        let options = archive::ExportOptions {
            progress: &self.until_stop(),
            ..archive::ExportOptions::default()
        };
        let exported = archive::export(data.as_fd(), out, &options);
        exported.map_err(|cause| Error::Copy {
            attempt: "export a volume",
            cause,
        })
    }

    /// Creates a volume from a tar archive. It appears whole and durable, or not at all.
    ///
    /// # Errors
    /// `Exists` if the name is taken; `Invalid` if the archive is malformed or reaches out of the
    /// volume; `Full`, also if it holds more than the disk can take without the share that is to
    /// stay free.
    pub fn import_volume(&self, request: &CreateVolume, input: impl Read) -> Result<Filled, Error> {
        if let Some(name) = &request.name
            && self.root.store.records().volumes().find(name).is_some()
        {
            return Err(Refusal::VolumeTaken { name: name.clone() }.into());
        }
        self.root.check_reserve(Area::Volumes)?;
        let id = self.root.store.volume_id()?;
        let limit = limit_asked(&request.options)?;
        let volume = new_volume(id, request, "archive".to_owned(), None, self.held_by(limit))?;
        let data = self.stage(id, top(request)?, limit)?;
        let imported = self.unpack(input, &volume, &data)?;
        // The call that the archive came with, if another one was first, is answered with that
        // one's refusal: its content is not this one's.
        let (volume, created) = self.publish_volume(volume, request)?;
        if !created {
            let name = volume.volume.name.clone();
            return Err(Refusal::VolumeTaken { name }.into());
        }
        info!(name = %volume.volume.name, files = imported.files, bytes = imported.bytes, "volume imported");
        Ok(Filled {
            volume,
            files: imported.files,
            bytes: imported.bytes,
            verified: imported.verified,
        })
    }

    /// Makes the files of an archive in the staged content of `volume`; after a failure nothing
    /// stays staged.
    fn unpack(
        &self,
        input: impl Read,
        volume: &Volume,
        staged: &OwnedFd,
    ) -> Result<Imported, Error> {
        // The file system of one with a limit says by itself when it is full.
        let room = match limit_of(volume) {
            None => self.room(),
            Some(_) => Room {
                files: u64::MAX,
                bytes: u64::MAX,
            },
        };
        let progress = self.telling(volume.name.as_str(), 0);
        let options = archive::ImportOptions {
            most_files: room.files,
            most_bytes: room.bytes,
            durable: Durable::Content,
            progress: &progress,
            ..archive::ImportOptions::default()
        };
        let imported = archive::import(input, staged.as_fd(), &options)
            .map_err(|cause| self.no_import(volume.id, &progress, cause))?;
        self.finish_stage(volume, staged)?;
        Ok(imported)
    }

    fn no_import(
        &self,
        id: VolumeId,
        progress: &Telling<'_>,
        cause: layerd_layers::Error,
    ) -> Error {
        let limit = match &cause {
            layerd_layers::Error::Limit { what, limit } => Some((*what, *limit)),
            _ => None,
        };
        let failed = self.drop_staged(id, "import a volume", progress, cause);
        match limit {
            None => failed,
            Some((what, limit)) => Error::Volume(VolumeError::NoRoom {
                what,
                limit,
                keep_percent: self.root.options.import_keep_percent,
            }),
        }
    }

    /// Free space and inodes of the disk, without the share that is to stay free. No limit where the
    /// disk does not report them, nor for inodes on file systems without an inode table.
    fn room(&self) -> Room {
        let Ok(disk) = self.dirs.space() else {
            return Room {
                files: u64::MAX,
                bytes: u64::MAX,
            };
        };
        let share = |free: u64, all: u64| {
            let keep = u128::from(all) * u128::from(self.root.options.import_keep_percent) / 100;
            free.saturating_sub(u64::try_from(keep).unwrap_or(u64::MAX))
        };
        Room {
            files: match disk.inodes {
                0 => u64::MAX,
                all => share(disk.inodes_free, all),
            },
            bytes: share(disk.bytes_free, disk.bytes),
        }
    }
}
