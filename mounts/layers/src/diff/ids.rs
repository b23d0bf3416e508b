//! Ids of the host made into those of a container.

use std::path::Path;

use crate::diff::{IdRange, IdRanges};
use crate::error::Error;
use crate::node::{Stat, Xattrs};

/// The attribute of capabilities: a word of revision and flags, two sets of two words, and from
/// revision 3 on the id of the root to whose user namespace they belong. See linux/capability.h.
const CAPABILITY: &[u8] = b"security.capability";
const REVISION: usize = 3;
const WITHOUT_ROOT: (u8, usize) = (2, 20);
const WITH_ROOT: (u8, usize) = (3, 24);

/// Tags of entries of access lists that name a user, or a group. See acl(5).
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;
const ACL_HEAD: usize = 4;
const ACL_ENTRY: usize = 8;

/// The file as the container sees it.
pub(super) fn stat(mut stat: Stat, ids: Option<&IdRanges>, path: &Path) -> Result<Stat, Error> {
    if let Some(ids) = ids {
        stat.uid = mapped(&ids.uid, stat.uid, "user", path)?;
        stat.gid = mapped(&ids.gid, stat.gid, "group", path)?;
    }
    Ok(stat)
}

/// Its attributes as the container sees them.
pub(super) fn xattrs(
    mut xattrs: Xattrs,
    ids: Option<&IdRanges>,
    path: &Path,
) -> Result<Xattrs, Error> {
    for (name, value) in &mut xattrs {
        match name.to_bytes() {
            CAPABILITY => capability(value, ids, path)?,
            name if name.starts_with(b"system.posix_acl_") => {
                if let Some(ids) = ids {
                    access_list(value, ids, path)?;
                }
            }
            _ => {}
        }
    }
    Ok(xattrs)
}

/// Without a mapping the user namespace of the root id is unknown; as in Docker's layers the
/// capability then applies to root of the container that runs the layer.
fn capability(value: &mut Vec<u8>, ids: Option<&IdRanges>, path: &Path) -> Result<(), Error> {
    if value.len() != WITH_ROOT.1 || value[REVISION] != WITH_ROOT.0 {
        return Ok(());
    }
    let (head, root) = value.split_at_mut(WITHOUT_ROOT.1);
    let id = u32::from_le_bytes([root[0], root[1], root[2], root[3]]);
    let id = match ids {
        Some(ids) => mapped(&ids.uid, id, "user", path)?,
        None => 0,
    };
    root.copy_from_slice(&id.to_le_bytes());
    if id == 0 {
        head[REVISION] = WITHOUT_ROOT.0;
        value.truncate(WITHOUT_ROOT.1);
    }
    Ok(())
}

fn access_list(value: &mut [u8], ids: &IdRanges, path: &Path) -> Result<(), Error> {
    let entries = value.get_mut(ACL_HEAD..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(ACL_ENTRY) {
        let (ranges, kind) = match u16::from_le_bytes([entry[0], entry[1]]) {
            ACL_USER => (&ids.uid, "user"),
            ACL_GROUP => (&ids.gid, "group"),
            _ => continue,
        };
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = mapped(ranges, id, kind, path)?;
        entry[4..].copy_from_slice(&id.to_le_bytes());
    }
    Ok(())
}

fn mapped(ranges: &[IdRange], id: u32, kind: &'static str, path: &Path) -> Result<u32, Error> {
    let within = |range: &IdRange| {
        let offset = id.checked_sub(range.host)?;
        (offset < range.length).then(|| range.container + offset)
    };
    ranges
        .iter()
        .find_map(within)
        .ok_or_else(|| Error::Unmapped {
            path: crate::error::shown(path),
            kind,
            id,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> IdRanges {
        let range = |container, host, length| IdRange {
            container,
            host,
            length,
        };
        IdRanges {
            uid: vec![range(0, 100_000, 1000), range(1000, 7, 1)],
            gid: vec![range(0, 200_000, 1000)],
        }
    }

    fn set(root: Option<u32>) -> Vec<u8> {
        let mut value = vec![1, 0, 0, 2];
        value.resize(20, 5);
        if let Some(root) = root {
            value[3] = 3;
            value.extend(root.to_le_bytes());
        }
        value
    }

    #[test]
    fn capabilities_get_the_containers_root() {
        let ids = ids();
        for (value, ids, wanted) in [
            (set(None), None, set(None)),
            (set(Some(0)), None, set(None)),
            (set(Some(100_000)), None, set(None)),
            (set(Some(100_000)), Some(&ids), set(None)),
            (set(Some(100_500)), Some(&ids), set(Some(500))),
            (vec![1, 2, 3], Some(&ids), vec![1, 2, 3]),
        ] {
            let all = vec![(c"security.capability".to_owned(), value)];
            let found = xattrs(all, ids, Path::new("x")).unwrap();
            assert_eq!(found[0].1, wanted);
        }
        let other = vec![(c"security.capability".to_owned(), set(Some(5)))];
        assert!(xattrs(other, Some(&ids), Path::new("x")).is_err());
    }

    #[test]
    fn access_lists_name_ids_of_the_container() {
        let list = |user: u32, group: u32| {
            let entry =
                |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
            let entries = [entry(1, u32::MAX), entry(2, user), entry(8, group)];
            [2_u32.to_le_bytes().to_vec(), entries.concat()].concat()
        };
        let all = vec![(c"system.posix_acl_access".to_owned(), list(7, 200_004))];
        let found = xattrs(all, Some(&ids()), Path::new("x")).unwrap();
        assert_eq!(found[0].1, list(1000, 4));
    }

    #[test]
    fn an_id_without_a_place_is_named() {
        for (id, wanted) in [(100_999, Some(999)), (101_000, None), (8, None)] {
            let found = mapped(&ids().uid, id, "user", Path::new("a/b"));
            assert_eq!(found.as_ref().ok().copied(), wanted);
            if let Err(error) = found {
                let text = error.to_string();
                for part in ["a/b", &format!("user {id}"), "/etc/subuid"] {
                    assert!(text.contains(part), "{text}");
                }
            }
        }
    }
}
