//! Options of the mounter, from those of a specification.

use layerd_mounts::mounter::{Handle, NewSource, Propagation, ReadOnly, TmpfsOptions};
use layerd_mounts::{IdMap, IdMaps};
use layerd_spec::{Bind, Made, Tmpfs, TmpfsSize};

use crate::{AttachError, Error};

/// Properties of a bind's missing source.
pub(super) fn new_source(made: Made) -> NewSource {
    NewSource {
        file: made == Made::File,
        ..NewSource::DIRECTORY
    }
}

pub(super) fn read_only(wanted: layerd_spec::ReadOnly) -> ReadOnly {
    match wanted {
        layerd_spec::ReadOnly::Rw => ReadOnly::Writable,
        layerd_spec::ReadOnly::RoTop => ReadOnly::Top,
        layerd_spec::ReadOnly::RoRecursiveIfPossible => ReadOnly::RecursiveIfPossible,
        layerd_spec::ReadOnly::RoRecursiveRequired => ReadOnly::RecursiveRequired,
    }
}

pub(super) fn propagation(wanted: layerd_spec::Propagation) -> Propagation {
    match wanted {
        layerd_spec::Propagation::Private | layerd_spec::Propagation::Rprivate => {
            Propagation::Private
        }
        layerd_spec::Propagation::Slave | layerd_spec::Propagation::Rslave => Propagation::Slave,
        layerd_spec::Propagation::Shared | layerd_spec::Propagation::Rshared => Propagation::Shared,
    }
}

/// The owner of the source is shown as a user that was named by number. What only the runtime
/// knows (its user namespace, names of its users) cannot be honoured here.
pub(super) fn id_maps(bind: &Bind, source: &Handle) -> Result<Option<IdMaps>, Error> {
    let numbers = match &bind.idmap {
        None => return Ok(None),
        Some(layerd_spec::IdMap::MatchUser(Some(user))) => user_numbers(user),
        Some(layerd_spec::IdMap::MatchUser(None) | layerd_spec::IdMap::UserNamespace) => None,
    };
    let (uid, gid) = numbers.ok_or(Error::Attach(AttachError::NotHonoured {
        what: "an id mapping to a user that is not given by number",
    }))?;
    let (own_uid, own_gid) = source.owner()?;
    let one = |container, host| {
        vec![IdMap {
            container,
            host,
            length: 1,
        }]
    };
    Ok(Some(IdMaps {
        uid: one(own_uid, uid),
        gid: one(own_gid, gid),
    }))
}

fn user_numbers(user: &str) -> Option<(u32, u32)> {
    match user.split_once(':') {
        Some((uid, gid)) => Some((uid.parse().ok()?, gid.parse().ok()?)),
        None => user.parse().ok().map(|uid| (uid, uid)),
    }
}

/// Options of a tmpfs. Those that only a runtime can pass to mount(8) are refused.
pub(super) fn tmpfs_options(
    tmpfs: &Tmpfs,
    read_only: layerd_spec::ReadOnly,
) -> Result<TmpfsOptions, Error> {
    let size = match tmpfs.size {
        Some(TmpfsSize::Bytes(bytes)) => Some(bytes),
        Some(TmpfsSize::Percent(_)) => {
            return Err(Error::Attach(AttachError::NotHonoured {
                what: "a tmpfs size in percent",
            }));
        }
        None => None,
    };
    if !tmpfs.more.is_empty() {
        return Err(Error::Attach(AttachError::NotHonoured {
            what: "a further mount option of a tmpfs",
        }));
    }
    Ok(TmpfsOptions {
        size,
        inodes: tmpfs.inodes,
        mode: tmpfs.mode.unwrap_or(0o1777),
        uid: tmpfs.uid.unwrap_or(0),
        gid: tmpfs.gid.unwrap_or(0),
        read_only: read_only != layerd_spec::ReadOnly::Rw,
        noexec: !tmpfs.exec,
        ..TmpfsOptions::default()
    })
}
