//! Compares records of volumes and attachments with their folders. Pure, like the rest of the check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use layerd_mounts::Slot;
use layerd_mounts::volume_dirs::FoundVolumes;
use layerd_store::{Attachment, Key, Records, Volume, VolumeId, VolumeName};

use super::{Fix, Problem};
use crate::volume_slot as slot;
use crate::volumes::limit_of;

/// Something about volumes or attachments that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum VolumeProblem {
    /// The folder of a volume, in its place or in the trash, that no record names: it is younger than
    /// the records if these are a backup, and may be the only copy.
    #[error("no record names the volume in {}", path.display())]
    Unrecorded {
        /// Where it is.
        path: PathBuf,
    },
    /// A volume whose making was never acknowledged.
    #[error("volume {id} was left behind by an interrupted call")]
    Abandoned {
        /// The volume.
        id: VolumeId,
    },
    /// A volume whose folder was moved to the trash, or not moved back.
    #[error("the folder of volume {name} is in the trash, but the volume was not deleted")]
    InTrash {
        /// The volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
    },
    /// A volume in the trash whose folder is still in its place.
    #[error("the folder of volume {name} is in its place, but the volume was deleted")]
    NotInTrash {
        /// The volume.
        id: VolumeId,
        /// The name that it had.
        name: VolumeName,
    },
    /// A volume whose content is gone.
    #[error("the folder of volume {name} is missing")]
    NoFolder {
        /// The volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
    },
    /// A volume with a limit whose image is gone, and its content with it, or whose project nothing notes.
    #[error("the image of volume {name} is missing, or the note of its project")]
    NoImage {
        /// The volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
    },
    /// A volume whose image holds no file system that can be mounted.
    #[error("the image of volume {name} cannot be used: {problem}")]
    BadImage {
        /// The volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
        /// The fault.
        problem: String,
    },
    /// A volume that people do not find by its name.
    #[error("the link volumes/by-name/{name} is missing or leads to another volume")]
    NoLink {
        /// The volume.
        id: VolumeId,
        /// Its name.
        name: VolumeName,
    },
    /// A link of a name that no volume has.
    #[error("the link volumes/by-name/{name} leads to no volume of that name")]
    SpareLink {
        /// The name.
        name: String,
    },
    /// An attachment that holds nothing.
    #[error("attachment {key:?} holds a {what} that is not there", key = key.as_str())]
    HoldsNothing {
        /// Its key.
        key: Key,
        /// `volume` or `layer`.
        what: &'static str,
    },
    /// A mount point of an attachment that is gone.
    #[error("no attachment knows the mount point {}", path.display())]
    UnknownMountPoint {
        /// Where it is.
        path: PathBuf,
    },
}

impl VolumeProblem {
    pub(super) fn fix(&self) -> Fix {
        match self {
            Self::Unrecorded { .. } => Fix::OnRequest("move it to lost/"),
            Self::Abandoned { .. } | Self::SpareLink { .. } => Fix::Safe("delete it"),
            Self::InTrash { .. } => Fix::Safe("move it back"),
            Self::NotInTrash { .. } => Fix::Safe("move it to the trash"),
            Self::NoLink { .. } => Fix::Safe("make it anew"),
            Self::NoFolder { .. } | Self::NoImage { .. } | Self::BadImage { .. } => {
                Fix::Advice("put it back from a backup, or delete the volume")
            }
            Self::HoldsNothing { .. } => Fix::Advice("detach it"),
            Self::UnknownMountPoint { .. } => {
                Fix::OnRequest("delete it, unless something is mounted there")
            }
        }
    }
}

/// Input of a comparison. Folders must be read before `view`.
pub(crate) struct VolumeFacts<'a> {
    pub(crate) root: &'a Path,
    pub(crate) found: &'a FoundVolumes,
    /// Mount points of attachments with the id that each is named by, if it is.
    pub(crate) mount_points: &'a [(Option<u64>, PathBuf)],
    pub(crate) view: &'a Records,
    /// True if an id may have been handed out.
    pub(crate) is_issued: &'a dyn Fn(u64) -> bool,
    /// True if the directory of an id may be in creation.
    pub(crate) is_in_making: &'a dyn Fn(u64) -> bool,
}

