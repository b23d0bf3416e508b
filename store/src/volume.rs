//! Types of volumes' and attachments' records, checked when they are made. No I/O.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use layerd_id::Slot;

use crate::model::{BadInput, Key, Labels, LayerId, Removal, Timestamp, Usage};

/// Longest name of a volume, in bytes: NAME_MAX, as a folder of links carries the names.
pub const VOLUME_NAME_MAX: usize = 255;
/// Most that the specification of one attachment may hold, in bytes.
pub const SPEC_MAX: usize = 16 * 1024;

/// Name of a volume, by Docker's rule: a letter or digit, then at least one more of letters,
/// digits, `_`, `.` and `-`. Unique among volumes; it may change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(Arc<str>);

impl VolumeName {
    /// Checks `raw`, which came in as `field`.
    ///
    /// # Errors
    /// [`BadInput`] naming the rule it breaks.
    pub fn parse(field: &str, raw: &str) -> Result<Self, BadInput> {
        let bad = |rule: &str| {
            Err(BadInput::new(
                field,
                format!("{:?} {rule}", raw.chars().take(64).collect::<String>()),
            ))
        };
        if raw.len() < 2 {
            return bad("is too short: names of volumes have at least two characters");
        }
        if raw.len() > VOLUME_NAME_MAX {
            return bad("is too long: names of volumes have at most 255 bytes");
        }
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !raw.as_bytes()[0].is_ascii_alphanumeric() || !raw.bytes().all(rest) {
            return bad(
                "is no name of a volume: a letter or digit, then letters, digits, _ . or -; host folders are absolute paths",
            );
        }
        Ok(Self(raw.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for VolumeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Identity of a volume; also names its directory. From the same sequence as layers' ids, never
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u64);

impl VolumeId {
    /// Reads the spelling that is shown and no other; `raw` came in as `field`.
    ///
    /// # Errors
    /// [`BadInput`] if no id is spelled so.
    pub fn parse(field: &str, raw: &str) -> Result<Self, BadInput> {
        crate::model::parse_id(field, raw).map(Self)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Slot(self.0).fmt(f)
    }
}

/// Identity of an attachment, shown in decimal, as the folder of its mount is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Record of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Identity.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Set if layerd generated the name.
    pub anonymous: bool,
    /// Volume driver; `local` is a directory below layerd's root.
    pub driver: String,
    /// Options of the driver, as given at creation.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    pub created: Timestamp,
    /// When name or labels last changed.
    pub updated: Timestamp,
    /// Source that it was filled from: a volume, a snapshot or an image path; empty without one.
    pub filled_from: String,
    /// The volume it is a snapshot of; snapshots are not attached for writing.
    pub snapshot_of: Option<VolumeId>,
    /// Last measured usage, and the time of the measurement.
    pub usage: Option<(Usage, Timestamp)>,
    /// Set once deleted: its name is free and its directory is in the trash.
    pub removed: Option<Removal>,
}

/// Owner of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `container`, `pod`, `build`, `person` or `plugin`.
    pub kind: String,
    /// Identity within its kind.
    pub id: String,
}

impl Owner {
    /// All kinds of owners.
    pub const KINDS: [&'static str; 5] = ["container", "pod", "build", "person", "plugin"];

    /// True for Docker and Podman, which refer to volumes by name: plugins `docker`, `docker/...` and
    /// `podman`.
    pub(crate) fn is_by_name(&self) -> bool {
        let program = self.id.split('/').next();
        self.kind == "plugin" && matches!(program, Some("docker" | "podman"))
    }

    /// True for a mount id of Docker, which tells people less than the container that has it.
    pub(crate) fn is_mount_id(&self) -> bool {
        self.kind == "plugin" && self.id.starts_with("docker/mount/")
    }

    /// Checks an owner.
    ///
    /// # Errors
    /// [`BadInput`] naming the rule it breaks.
    pub fn parse(kind: &str, id: &str) -> Result<Self, BadInput> {
        if !Self::KINDS.contains(&kind) {
            let rule = format!("{kind:?} is not one of {}", Self::KINDS.join(", "));
            return Err(BadInput::new("owner.kind", rule));
        }
        if id.is_empty() || id.len() > 255 || id.chars().any(char::is_control) {
            return Err(BadInput::new(
                "owner.id",
                "must be 1 to 255 bytes without control characters",
            ));
        }
        Ok(Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

/// State of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachState {
    /// Intent: recorded before anything is mounted.
    Preparing,
    /// Attached as requested, if the recorded mount still exists.
    Attached,
    /// Attached, but its mount is gone. Recorded by older releases only; now derived from the mount
    /// table on request.
    Waiting,
}

/// A mount that layerd made, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedAt {
    /// Its mount point.
    pub target: String,
    /// Mount id: unique within a boot since Linux 6.8; older kernels reuse it.
    pub unique_id: u64,
    /// The highest id of the submounts that came along with a recursive bind.
    pub last_id: u64,
    /// Device of its root, major and minor.
    pub device: (u32, u32),
    /// Inode of its root.
    pub inode: u64,
    /// Boot id of the boot in which it was made.
    pub boot: String,
    /// Write access as read back from the kernel: `rw`, `ro` or `ro-recursive`.
    pub access: String,
}

/// A directory or file of the host that layerd made. With the inode 0, one that it may have made, under
/// a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadePath {
    /// Its path.
    pub path: String,
    /// Its device, major and minor.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
}

/// The source of an attachment, as far as the call that recorded the intent made it. Kept until the
/// attachment is made, so that the repeated call can remove it after a crash and a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MadeSource {
    /// Set if the volume was made.
    pub volume: bool,
    /// Paths of the host that were made, outermost first.
    pub paths: Vec<MadePath>,
}

/// Record of one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Identity.
    pub id: AttachmentId,
    /// The name its owner gave it; with it, a repeated call is recognised.
    pub key: Key,
    /// Its owner.
    pub owner: Owner,
    /// The volume it holds.
    pub volume: Option<VolumeId>,
    /// The committed layer it holds, for an image mount.
    pub layer: Option<LayerId>,
    /// The request, in the canonical form of `--mount`.
    pub spec: String,
    /// Requested mount point; `None` if the runtime mounts it.
    pub target: Option<String>,
    /// Excludes other attachments of its volume.
    pub exclusive: bool,
    /// Its state.
    pub state: AttachState,
    /// The mount, if layerd made one.
    pub mount: Option<MountedAt>,
    /// When it was first attached.
    pub created: Timestamp,
    /// Paths and volume made for it, until its mount is recorded.
    pub made: MadeSource,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "a.b", "A_-.", "0x", &"n".repeat(255)] {
            assert!(VolumeName::parse("name", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "-a",
            ".a",
            "a/b",
            "a b",
            "ä1",
            "a\0",
            &"n".repeat(256),
        ] {
            assert!(VolumeName::parse("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_of_known_kinds() {
        assert!(Owner::parse("container", "c1").is_ok());
        assert!(Owner::parse("containers", "c1").is_err());
        assert!(Owner::parse("pod", "").is_err());
        assert!(Owner::parse("pod", "a\nb").is_err());
    }
}
