//! CSI in a volume's record: the handle made of it, and labels.
//!
//! A handle is `vol-ID-TIME` or `snap-ID-TIME`: the number of the volume, which layerd never uses again,
//! and the nanosecond of its creation. It stays when the volume is renamed or taken back from the trash.
//! Names can be used again, so that a late call would meet another volume; numbers begin anew in a new
//! data root and are the same on several nodes, which the time tells apart. All volumes have one,
//! whichever API made them, and nothing is stored for it.

use std::fmt;
use std::path::Path;

use layerd_engine::{Engine, VolumeEntry};
use layerd_proto::csi::v1::VolumeContentSource;
use layerd_proto::csi::v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
use layerd_store::{Labels, Volume, VolumeId, VolumeName};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{bad, failed, required};

/// Longest name and handle, in bytes.
const TEXT_MAX: usize = 128;

/// Labels of layerd's own.
const NAME: &str = "csi.layerd.dev/name";
const KIND: &str = "csi.layerd.dev/kind";
const SOURCE: &str = "csi.layerd.dev/source";
/// Label for the path at which an inline volume is published.
pub(super) const TARGET: &str = "csi.layerd.dev/target";

/// The key of the attachment at a path: a path has one.
pub(super) fn attachment_key(target: &Path) -> String {
    format!("csi:{}", target.display())
}

/// Purpose of a volume that CSI made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A volume.
    Volume,
    /// A snapshot of one.
    Snapshot,
    /// A volume that lives as long as its pod.
    Inline,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Volume, Self::Snapshot, Self::Inline];

    fn as_str(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::Inline => "inline",
        }
    }

    /// Names of different kinds may be the same, and layerd has one set of names.
    fn suffix(self) -> &'static str {
        match self {
            Self::Volume => "",
            Self::Snapshot => ".snapshot",
            Self::Inline => ".inline",
        }
    }

    /// The name that a volume gets: the one that was asked for, where that is a name of a volume.
    fn volume_name(self, name: &str) -> Result<VolumeName, Status> {
        const MANGLED: &str = "csi-sha256-";
        let is_free = !name.starts_with(MANGLED)
            && Self::ALL
                .iter()
                .all(|kind| kind.suffix().is_empty() || !name.ends_with(kind.suffix()));
        let base = match VolumeName::parse("name", name) {
            Ok(_) if is_free => name.to_owned(),
            _ => {
                let digest = Sha256::digest(name.as_bytes());
                let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{MANGLED}{digits}")
            }
        };
        let name = format!("{base}{}", self.suffix());
        VolumeName::parse("name", &name).map_err(super::status::bad)
    }
}

/// Checks a name that a client chose.
pub(super) fn check_name(name: &str) -> Result<(), Status> {
    let name = required("name", name)?;
    if name.len() > TEXT_MAX {
        let rule = format!(
            "is {} bytes long, at most {TEXT_MAX} are allowed",
            name.len()
        );
        return Err(bad("name", rule));
    }
    let is_bad = |c: &char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    match name.chars().find(is_bad) {
        Some(c) => Err(bad(
            "name",
            format!("holds the control character U+{:04X}", u32::from(c)),
        )),
        None => Ok(()),
    }
}

/// A new volume of CSI's: its name for layerd, and its labels.
pub(super) fn new(
    kind: Kind,
    name: &str,
    more: impl IntoIterator<Item = (String, String)>,
) -> Result<(VolumeName, Labels), Status> {
    let own = [(NAME, name), (KIND, kind.as_str())];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels = Labels::with_empty(own.into_iter().chain(more).collect());
    Ok((kind.volume_name(name)?, labels.map_err(super::status::bad)?))
}

/// The label for what a volume was made of.
pub(super) fn source_label(source: Handle) -> (String, String) {
    (SOURCE.to_owned(), source.to_string())
}

/// Purpose of a volume, if CSI made it.
pub(super) fn kind(volume: &Volume) -> Option<Kind> {
    let word = volume.labels.get(KIND)?;
    Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
}

/// Volumes of one kind, oldest first. Reads memory only.
pub(super) fn all(engine: &Engine, wanted: Kind) -> Vec<VolumeEntry> {
    of_kind(engine, wanted, false)
}

/// As [`all`], of those in the trash.
pub(super) fn all_deleted(engine: &Engine, wanted: Kind) -> Vec<VolumeEntry> {
    of_kind(engine, wanted, true)
}

fn of_kind(engine: &Engine, wanted: Kind, deleted: bool) -> Vec<VolumeEntry> {
    let filter = layerd_engine::VolumeFilter {
        deleted,
        ..layerd_engine::VolumeFilter::default()
    };
    let mut all = engine.volumes.volumes(&filter);
    all.retain(|entry| kind(&entry.volume) == Some(wanted));
    all
}

/// The volume that was created by a name, which may have been renamed since.
pub(super) fn named(engine: &Engine, wanted: Kind, name: &str) -> Option<VolumeEntry> {
    let mut all = all(engine, wanted).into_iter();
    all.find(|entry| entry.volume.labels.get(NAME) == Some(name))
}