/// Finds what is not as it should be.
pub(crate) fn volume_problems(facts: &VolumeFacts<'_>) -> BTreeSet<Problem> {
    let unknown_entries = facts.found.unknown_entries.iter().cloned();
    let mut all: BTreeSet<Problem> = unknown_entries
        .map(|path| Problem::UnknownEntry { path })
        .collect();
    let volumes = facts.view.volumes();
    let found = facts.found.live.iter().filter_map(|slot| facts.live(*slot));
    let found = found.chain(
        facts
            .found
            .trashed
            .iter()
            .filter_map(|slot| facts.trashed(*slot)),
    );
    let found = found.chain(volumes.iter().flat_map(|volume| facts.unfit(volume)));
    let found = found.chain(facts.spare_links());
    let found = found.chain(
        volumes
            .attachments()
            .filter_map(|one| facts.holds_nothing(one)),
    );
    all.extend(found.map(Problem::Volume));
    all.extend(facts.mount_points());
    all
}

impl VolumeFacts<'_> {
    fn live(&self, there: Slot) -> Option<VolumeProblem> {
        let id = VolumeId(there.0);
        if self.view.volumes().get(id).is_some() {
            return None;
        }
        if let Some(volume) = self.removed(id) {
            let name = volume.name.clone();
            return Some(VolumeProblem::NotInTrash { id, name });
        }
        if (self.is_in_making)(id.0) {
            return None;
        }
        Some(
            if self.found.new.contains(&there) && (self.is_issued)(id.0) {
                VolumeProblem::Abandoned { id }
            } else {
                let path = self.root.join("volumes").join(there.to_string());
                VolumeProblem::Unrecorded { path }
            },
        )
    }

    fn trashed(&self, there: Slot) -> Option<VolumeProblem> {
        let id = VolumeId(there.0);
        match self.view.volumes().get(id) {
            Some(volume) if !self.is_whole(there) => {
                let name = volume.name.clone();
                Some(VolumeProblem::InTrash { id, name })
            }
            None if self.removed(id).is_some() || (self.is_in_making)(id.0) => None,
            _ => {
                let path = self.root.join("volumes/.trash").join(there.to_string());
                Some(VolumeProblem::Unrecorded { path })
            }
        }
    }

    fn unfit(&self, volume: &Volume) -> Vec<VolumeProblem> {
        let (id, there) = (volume.id, slot(volume.id));
        let name = || volume.name.clone();
        let mut all = Vec::new();
        if !self.is_whole(there) && !self.found.trashed.contains(&there) {
            all.push(VolumeProblem::NoFolder { id, name: name() });
        } else if limit_of(volume).is_some()
            && self.found.live.contains(&there)
            && !self.found.with_limit.contains(&there)
        {
            all.push(VolumeProblem::NoImage { id, name: name() });
        } else if let Some(problem) = self.found.bad_images.get(&there) {
            let (name, problem) = (name(), problem.clone());
            all.push(VolumeProblem::BadImage { id, name, problem });
        }
        if self.found.links.get(volume.name.as_str()) != Some(&there) {
            all.push(VolumeProblem::NoLink { id, name: name() });
        }
        all
    }

    fn spare_links(&self) -> impl Iterator<Item = VolumeProblem> {
        let names = self.found.links.keys();
        let has_volume = |name: &&String| {
            let name = VolumeName::parse("name", name).ok();
            name.is_some_and(|name| self.view.volumes().find(&name).is_some())
        };
        let spare = names.filter(move |name| !has_volume(name));
        spare.map(|name| VolumeProblem::SpareLink { name: name.clone() })
    }

    fn holds_nothing(&self, attachment: &Attachment) -> Option<VolumeProblem> {
        let volumes = self.view.volumes();
        let no_volume = attachment
            .volume
            .is_some_and(|id| volumes.get(id).is_none());
        let no_layer = attachment
            .layer
            .is_some_and(|id| self.view.get(id).is_none());
        let what = match (no_volume, no_layer) {
            (true, _) => "volume",
            (false, true) => "layer",
            (false, false) => return None,
        };
        let key = attachment.key.clone();
        Some(VolumeProblem::HoldsNothing { key, what })
    }

    fn mount_points(&self) -> impl Iterator<Item = Problem> {
        let attachments = self.view.volumes().attachments();
        let known: BTreeSet<u64> = attachments.map(|attachment| attachment.id.0).collect();
        self.mount_points.iter().filter_map(move |(id, path)| {
            let path = path.clone();
            match id {
                None => Some(Problem::UnknownEntry { path }),
                Some(id) if known.contains(id) => None,
                Some(_) => Some(Problem::Volume(VolumeProblem::UnknownMountPoint { path })),
            }
        })
    }

    fn is_whole(&self, there: Slot) -> bool {
        self.found.live.contains(&there) && !self.found.hollow.contains(&there)
    }

    fn removed(&self, id: VolumeId) -> Option<&Volume> {
        let mut removed = self.view.volumes().removed();
        removed.find(|volume| volume.id == id).map(AsRef::as_ref)
    }
}
