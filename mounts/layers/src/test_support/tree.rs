//! Random trees: full of what copies forget.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use rustix::fs::FileType;

use crate::node::timespec;
use crate::test_support::{c, give, make_node};

/// Privilege needed to make a random tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Only files that an unprivileged user can make.
    Anybody,
    /// Also devices, other owners, trusted attributes and capabilities.
    Root,
    /// All that, whiteouts and opaque directories, and names that often meet.
    Layer,
}

#[derive(Debug, Clone)]
enum What {
    Dir,
    File {
        size: u64,
        pieces: Vec<(u64, u8, usize)>,
    },
    Symlink(&'static str),
    Node(FileType, (u32, u32)),
    HardLink(Index),
    Opaque,
}

/// One file of a random tree.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    parent: Index,
    name: Vec<u8>,
    what: What,
    permissions: u32,
    owner: (u32, u32),
    times: ((i64, u32), (i64, u32)),
    xattrs: Vec<(&'static str, Vec<u8>)>,
    acl: bool,
}

pub(crate) fn items(who: Who, most: usize) -> impl Strategy<Value = Vec<Item>> {
    vec(item(who), 0..most)
}

fn item(who: Who) -> impl Strategy<Value = Item> {
    let privileged = who != Who::Anybody;
    let owner = match who {
        Who::Anybody => {
            let ours = (
                nix::unistd::getuid().as_raw(),
                nix::unistd::getgid().as_raw(),
            );
            Just(ours).boxed()
        }
        _ => (
            select(vec![0, 1, 1000, 3_000_000, u32::MAX - 2]),
            select(vec![0, 7, 100_000]),
        )
            .boxed(),
    };
    // Without root's rights the owner must be able to read what is to be copied.
    let needed = if privileged { 0 } else { 0o700 };
    let mode = (0..0o10000_u32).prop_map(move |mode| mode | needed);
    let time = || {
        (
            select(vec![0, 1, -5, 1_700_000_000, (1 << 33) + 7]),
            0..1_000_000_000_u32,
        )
    };
    let times = (time(), time());
    let fields = (
        any::<Index>(),
        name(who),
        what(who),
        mode,
        owner,
        times,
        xattrs(who),
        any::<u8>(),
    );
    fields.prop_map(
        |(parent, name, what, permissions, owner, times, xattrs, dice)| Item {
            parent,
            name,
            what,
            permissions,
            owner,
            times,
            xattrs,
            acl: dice < 40,
        },
    )
}

fn name(who: Who) -> impl Strategy<Value = Vec<u8>> {
    let few = select(vec!["a", "b", "c", "d", "e", "f"]).prop_map(|name| name.as_bytes().to_vec());
    if who == Who::Layer {
        return few.boxed();
    }
    let odd = select(vec![
        b"-rf".to_vec(),
        b"with space\nand line".to_vec(),
        b"=%25%3D".to_vec(),
        b"no\xff\xfeutf8".to_vec(),
        "ünï".as_bytes().to_vec(),
        vec![b'l'; 255],
        vec![b'm'; 99],
        vec![b'n'; 101],
        b"..x".to_vec(),
    ]);
    prop_oneof![3 => few, 2 => odd, 2 => "[a-z0-9]{1,12}".prop_map(String::into_bytes)].boxed()
}

fn what(who: Who) -> impl Strategy<Value = What> {
    let piece = (0..1_200_000_u64, any::<u8>(), 1..90_000_usize);
    let file = (0..1_500_000_u64, vec(piece, 0..3));
    let file = file.prop_map(|(size, pieces)| What::File { size, pieces });
    let small = (0..5000_usize, any::<u8>()).prop_map(|(size, byte)| What::File {
        size: size as u64,
        pieces: vec![(0, byte | 1, size)],
    });
    let target = select(vec!["a", "../..", "/etc/passwd", "b/c/d", "."]);
    let anybody = prop_oneof![
        4 => Just(What::Dir),
        3 => small,
        2 => file,
        2 => target.prop_map(What::Symlink),
        1 => Just(What::Node(FileType::Fifo, (0, 0))),
        1 => Just(What::Node(FileType::Socket, (0, 0))),
        2 => any::<Index>().prop_map(What::HardLink),
    ];
    if who == Who::Anybody {
        return anybody.boxed();
    }
    // As much as xfs takes.
    let number = (1..500_u32, 0..200_000_u32);
    let kind = select(vec![FileType::CharacterDevice, FileType::BlockDevice]);
    let device = (kind, number).prop_map(|(kind, number)| What::Node(kind, number));
    if who == Who::Root {
        return prop_oneof![9 => anybody, 1 => device].boxed();
    }
    let whiteout = Just(What::Node(FileType::CharacterDevice, (0, 0)));
    prop_oneof![9 => anybody, 1 => device, 4 => whiteout, 3 => Just(What::Opaque)].boxed()
}

fn xattrs(who: Who) -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let mut names = vec!["user.a", "user.with=sign%25"];
    if who != Who::Anybody {
        names.extend(["trusted.t", "security.capability"]);
    }
    if who == Who::Layer {
        // What a nested overlay wrote through the mount; and a marker of the other kind of mount.
        names.extend(["trusted.overlay.overlay.opaque", "user.overlay.opaque"]);
    }
    let value = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 300..900)];
    let few = vec((select(names), value), 0..3);
    prop_oneof![3 => Just(Vec::new()), 1 => few]
}

