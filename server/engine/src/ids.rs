//! Ids that something on disk bears, recorded or not. New ones are handed out above all of them: the
//! records may be older than what is on disk, as after a backup of them was put back.

use std::fs;
use std::path::{Path, PathBuf};

use layerd_drivers::Found;
use layerd_mounts::Error as MountError;
use layerd_mounts::volume_dirs::FoundVolumes;

use crate::layers::file_digests::{DigestFiles, Mark};

/// Ids of layers, digest files, marks of layers, volumes and mount points, but for those in `lost/`.
///
/// # Errors
/// [`MountError::Io`] if a directory cannot be read.
pub(crate) fn taken(
    root: &Path,
    layers: &[Found],
    volumes: &FoundVolumes,
) -> Result<Vec<u64>, MountError> {
    let layers = layers.iter().filter_map(|entry| match entry {
        Found::Slot(_, slot) => Some(slot.0),
        Found::UnknownEntry(_) => None,
    });
    let places = [&volumes.live, &volumes.staged, &volumes.trashed];
    let volumes = places.into_iter().flatten().map(|slot| slot.0);
    let (digest_files, _) = DigestFiles::of(root).list()?;
    let digest_files = digest_files.into_iter().map(|id| id.0);
    let digests = DigestFiles::of(root);
    let marks = Mark::ALL.into_iter().flat_map(|mark| digests.marks(mark));
    let marks = marks.map(|id| id.0);
    let mount_points = mount_points(root)?.into_iter().filter_map(|(id, _)| id);
    Ok(layers
        .chain(volumes)
        .chain(digest_files)
        .chain(marks)
        .chain(mount_points)
        .collect())
}

/// The mount points of attachments, with the ids that they are named by; none for other names.
///
/// # Errors
/// [`MountError::Io`].
pub(crate) fn mount_points(root: &Path) -> Result<Vec<(Option<u64>, PathBuf)>, MountError> {
    let folder = root.join("mnt");
    let fail = |cause| MountError::Io {
        attempt: "read directory",
        path: folder.clone(),
        cause,
    };
    let entries = match fs::read_dir(&folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let id = |name: &str| name.parse::<u64>().ok().filter(|id| id.to_string() == name);
    entries
        .map(|entry| {
            let entry = entry.map_err(fail)?;
            Ok((entry.file_name().to_str().and_then(id), entry.path()))
        })
        .collect()
}
