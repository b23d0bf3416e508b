//! The ways in which a volume is to be used (`VolumeCapability`), and which of them there are.

use layerd_engine::owner_id;
use layerd_proto::csi::v1::VolumeCapability;
use layerd_proto::csi::v1::volume_capability::AccessType;
use layerd_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::Status;

use super::bad;

/// A way that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    /// Nothing is written.
    pub(super) read_only: bool,
    /// Published at one path alone.
    pub(super) exclusive: bool,
    /// The group that is to own the content.
    pub(super) group: Option<u32>,
    /// Name of the access mode.
    pub(super) mode: &'static str,
}

/// Why a way is not there.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The message is not one.
    Malformed(Status),
    /// layerd cannot do that.
    Unsupported(String),
}

impl Use {
    /// Reads a capability that came in as `field`.
    pub(super) fn parse(field: &str, given: Option<&VolumeCapability>) -> Result<Self, Unfit> {
        let malformed = |field: &str, rule: &str| Unfit::Malformed(bad(field, rule));
        let given = given.ok_or_else(|| malformed(field, "must be set"))?;
        let mode = given.access_mode.map(|mode| mode.mode());
        let mode = mode.unwrap_or(Mode::Unknown);
        if mode == Mode::Unknown {
            let field = format!("{field}.access_mode");
            return Err(malformed(&field, "must be set to a mode that is known"));
        }
        let mount = match &given.access_type {
            Some(AccessType::Mount(mount)) => mount,
            Some(AccessType::Block(_)) => {
                let why = format!("{field}.block: volumes are directories, not block devices");
                return Err(Unfit::Unsupported(why));
            }
            None => return Err(malformed(field, "must have one of mount and block set")),
        };
        if !mount.fs_type.is_empty() {
            let why = format!(
                "{field}.mount.fs_type: {:?} is asked for; volumes are directories of the node's own file system, so leave it empty",
                mount.fs_type
            );
            return Err(Unfit::Unsupported(why));
        }
        let group = match mount.volume_mount_group.as_str() {
            "" => None,
            text => Some(owner_id(text).ok_or_else(|| {
                let field = format!("{field}.mount.volume_mount_group");
                Unfit::Malformed(bad(&field, format!("{text:?} is not a group id")))
            })?),
        };
        Ok(Self {
            read_only: mode == Mode::SingleNodeReaderOnly || flags(field, &mount.mount_flags)?,
            exclusive: mode == Mode::SingleNodeSingleWriter,
            group,
            mode: local(field, mode)?,
        })
    }

    /// Checks every way in which a volume is going to be used.
    pub(super) fn parse_all(given: &[VolumeCapability]) -> Result<(), Unfit> {
        const FIELD: &str = "volume_capabilities";
        if given.is_empty() {
            return Err(Unfit::Malformed(bad(FIELD, "must not be empty")));
        }
        for (index, one) in given.iter().enumerate() {
            Self::parse(&format!("{FIELD}[{index}]"), Some(one))?;
        }
        Ok(())
    }
}

impl Unfit {
    /// For a call that cannot go on without it.
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Malformed(status) => status,
            Self::Unsupported(why) => Status::invalid_argument(why),
        }
    }

    /// For a volume that is there and cannot be used so.
    pub(super) fn into_refusal(self) -> Status {
        match self {
            Self::Malformed(status) => status,
            Self::Unsupported(why) => Status::failed_precondition(why),
        }
    }
}

/// The name of a mode in which a volume stays on its node.
fn local(field: &str, mode: Mode) -> Result<&'static str, Unfit> {
    match mode {
        Mode::SingleNodeWriter
        | Mode::SingleNodeReaderOnly
        | Mode::SingleNodeSingleWriter
        | Mode::SingleNodeMultiWriter => Ok(mode.as_str_name()),
        other => Err(Unfit::Unsupported(format!(
            "{field}.access_mode: {} is asked for; volumes are on one node, so only SINGLE_NODE_ modes are there",
            other.as_str_name()
        ))),
    }
}

/// True if the mount flags ask for a read-only mount. The standard has them hold secrets, so an error, which
/// becomes an event of the pod, names the place of one and not its text.
fn flags(field: &str, flags: &[String]) -> Result<bool, Unfit> {
    let unknown = flags
        .iter()
        .position(|flag| !matches!(flag.as_str(), "ro" | "rw"));
    match unknown {
        Some(index) => Err(Unfit::Unsupported(format!(
            "{field}.mount.mount_flags[{index}]: is unknown; there are \"ro\" and \"rw\""
        ))),
        None => Ok(flags.iter().any(|flag| flag == "ro")),
    }
}

#[cfg(test)]
mod tests {
    use super::flags;

    #[test]
    fn an_unknown_flag_is_named_by_its_place_alone() {
        let all = ["ro".to_owned(), "password=hunter2".to_owned()];
        let told = format!("{:?}", flags("volume_capability", &all).unwrap_err());
        assert!(told.contains("mount_flags[1]: is unknown"), "{told}");
        assert!(
            !told.contains("hunter2") && !told.contains("password"),
            "{told}"
        );
        assert!(flags("volume_capability", &all[..1]).unwrap());
    }
}