/// A capability set as the kernel takes it: version 2, one permitted capability.
const CAPABILITY: [u8; 20] = [0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// user::rwx, user:54321:r-x, group::r-x, mask::rwx, other::---
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0x31, 0xd4, 0, 0, 4, 0, 5, 0, 255, 255,
    255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Makes the tree in `root`.
pub(crate) fn build(root: &Path, items: &[Item]) {
    let mut dirs = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made = Vec::new();
    for item in items {
        let parent = item.parent.get(&dirs);
        let path = parent.join(OsStr::from_bytes(&item.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &item.what {
            What::Dir | What::Opaque => {
                fs::create_dir(&path).expect("a directory");
                dirs.push(path.clone());
            }
            What::HardLink(_) if files.is_empty() => continue,
            What::HardLink(index) => {
                fs::hard_link(index.get(&files), &path).expect("a link");
                continue;
            }
            other => {
                make(&path, other);
                if !matches!(other, What::Node(_, (0, 0))) {
                    files.push(path.clone());
                }
            }
        }
        made.push((path, item));
    }
    // From the last one back: a directory after all that is in it.
    for (path, item) in made.iter().rev() {
        dress(path, item);
    }
}

fn make(path: &Path, what: &What) {
    match what {
        What::File { size, pieces } => {
            let file = fs::File::create(path).expect("a file");
            for (offset, byte, length) in pieces {
                file.write_all_at(&vec![*byte; *length], *offset)
                    .expect("content");
            }
            let length = file.metadata().expect("metadata").len();
            file.set_len(length.max(*size)).expect("a length");
        }
        What::Symlink(target) => std::os::unix::fs::symlink(target, path).expect("a symlink"),
        What::Node(kind, number) => make_node(path, *kind, *number),
        What::Dir | What::Opaque | What::HardLink(_) => {}
    }
}

fn dress(path: &Path, item: &Item) {
    let plain = matches!(item.what, What::File { .. } | What::Dir | What::Opaque);
    let whiteout = matches!(item.what, What::Node(FileType::CharacterDevice, (0, 0)));
    let mut xattrs = item.xattrs.clone();
    xattrs.retain(|(name, _)| !whiteout && (plain || name.starts_with("trusted.t")));
    xattrs.retain(|(name, _)| {
        *name != "security.capability" || matches!(item.what, What::File { .. })
    });
    for (name, value) in &mut xattrs {
        if *name == "security.capability" {
            *value = CAPABILITY.to_vec();
        }
    }
    if item.acl && plain {
        xattrs.push(("system.posix_acl_access", ACL.to_vec()));
        if !matches!(item.what, What::File { .. }) {
            xattrs.push(("system.posix_acl_default", ACL.to_vec()));
        }
    }
    if matches!(item.what, What::Opaque) {
        xattrs.push(("trusted.overlay.opaque", b"y".to_vec()));
    }
    give(path, |attributes| {
        (attributes.uid, attributes.gid) = item.owner;
        attributes.permissions = item.permissions;
        attributes.modified = timespec(item.times.0.0, item.times.0.1);
        attributes.accessed = timespec(item.times.1.0, item.times.1.1);
        attributes.xattrs = xattrs
            .iter()
            .map(|(name, value)| (c(name), value.clone()))
            .collect();
    });
}
