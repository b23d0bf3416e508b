//! Owners, modes, times and extended attributes.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::node;

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let open = File::open(path).unwrap();
    node::xattr(&node::proc_path(open.as_fd()), name).unwrap()
}

fn owned(kind: u8, name: &str, mode: u64, uid: u64, gid: u64) -> Vec<u8> {
    with(kind, name.as_bytes(), b"target", b"", |header| {
        header.put_number(header::MODE, mode);
        header.put_number(header::UID, uid);
        header.put_number(header::GID, gid);
    })
}

#[test]
fn modes_are_given_whatever_the_umask() {
    let bench = Bench::new();
    let me = (
        u64::from(nix::unistd::geteuid().as_raw()),
        u64::from(nix::unistd::getegid().as_raw()),
    );
    let member = |kind, name, mode| owned(kind, name, mode, me.0, me.1);
    bench.overlay(&[
        member(b'0', "all", 0o777),
        member(b'0', "none", 0),
        member(b'0', "special", 0o6755),
        member(b'6', "fifo", 0o666),
        member(b'5', "dir", 0o1777),
        member(b'5', "group", 0o2770),
        member(b'0', "group/in", 0o640),
        member(b'5', "group/dir", 0o755),
        // More than permission bits: some tars put the type there too.
        member(b'0', "typed", 0o100_664),
    ]);
    let modes = [
        ("all", 0o777),
        ("none", 0),
        ("special", 0o6755),
        ("fifo", 0o666),
        ("dir", 0o1777),
        ("group", 0o2770),
        ("group/in", 0o640),
        ("group/dir", 0o755),
        ("typed", 0o664),
    ];
    for (path, mode) in modes {
        let stat = bench.at(path).symlink_metadata().unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn root_owners_are_given_before_modes() {
    test_support::need_root();
    let bench = Bench::new();
    let big = extended(&[("uid", b"4294967293"), ("gid", b"3000000")]);
    bench.overlay(&[
        owned(b'0', "file", 0o6711, 1000, 100),
        owned(b'2', "link", 0o777, 1000, 100),
        owned(b'3', "device", 0o4640, 1000, 100),
        owned(b'5', "dir", 0o2755, 1000, 100),
        owned(b'0', "dir/ours", 0o644, 0, 0),
        owned(b'5', "dir/sub", 0o755, 0, 0),
        owned(b'0', "dir/sub/ours", 0o644, 0, 0),
        owned(b'0', ".wh.gone", 0o644, 7, 8),
        big,
        file("big"),
    ]);
    let seen = |path: &str| {
        let stat = bench.at(path).symlink_metadata().unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    assert_eq!(seen("file"), (0o6711, 1000, 100));
    assert_eq!(seen("link"), (0o777, 1000, 100));
    assert_eq!(seen("device"), (0o4640, 1000, 100));
    assert_eq!(seen("dir"), (0o2755, 1000, 100));
    assert_eq!(seen("dir/ours"), (0o644, 0, 0));
    assert_eq!(seen("dir/sub"), (0o755, 0, 0));
    assert_eq!(seen("dir/sub/ours"), (0o644, 0, 0));
    assert_eq!(seen("gone"), (0, 7, 8));
    assert_eq!(seen("big"), (0o644, 4_294_967_293, 3_000_000));
    for uid in [&b"4294967295"[..], b"4294967296"] {
        let error = bench.refused(&[extended(&[("uid", uid)]), file("x")]);
        assert!(error.contains("an owner that cannot be"), "{error}");
    }
}

/// One permitted capability, as the kernel takes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn root_attributes_are_given_but_trusted_ones() {
    test_support::need_root();
    let bench = Bench::in_dir(tempfile::tempdir_in("/dev/shm").unwrap());
    let records: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.security.capability", &CAPABILITY),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.other", b"1"),
        // Only --acls writes this, and containerd does not read it.
        (
            "SCHILY.acl.access",
            b"user::rw-,user:anna:rw-,group::r--,mask::rw-,other::r--",
        ),
        ("uid", b"1000"),
    ];
    bench.overlay(&[
        extended(&records),
        file("file"),
        extended(&records[1..2]),
        directory("dir"),
        extended(&[("SCHILY.xattr.user.x", b"1")]),
        symlink("link", "file"),
    ]);
    let capability = xattr(&bench.at("file"), c"security.capability");
    assert_eq!(capability.as_deref(), Some(&CAPABILITY[..]));
    for (path, name) in [
        ("file", c"trusted.overlay.opaque"),
        ("file", c"trusted.other"),
        ("dir", c"trusted.overlay.opaque"),
        ("file", c"system.posix_acl_access"),
    ] {
        assert_eq!(xattr(&bench.at(path), name), None, "{path} {name:?}");
    }
}

