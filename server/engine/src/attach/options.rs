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

#[cfg(test)]
mod tests {
    use layerd_spec::ReadOnly as Wanted;

    use super::*;

    fn refused(tmpfs: &Tmpfs) -> String {
        let error = tmpfs_options(tmpfs, Wanted::Rw).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_tmpfs_gets_every_option_it_asks_for() {
        let asked = Tmpfs {
            size: Some(TmpfsSize::Bytes(4096)),
            mode: Some(0o750),
            uid: Some(7),
            gid: Some(8),
            inodes: Some(9),
            exec: true,
            more: Vec::new(),
        };
        let wanted = TmpfsOptions {
            size: Some(4096),
            inodes: Some(9),
            mode: 0o750,
            uid: 7,
            gid: 8,
            read_only: false,
            nosuid: true,
            nodev: true,
            noexec: false,
        };
        assert_eq!(tmpfs_options(&asked, Wanted::Rw).unwrap(), wanted);
        let plain = TmpfsOptions {
            noexec: true,
            ..TmpfsOptions::default()
        };
        let given = tmpfs_options(&Tmpfs::default(), Wanted::Rw);
        assert_eq!(given.unwrap(), plain);
        for read_only in [
            Wanted::RoTop,
            Wanted::RoRecursiveIfPossible,
            Wanted::RoRecursiveRequired,
        ] {
            let given = tmpfs_options(&Tmpfs::default(), read_only);
            assert!(given.unwrap().read_only, "{read_only:?}");
        }
    }

    #[test]
    fn what_only_a_runtime_can_do_is_refused() {
        let percent = Tmpfs {
            size: Some(TmpfsSize::Percent(50)),
            ..Tmpfs::default()
        };
        let more = Tmpfs {
            more: vec!["huge=always".to_owned()],
            ..Tmpfs::default()
        };
        assert_eq!(
            refused(&percent),
            "a tmpfs size in percent cannot be honoured here"
        );
        assert_eq!(
            refused(&more),
            "a further mount option of a tmpfs cannot be honoured here"
        );
    }

    #[test]
    fn words_of_a_specification_become_the_mounters() {
        use layerd_spec::Propagation as Asked;
        let pairs = [
            (Wanted::Rw, ReadOnly::Writable),
            (Wanted::RoTop, ReadOnly::Top),
            (Wanted::RoRecursiveIfPossible, ReadOnly::RecursiveIfPossible),
            (Wanted::RoRecursiveRequired, ReadOnly::RecursiveRequired),
        ];
        for (asked, given) in pairs {
            assert_eq!(read_only(asked), given);
        }
        let pairs = [
            (Asked::Private, Propagation::Private),
            (Asked::Rprivate, Propagation::Private),
            (Asked::Slave, Propagation::Slave),
            (Asked::Rslave, Propagation::Slave),
            (Asked::Shared, Propagation::Shared),
            (Asked::Rshared, Propagation::Shared),
        ];
        for (asked, given) in pairs {
            assert_eq!(propagation(asked), given);
        }
        assert!(new_source(Made::File).file);
        assert_eq!(new_source(Made::Directory), NewSource::DIRECTORY);
    }

    #[test]
    fn a_user_by_number_may_have_a_group() {
        assert_eq!(user_numbers("7"), Some((7, 7)));
        assert_eq!(user_numbers("7:8"), Some((7, 8)));
        for text in ["", "name", "7:", ":8", "name:8", "7:name", "7:8:9", "-1"] {
            assert_eq!(user_numbers(text), None, "{text:?}");
        }
    }
}