/// The source that a record tells of.
pub(super) fn content_source(volume: &Volume) -> Option<VolumeContentSource> {
    let text = volume.labels.get(SOURCE)?.to_owned();
    let kind = match Handle::parse(&text)?.is_snapshot {
        true => Type::Snapshot(SnapshotSource { snapshot_id: text }),
        false => Type::Volume(VolumeSource { volume_id: text }),
    };
    Some(VolumeContentSource { r#type: Some(kind) })
}

/// The handle of what a volume was made of, as text; empty for nothing.
pub(super) fn source(volume: &Volume) -> &str {
    volume.labels.get(SOURCE).unwrap_or_default()
}

/// Handle of a volume or snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    is_snapshot: bool,
    id: VolumeId,
    created: i64,
}

impl Handle {
    pub(super) fn of(volume: &Volume) -> Self {
        Self {
            is_snapshot: volume.snapshot_of.is_some(),
            id: volume.id,
            created: volume.created.0,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('-')?;
        let (id, created) = rest.split_once('-')?;
        let handle = Self {
            is_snapshot: match kind {
                "vol" => false,
                "snap" => true,
                _ => return None,
            },
            id: VolumeId(id.parse().ok()?),
            created: i64::from_str_radix(created, 16).ok()?,
        };
        // One spelling alone.
        (handle.to_string() == text).then_some(handle)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.is_snapshot {
            true => "snap",
            false => "vol",
        };
        write!(f, "{kind}-{}-{:x}", self.id.0, self.created)
    }
}

fn found(engine: &Engine, text: &str, is_snapshot: bool) -> Option<VolumeEntry> {
    let handle = Handle::parse(text).filter(|handle| handle.is_snapshot == is_snapshot)?;
    let entry = engine.volumes.volume_by_id(handle.id).ok()?;
    (Handle::of(&entry.volume) == handle).then_some(entry)
}

/// The volume with a handle.
pub(super) fn find_volume(engine: &Engine, id: &str) -> Option<VolumeEntry> {
    found(engine, id, false)
}

/// The snapshot with a handle.
pub(super) fn find_snapshot(engine: &Engine, id: &str) -> Option<VolumeEntry> {
    found(engine, id, true)
}

/// The inline volume that a pod's directory goes by.
pub(super) fn find_inline(engine: &Engine, id: &str) -> Option<VolumeEntry> {
    named(engine, Kind::Inline, id)
}

/// The volume that is published by an id.
///
/// # Errors
/// NOT_FOUND.
pub(super) fn volume(engine: &Engine, id: &str) -> Result<VolumeEntry, Status> {
    let found = find_volume(engine, id).or_else(|| find_inline(engine, id));
    found.ok_or_else(|| not_found("volume_id", id))
}

/// Moves a volume that CSI made to the trash.
///
/// # Errors
/// FAILED_PRECONDITION while it is used, naming who does, and if another API made it: a PersistentVolume that
/// was written by hand may name any volume.
pub(super) fn delete(engine: &Engine, entry: &VolumeEntry) -> Result<(), Status> {
    if kind(&entry.volume).is_none() {
        let name = &entry.volume.name;
        return Err(Status::failed_precondition(format!(
            "volume {name} was not created through CSI: `layerctl volume rm {name}` or `docker volume rm {name}` \
             deletes it; a PersistentVolume for it wants persistentVolumeReclaimPolicy Retain"
        )));
    }
    engine
        .volumes
        .delete_volume_by_id(entry.volume.id)
        .map(drop)
        .map_err(failed)
}

pub(super) fn not_found(field: &str, id: &str) -> Status {
    let shown: String = id.chars().take(TEXT_MAX).collect();
    let what = match field.contains("snapshot") {
        true => "snapshot",
        false => "volume",
    };
    Status::not_found(format!(
        "{field}: there is no {what} {shown:?} on this node"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_have_one_spelling() {
        for text in ["vol-7-1a2b", "snap-18446744073709551615-0"] {
            assert_eq!(Handle::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "vol",
            "vol-7",
            "vol-07-1a",
            "vol-7-1A",
            "volume-7-1a",
            "vol-7-01a",
        ] {
            assert_eq!(Handle::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_name_gets_a_name_of_a_volume_that_no_other_gets() {
        let long = "n".repeat(TEXT_MAX);
        let names = [
            "pvc-1",
            "x",
            "pvc-1.snapshot",
            "ü b/c",
            &long,
            "csi-sha256-0",
        ];
        let mut taken = std::collections::BTreeSet::new();
        for name in names {
            check_name(name).unwrap();
            for kind in Kind::ALL {
                assert!(taken.insert(kind.volume_name(name).unwrap()), "{name}");
            }
        }
        assert_eq!(Kind::Volume.volume_name("pvc-1").unwrap().as_str(), "pvc-1");
    }

    #[test]
    fn names_break_a_rule_that_is_named() {
        for (name, rule) in [
            ("".to_owned(), "must not be empty"),
            ("n".repeat(129), "is 129 bytes long"),
            ("a\u{7}".to_owned(), "U+0007"),
        ] {
            let status = check_name(&name).unwrap_err();
            assert!(status.message().contains(rule), "{status:?}");
        }
    }
}