/// user::rwx, user:54321:r-x, group::r-x, mask::rwx, other::---
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0x31, 0xd4, 0, 0, 4, 0, 5, 0, 255, 255,
    255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

#[test]
fn a_default_access_list_is_inherited_and_modes_are_kept() {
    let bench = Bench::new();
    bench.overlay(&[
        extended(&[("SCHILY.xattr.system.posix_acl_default", &ACL)]),
        directory("d"),
        file("d/file"),
        directory("d/dir"),
        file("d/dir/file"),
    ]);
    for (path, mode) in [("d/file", 0o644), ("d/dir", 0o755), ("d/dir/file", 0o644)] {
        let stat = bench.at(path).metadata().unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, mode, "{path}");
        assert!(
            xattr(&bench.at(path), c"system.posix_acl_access").is_some(),
            "{path}"
        );
    }
}

type Records<'a> = &'a [(&'a str, &'a [u8])];

/// Seconds and nanoseconds.
type Time = (i64, i64);

#[test]
fn times_are_what_containerd_can_express() {
    let bench = Bench::new();
    let table: [(Records<'_>, Time, Time); 6] = [
        (&[("mtime", b"5.25")], (5, 250_000_000), (5, 250_000_000)),
        (
            &[("mtime", b"5"), ("atime", b"9.5")],
            (5, 0),
            (9, 500_000_000),
        ),
        (&[("mtime", b"5"), ("atime", b"3")], (5, 0), (5, 0)),
        (&[("mtime", b"-5.5")], (0, 0), (0, 0)),
        (&[("mtime", b"9223372037")], (0, 0), (0, 0)),
        (&[("mtime", b"5"), ("atime", b"9223372037")], (5, 0), (0, 0)),
    ];
    for (number, (records, modified, accessed)) in table.iter().enumerate() {
        for kind in [b'0', b'5', b'2', b'6'] {
            let name = format!("{number}-{kind}");
            let inside = format!("{name}/inside");
            let mut members = vec![extended(records), member(kind, name.as_bytes(), b"x", b"")];
            if kind == b'5' {
                members.push(file(&inside));
            }
            bench.overlay(&members);
            let stat = bench.at(&name).symlink_metadata().unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), *modified, "{name}");
            if kind != b'5' {
                assert_eq!((stat.atime(), stat.atime_nsec()), *accessed, "{name}");
            }
        }
    }
}

#[test]
fn a_hard_link_gives_its_attributes_to_the_file() {
    let bench = Bench::new();
    let link = with(b'1', b"link", b"file", b"", |header| {
        header.put_number(header::MODE, 0o4711);
        header.put_number(header::MTIME, 12);
    });
    bench.overlay(&[file("file"), link]);
    let stat = bench.at("file").metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o4711, 12));
}

#[test]
fn root_missing_directories_are_like_the_nearest_lower_one() {
    test_support::need_root();
    let bench = Bench::new();
    let (near, far) = (bench.lower(), bench.lower());
    for (lower, path, mode, uid) in [
        (&far, "both", 0o700, 5),
        (&near, "both", 0o2751, 6),
        (&far, "far", 0o1770, 7),
        (&far, "hidden", 0o700, 8),
        (&far, "hidden/deep", 0o700, 8),
    ] {
        fs::create_dir(lower.join(path)).unwrap();
        std::os::unix::fs::chown(lower.join(path), Some(uid), Some(uid)).unwrap();
        fs::set_permissions(lower.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    test_support::give(&near.join("both"), |attributes| {
        attributes.permissions = 0o2751;
        attributes.modified = node::timespec(77, 5);
        attributes.xattrs = vec![
            (test_support::c("security.capability"), CAPABILITY.to_vec()),
            (test_support::c("trusted.overlay.opaque"), b"y".to_vec()),
        ];
    });
    fs::write(near.join("hidden"), "a file").unwrap();
    let applied = bench.overlay(&[file("both/new/x"), file("far/x"), file("hidden/deep/x")]);
    let seen = |path: &str| {
        let stat = bench.at(path).metadata().unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    assert_eq!(seen("both"), (0o2751, 6, 6));
    assert_eq!(
        seen("both/new"),
        (0o755, 0, 6),
        "setgid directories hand their group down"
    );
    assert_eq!(seen("both/new/x"), (0o644, 0, 0));
    assert_eq!(seen("far"), (0o1770, 7, 7));
    assert_eq!(seen("hidden"), (0o755, 0, 0));
    assert_eq!(bench.at("both").metadata().unwrap().mtime_nsec(), 5);
    assert_eq!(xattr(&bench.at("both"), c"trusted.overlay.opaque"), None);
    let implied: Vec<&[u8]> = applied.implied.iter().map(Vec::as_slice).collect();
    let expected: [&[u8]; 3] = [b"both/new", b"hidden", b"hidden/deep"];
    assert_eq!(implied, expected);
}
