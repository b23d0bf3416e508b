//! Volumes as archives: export and import.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use layerd_layers::archive::{self, Exported};
use layerd_store::{Refusal, VolumeName};
use tracing::info;

use super::{CreateVolume, VolumeEntry, new_volume, slot, top};
use crate::{Engine, Error};

/// What was put into a new volume.
#[derive(Debug)]
pub struct Filled {
    /// The volume.
    pub volume: VolumeEntry,
    /// Names made.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Engine {
    /// Writes a volume to `out` as a tar archive. Pieces are written as they are read.
    ///
    /// # Errors
    /// `Missing`; `Internal` if it cannot be read or `out` fails.
    pub fn export_volume(&self, name: &VolumeName, out: impl Write) -> Result<Exported, Error> {
        let source = self.pinned(name)?;
        let data = self
            .volume_dirs
            .open_data(slot(source.id()))
            .map_err(Error::driver("open a volume"))?;
        let exported = archive::export(data.as_fd(), out, &archive::ExportOptions::default());
        exported.map_err(|cause| Error::Copy {
            attempt: "export a volume",
            cause,
        })
    }

    /// Creates a volume from a tar archive. It appears whole and durable, or not at all.
    ///
    /// # Errors
    /// `Exists` if the name is taken; `Invalid` if the archive is malformed or reaches out of the
    /// volume; `Full`.
    pub fn import_volume(&self, request: &CreateVolume, input: impl Read) -> Result<Filled, Error> {
        if let Some(name) = &request.name
            && self.store.view().volumes().find(name).is_some()
        {
            return Err(Refusal::VolumeTaken { name: name.clone() }.into());
        }
        let id = self.store.volume_id()?;
        let data = self.volume_dirs.stage(slot(id), top(request)?);
        let data = data.map_err(Error::driver("make the folder of a volume"))?;
        let options = archive::ImportOptions {
            durable: self.how_durable(),
            ..archive::ImportOptions::default()
        };
        let imported = archive::import(input, data.as_fd(), &options);
        let imported = imported.map_err(|cause| self.drop_staged(id, "import a volume", cause))?;
        let volume = new_volume(id, request, "archive".to_owned(), None)?;
        let (volume, _) = self.publish_volume(volume, request)?;
        info!(name = %volume.volume.name, files = imported.files, bytes = imported.bytes, "volume imported");
        Ok(Filled {
            volume,
            files: imported.files,
            bytes: imported.bytes,
        })
    }
}
