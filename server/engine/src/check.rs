//! Compares records with what is on disk. Pure: facts come in, problems come out.
//!
//! Each problem knows its fix. What is safe is made good at start; what needs a person's word
//! is only reported; a snapshot that cannot be trusted is quarantined: it answers DATA_LOSS, and
//! nothing else suffers from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use layerd_drivers::{Found, SlotKind};
use layerd_mounts::Slot;
use layerd_store::{Key, LayerId, Record, Records};

use crate::stack::has_own;

mod volumes;

pub use volumes::VolumeProblem;
pub(crate) use volumes::{VolumeFacts, volume_problems};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// A name that layerd would not have given.
    #[error("{} is not layerd's", path.display())]
    UnknownEntry {
        /// Where it is.
        path: PathBuf,
    },
    /// A folder of layerd's that others can look into, or that layerd cannot use.
    #[error("{} has the mode {mode:04o}", path.display())]
    FolderMode {
        /// Where it is.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A copy of the records that would not help if they were lost.
    #[error("the export {} is of no use: {why}", path.display())]
    BadExport {
        /// Where it is.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// A manifest by which no content can be checked.
    #[error("the manifest {} of snapshot {key:?} is of no use: {why}", path.display(), key = key.as_str())]
    BadFileDigests {
        /// Where it is.
        path: PathBuf,
        /// The snapshot.
        key: Key,
        /// The fault.
        why: String,
    },
    /// A layer that does not hold what was unpacked into it.
    #[error("snapshot {key:?} (layer {id}) does not hold what was unpacked: {what}", key = key.as_str())]
    Altered {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
        /// Number of files.
        files: u64,
        /// The first of them, and how they differ; safe to print.
        what: String,
    },
    /// A layer whose id was never handed out.
    #[error("a directory of layer {id} is there, an id that was never handed out")]
    UnknownLayer {
        /// In which folder.
        kind: SlotKind,
        /// The id its name stands for.
        id: LayerId,
    },
    /// A layer that was written or mounted, so that its making was acknowledged, and that no record
    /// names: it is younger than the records if these are a backup, and may be the only copy.
    #[error("layer {id} is in use or was, but no record names it")]
    Unrecorded {
        /// The layer.
        id: LayerId,
    },
    /// A layer whose making was never acknowledged, or whose record is dropped already.
    #[error("layer {id} was left behind by an interrupted call")]
    Abandoned {
        /// The layer.
        id: LayerId,
    },
    /// A directory with a layer's id is in the trash, although its snapshot was not removed.
    #[error("there is something of layer {id} in the trash, but its snapshot {key:?} was not removed", key = key.as_str())]
    InTrash {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
    },
    /// A writable layer that overlayfs has no room to work for.
    #[error("layer {id} of snapshot {key:?} has no work directory", key = key.as_str())]
    NoWorkDirectory {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
    },
    /// A work directory of a layer that is not written any more.
    #[error("layer {id} of snapshot {key:?} has a work directory that it does not need", key = key.as_str())]
    SpareWorkDirectory {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
    },
    /// A layer that is gone.
    #[error("the directory of layer {id} of snapshot {key:?} is missing", key = key.as_str())]
    NoDirectory {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
    },
    /// A snapshot whose parent is not there.
    #[error("the parent of snapshot {key:?} (layer {id}) is missing", key = key.as_str())]
    ParentGone {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
    },
    /// A layer whose content was lost on its way to the disk.
    #[error("snapshot {key:?} (layer {id}) cannot be trusted: {why}", key = key.as_str())]
    Untrusted {
        /// The layer.
        id: LayerId,
        /// Its snapshot.
        key: Key,
        /// The reason.
        why: String,
    },
    /// Of volumes and attachments.
    #[error(transparent)]
    Volume(VolumeProblem),
}

/// Fix of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fix {
    /// Made good at start, or by `fsck --repair`; nothing can be lost by it.
    Safe(&'static str),
    /// Done only by `fsck --repair`.
    OnRequest(&'static str),
    /// The snapshot answers DATA_LOSS until it is removed.
    Quarantine(&'static str),
    /// Only a person can do it.
    Advice(&'static str),
}

impl Fix {
    /// Description of the fix, or of the action left to a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Safe(text)
            | Self::OnRequest(text)
            | Self::Quarantine(text)
            | Self::Advice(text) => text,
        }
    }
}

impl Problem {
    /// True if the folder of a volume, or its link for people, is not where it belongs.
    #[must_use]
    pub fn is_volume_missing(&self) -> bool {
        matches!(
            self,
            Self::Volume(VolumeProblem::NoFolder { .. } | VolumeProblem::NoLink { .. })
        )
    }

    /// Its fix.
    #[must_use]
    pub fn fix(&self) -> Fix {
        const AGAIN: &str = "remove what uses it, then pull or create it again";
        match self {
            Self::UnknownEntry { .. }
            | Self::UnknownLayer { .. }
            | Self::Unrecorded { .. }
            | Self::InTrash { .. }
            | Self::BadExport { .. }
            | Self::BadFileDigests { .. } => Fix::OnRequest("move it to lost/"),
            Self::Altered { .. } => Fix::OnRequest(
                "bar it, so that it answers DATA_LOSS; then remove what uses it, and pull or create it again",
            ),
            Self::FolderMode { .. } => Fix::Safe("set it to 0700"),
            Self::Abandoned { .. } => Fix::Safe("delete it"),
            Self::NoWorkDirectory { .. } => Fix::Safe("make it"),
            Self::SpareWorkDirectory { .. } => Fix::Safe("delete it"),
            Self::NoDirectory { .. } | Self::ParentGone { .. } | Self::Untrusted { .. } => {
                Fix::Quarantine(AGAIN)
            }
            Self::Volume(problem) => problem.fix(),
        }
    }

    /// The layer in its place that stays although no record names it.
    pub(crate) fn unrecorded(&self) -> Option<LayerId> {
        match self {
            Self::Unrecorded { id } => Some(*id),
            _ => None,
        }
    }

    /// The snapshot that must not be used because of it.
    pub(crate) fn quarantined(&self) -> Option<LayerId> {
        match self {
            Self::NoDirectory { id, .. }
            | Self::ParentGone { id, .. }
            | Self::Untrusted { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Input of a comparison. `found` must be read before `claimed`, and that before `view`.
pub(crate) struct Facts<'a> {
    pub(crate) found: &'a [Found],
    /// Layers that are being made.
    pub(crate) claimed: &'a [LayerId],
    pub(crate) view: &'a Records,
    /// True if an id may have been handed out.
    pub(crate) is_issued: &'a dyn Fn(u64) -> bool,
    /// True if a layer was written, or mounted writable.
    pub(crate) is_used: &'a dyn Fn(LayerId) -> bool,
    /// True if the driver keeps directories beside the layer of a snapshot.
    pub(crate) needs_work: &'a dyn Fn(&Record) -> bool,
}

/// Finds what is not as it should be.
pub(crate) fn problems(facts: &Facts<'_>) -> BTreeSet<Problem> {
    let mut places: BTreeMap<LayerId, BTreeSet<SlotKind>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for entry in facts.found {
        match entry {
            Found::UnknownEntry(path) => {
                found.insert(Problem::UnknownEntry { path: path.clone() });
            }
            Found::Slot(kind, Slot(id)) => {
                places.entry(LayerId(*id)).or_default().insert(*kind);
            }
        }
    }
    for (id, places) in &places {
        found.extend(misplaced(facts, *id, places));
    }
    let nowhere = BTreeSet::new();
    for record in facts.view.iter() {
        found.extend(unfit(
            facts,
            record,
            places.get(&record.id).unwrap_or(&nowhere),
        ));
    }
    found
}

/// The problem with the directories of one id, if there is one.
fn misplaced(facts: &Facts<'_>, id: LayerId, places: &BTreeSet<SlotKind>) -> Option<Problem> {
    if let Some(record) = facts.view.get(id) {
        let key = record.key.clone();
        let in_trash = places.contains(&SlotKind::Trash);
        return in_trash.then_some(Problem::InTrash { id, key });
    }
    if facts.view.get_removed(id).is_some() || facts.claimed.contains(&id) {
        return None;
    }
    let kind = *places.first()?;
    // Beside no layer a work directory holds nothing of a client.
    let is_work_alone = places.iter().all(|kind| *kind == SlotKind::Work);
    Some(if !(facts.is_issued)(id.0) {
        Problem::UnknownLayer { kind, id }
    } else if (facts.is_used)(id) && !is_work_alone {
        Problem::Unrecorded { id }
    } else {
        Problem::Abandoned { id }
    })
}

/// Problems of one snapshot.
fn unfit(facts: &Facts<'_>, record: &Record, places: &BTreeSet<SlotKind>) -> Vec<Problem> {
    let view = facts.view;
    let (id, key) = (record.id, record.key.clone());
    let mut found = Vec::new();
    if let Some(why) = record.quarantine.clone() {
        let key = key.clone();
        found.push(Problem::Untrusted { id, key, why });
    }
    if record
        .parent
        .is_some_and(|parent| view.get(parent).is_none())
    {
        let key = key.clone();
        found.push(Problem::ParentGone { id, key });
    }
    if has_own(record) && !places.contains(&SlotKind::Layer) {
        found.push(Problem::NoDirectory { id, key });
        return found;
    }
    match ((facts.needs_work)(record), places.contains(&SlotKind::Work)) {
        (true, false) => found.push(Problem::NoWorkDirectory { id, key }),
        (false, true) => found.push(Problem::SpareWorkDirectory { id, key }),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests;
