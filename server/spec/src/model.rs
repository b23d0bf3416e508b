//! The normalised form of a mount. What is of these types has been checked.

use std::collections::BTreeMap;

use layerd_store::{VOLUME_NAME_MAX, VolumeName};

use super::error::{Fault, Rule, quote, too_long};
use super::path::{HostPath, Subpath, Target};

/// Longest reference to an image, in bytes: a snapshot's name may be that long.
const REFERENCE_MAX: usize = 4096;

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// Kind of the mount.
    pub kind: Kind,
    /// Where the container sees it.
    pub target: Target,
    /// Write access of the container.
    pub read_only: ReadOnly,
    /// Policy for a missing source. Anonymous volumes and tmpfs are always made, images never.
    pub on_missing: OnMissing,
    /// SELinux label to give the content; nothing is relabelled without one.
    pub relabel: Option<Relabel>,
}

/// Kind of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A volume.
    Volume(Volume),
    /// A file or directory of the host.
    Bind(Bind),
    /// Memory.
    Tmpfs(Tmpfs),
    /// The content of an image.
    Image(Image),
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name; `None` for one that is made for this mount and gets a name then.
    pub name: Option<VolumeName>,
    /// Mounted part; `None` for all. Needs a name.
    pub subpath: Option<Subpath>,
    /// Copies the image's content at the target into an empty volume.
    pub copy_up: bool,
    /// Properties of the volume, if this mount makes it.
    pub create_with: CreateWith,
}

/// Properties of a volume. Used only when it does not exist yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateWith {
    /// The driver; `None` for the default one.
    pub driver: Option<String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A file or directory of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host. Symbolic links in it are not resolved yet.
    pub source: HostPath,
    /// Propagation of mounts made later below it.
    pub propagation: Propagation,
    /// Binds submounts too.
    pub recursive: bool,
    /// Source to make if it is missing; [`CreateSource::None`] exactly if the policy is
    /// [`Policy::Fail`].
    pub create: CreateSource,
    /// Id mapping of the files.
    pub idmap: Option<IdMap>,
}

/// Source made for a bind mount if it is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CreateSource {
    /// Nothing.
    #[default]
    None,
    /// A directory, with those above it.
    Directory,
    /// An empty file, with the directories above it.
    File,
}

/// Id mapping of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMap {
    /// As the container's user namespace maps ids.
    UserNamespace,
    /// The owner of the source appears as this user (a name, an id, or `uid:gid`), or as the one
    /// the container runs as.
    MatchUser(Option<String>),
}

/// Memory, up to what `size` says. Always `nosuid,nodev` unless `more` says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tmpfs {
    /// Most it may hold; `None` leaves it to the kernel (half of the memory).
    pub size: Option<TmpfsSize>,
    /// Permissions of its root; `None` for 1777.
    pub mode: Option<u32>,
    /// Owner of its root; `None` for 0.
    pub uid: Option<u32>,
    /// Group of its root; `None` for 0.
    pub gid: Option<u32>,
    /// Most files it may hold; 0 for no limit, `None` leaves it to the kernel.
    pub inodes: Option<u64>,
    /// Allows execution of programs.
    pub exec: bool,
    /// Further mount options that differ from the defaults, sorted, at most one of a kind.
    pub more: Vec<String>,
}

/// A limit for a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TmpfsSize {
    /// Bytes; 0 for no limit.
    Bytes(u64),
    /// Hundredths of the memory.
    Percent(u64),
}

/// The content of an image, or of a committed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Which one.
    pub reference: ImageReference,
    /// Mounted part; `None` for all.
    pub subpath: Option<Subpath>,
}

/// Reference to an image or name of a committed snapshot: 1 to 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(String);

impl ImageReference {
    pub(super) fn parse(field: &str, raw: &str) -> Result<Self, Fault> {
        match raw.len() {
            0 => Err(Fault::new(field, Rule::Missing, "is required for an image")),
            1..=REFERENCE_MAX => Ok(Self(raw.to_owned())),
            bytes => Err(too_long(field, bytes, REFERENCE_MAX)),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads the name of a volume, and says what was perhaps meant by one that is none.
pub(super) fn volume_name(field: &str, raw: &str) -> Result<VolumeName, Fault> {
    if raw.is_empty() {
        return Err(Fault::new(field, Rule::Empty, "must not be empty"));
    }
    if raw.len() > VOLUME_NAME_MAX {
        return Err(too_long(field, raw.len(), VOLUME_NAME_MAX));
    }
    VolumeName::parse(field, raw).map_err(|_| bad_name(field, raw))
}

fn bad_name(field: &str, raw: &str) -> Fault {
    let detail = format!(
        "the volume name {:?} is not a letter or digit and at least one more of letters, digits, \
         dots, hyphens and underscores",
        quote(raw)
    );
    let fault = Fault::new(field, Rule::BadName, detail);
    if raw.starts_with('~') {
        fault.hint("a shell expands ~ only at the start of a word: give an absolute path")
    } else if raw.contains('/') {
        fault.hint("a host directory needs an absolute path, and with --mount also type=bind")
    } else {
        fault
    }
}

/// Write access of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It may.
    Rw,
    /// Not to the mount itself; mounts below it stay as they are.
    RoTop,
    /// Nor to mounts below it, if kernel and runtime can do that.
    RoRecursiveIfPossible,
    /// Nor to mounts below it, or there is no mount.
    RoRecursiveRequired,
}

/// Policy for a missing source, and its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnMissing {
    /// The policy.
    pub policy: Policy,
    /// Its origin.
    pub origin: Origin,
}

/// Policy for a missing source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Make it.
    Create,
    /// Refuse the mount.
    Fail,
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A word of the flag.
    Explicit,
    /// The dialect's rule for this kind of flag.
    Dialect,
}

/// SELinux label for the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relabel {
    /// Containers share it (`z`).
    Shared,
    /// As [`Shared`](Self::Shared), by the rule of a dialect.
    SharedByDialect,
    /// This container's own (`Z`).
    Private,
}

/// Propagation of mounts between a bind mount and its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all, for this mount.
    Private,
    /// Not at all.
    #[default]
    Rprivate,
    /// Both ways, for this mount.
    Shared,
    /// Both ways.
    Rshared,
    /// From the host only, for this mount.
    Slave,
    /// From the host only.
    Rslave,
}

impl Propagation {
    /// All of them.
    pub(super) const ALL: [Self; 6] = [
        Self::Private,
        Self::Rprivate,
        Self::Shared,
        Self::Rshared,
        Self::Slave,
        Self::Rslave,
    ];

    /// As a mount option.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rprivate => "rprivate",
            Self::Shared => "shared",
            Self::Rshared => "rshared",
            Self::Slave => "slave",
            Self::Rslave => "rslave",
        }
    }

    /// True if no later mount propagates in either direction.
    #[must_use]
    pub fn is_private(self) -> bool {
        matches!(self, Self::Private | Self::Rprivate)
    }

    /// Case matters.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}
