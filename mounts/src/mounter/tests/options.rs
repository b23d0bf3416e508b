//! Effects of all options of a bind and of a tmpfs.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Ground;
use crate::mounter::{
    BindOptions, Effective, MountError, Mounter, Propagation, ReadOnly, TmpfsOptions,
};

/// True if a file can be made in a directory.
fn writable(dir: &Path) -> bool {
    match fs::write(dir.join("new"), "x") {
        Ok(()) => {
            fs::remove_file(dir.join("new")).expect("it was just made");
            true
        }
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => false,
        Err(error) => unreachable!("{}: {error}", dir.display()),
    }
}

#[test]
fn root_read_only_modes_with_a_writable_mount_below() {
    use Effective::{Recursive, Top};
    use ReadOnly::{RecursiveIfPossible, RecursiveRequired, Writable};
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(ground.foreign("source/sub").join("mark"), "").expect("write");
    // recursive, asked; effective; top writable; below: seen, writable
    let table = [
        (false, Writable, Effective::Writable, true, None),
        (true, Writable, Effective::Writable, true, Some(true)),
        (false, ReadOnly::Top, Recursive, false, None),
        (true, ReadOnly::Top, Top, false, Some(true)),
        (false, RecursiveIfPossible, Recursive, false, None),
        (true, RecursiveIfPossible, Recursive, false, Some(false)),
        (false, RecursiveRequired, Recursive, false, None),
        (true, RecursiveRequired, Recursive, false, Some(false)),
    ];
    for (recursive, read_only, effective, top, below) in table {
        let row = format!("{read_only:?}, recursive {recursive}");
        let options = BindOptions {
            recursive,
            read_only,
            ..BindOptions::default()
        };
        let tree = ground.bind(&source, &options);
        assert_eq!(tree.read_only(), effective, "{row}");
        let attached = ground.attach(tree, &target);
        assert_eq!(writable(&target), top, "{row}");
        let sub = target.join("sub");
        let seen = sub.join("mark").exists().then(|| writable(&sub));
        assert_eq!(seen, below, "{row}");
        ground.detach(&target, &attached);
        assert!(writable(&source), "{row}: the source stays as it is");
        assert!(writable(&source.join("sub")), "{row}: and what is below");
    }
}

#[test]
fn root_recursive_read_only_is_honoured_or_refused() {
    let ground = Ground::new();
    let (source, target) = (ground.foreign("source"), ground.dir("target"));
    ground.propagate(&source, MsFlags::MS_SHARED);
    let bind = |read_only| {
        let options = BindOptions {
            recursive: true,
            read_only,
            propagation: Propagation::Slave,
            ..BindOptions::default()
        };
        ground.mounter.bind(&ground.open(&source), &options)
    };
    let refused = bind(ReadOnly::RecursiveRequired);
    assert!(
        matches!(refused, Err(MountError::Unsupported { .. })),
        "{refused:?}"
    );
    let tree = bind(ReadOnly::RecursiveIfPossible).expect("as far as it goes");
    assert_eq!(tree.read_only(), Effective::Top, "the downgrade is told");
    let attached = ground.attach(tree, &target);
    ground.foreign("source/late");
    assert!(!writable(&target));
    assert!(writable(&target.join("late")), "that is why");
    ground.detach(&target, &attached);
    assert!(writable(&source.join("late")), "its origin stays");
}

#[test]
fn root_a_read_only_source_is_told() {
    let ground = Ground::new();
    let (source, target) = (ground.foreign("source"), ground.dir("target"));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    ground.propagate(&source, flags);
    let tree = ground.bind(&source, &BindOptions::default());
    assert_eq!(tree.read_only(), Effective::Top);
    let attached = ground.attach(tree, &target);
    assert!(!writable(&target), "nothing is loosened");
    ground.detach(&target, &attached);
}

#[test]
fn root_nosuid_nodev_noexec() {
    let ground = Ground::new();
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    ground.foreign("source/sub");
    for dir in [source.clone(), source.join("sub")] {
        fs::copy("/bin/true", dir.join("program")).expect("copy");
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        mknod(&dir.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).expect("a device node");
    }
    let table = [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
        (true, true, true),
    ];
    for (nosuid, nodev, noexec) in table {
        let options = BindOptions {
            recursive: true,
            nosuid,
            nodev,
            noexec,
            ..BindOptions::default()
        };
        let attached = ground.attach(ground.bind(&source, &options), &target);
        for dir in [target.clone(), target.join("sub")] {
            let row = format!("{options:?} {}", dir.display());
            let flags = statvfs(&dir).expect("look").flags();
            assert_eq!(flags.contains(FsFlags::ST_NOSUID), nosuid, "{row}");
            let ran = Command::new(dir.join("program")).status();
            assert_eq!(ran.is_err(), noexec, "{row}: {ran:?}");
            // The disk of the test may be nodev itself, so only the effect of ours can be told.
            let opened = fs::write(dir.join("null"), "x");
            assert!(opened.is_err() || !nodev, "{row}: {opened:?}");
            assert_eq!(opened.is_err(), nodev, "{row}: {opened:?}");
        }
        ground.detach(&target, &attached);
    }
}

#[test]
fn root_propagation_goes_where_it_was_told() {
    let ground = Ground::new();
    let (source, target) = (ground.foreign("source"), ground.dir("target"));
    ground.propagate(&source, MsFlags::MS_SHARED);
    for name in ["source/down", "source/up"] {
        ground.dir(name);
    }
    let table = [
        (Propagation::Private, false, false),
        (Propagation::Slave, true, false),
        (Propagation::Shared, true, true),
    ];
    for (propagation, down, up) in table {
        let options = BindOptions {
            propagation,
            ..BindOptions::default()
        };
        let attached = ground.attach(ground.bind(&source, &options), &target);
        fs::write(ground.foreign("source/down").join("mark"), "").expect("write");
        let seen = target.join("down/mark").exists();
        assert_eq!(seen, down, "{propagation:?} from the source");
        fs::write(ground.foreign("target/up").join("mark"), "").expect("write");
        let seen = source.join("up/mark").exists();
        assert_eq!(seen, up, "{propagation:?} to the source");
        nix::mount::umount2(&target.join("up"), nix::mount::MntFlags::empty()).expect("unmount");
        ground.detach(&target, &attached);
        let still = source.join("down/mark").exists();
        assert!(still, "{propagation:?}: what the host mounted stays");
        nix::mount::umount2(&source.join("down"), nix::mount::MntFlags::empty()).expect("unmount");
    }
}

#[test]
fn root_a_shared_parent_does_not_change_what_was_asked() {
    let ground = Ground::new();
    let source = ground.dir("source");
    let parent = ground.foreign("parent");
    ground.propagate(&parent, MsFlags::MS_SHARED);
    let target = ground.dir("parent/target");
    let attached = ground.attach(ground.bind(&source, &BindOptions::default()), &target);
    let below = ground.mounter.mounts_below(&parent).expect("list");
    assert_eq!(below[0].propagation, Propagation::Private);
    ground.detach(&target, &attached);
}

#[test]
fn root_a_slave_has_no_peers_to_share_with() {
    let ground = Ground::new();
    let (origin, source) = (ground.foreign("origin"), ground.dir("source"));
    ground.propagate(&origin, MsFlags::MS_SHARED);
    let slave = BindOptions {
        propagation: Propagation::Slave,
        ..BindOptions::default()
    };
    let attached = ground.attach(ground.bind(&origin, &slave), &source);
    let shared = BindOptions {
        propagation: Propagation::Shared,
        ..BindOptions::default()
    };
    let handle = ground.open(&source);
    let error = ground.mounter.bind(&handle, &shared).expect_err("refused");
    let text = error.to_string();
    let mount = format!("mount {}, which is slave", source.display());
    assert!(text.contains(&mount), "{text}");
    assert!(text.contains("--make-shared"), "{text}");
    drop(
        ground
            .mounter
            .bind(&handle, &slave)
            .expect("slaves of slaves are fine"),
    );
    drop(handle);
    ground.detach(&source, &attached);
}

#[test]
fn root_tmpfs_keeps_its_limits() {
    let ground = Ground::new();
    let target = ground.dir("target");
    let options = TmpfsOptions {
        size: Some(1 << 20),
        inodes: Some(4), // one is the top directory
        mode: 0o750,
        uid: 1234,
        gid: 2345,
        noexec: true,
        ..TmpfsOptions::default()
    };
    let tree = ground.mounter.tmpfs(&options).expect("a tmpfs");
    assert_eq!(tree.read_only(), Effective::Writable);
    let attached = ground.attach(tree, &target);
    let top = fs::metadata(&target).expect("look");
    let mode = top.permissions().mode() & 0o7777;
    assert_eq!((mode, top.uid(), top.gid()), (0o750, 1234, 2345));
    let flags = statvfs(&target).expect("look").flags();
    let expected = FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    assert!(flags.contains(expected), "{flags:?}");
    fs::write(target.join("fits"), vec![1; 900 << 10]).expect("900 KiB fit");
    let full = fs::write(target.join("more"), vec![1; 200 << 10]).expect_err("200 more do not");
    assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    fs::write(target.join("third"), "").expect("the third file");
    let full = fs::write(target.join("fourth"), "").expect_err("no inode is left");
    assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    ground.detach(&target, &attached);
    assert!(!target.join("fits").exists(), "its content is gone with it");
}

#[test]
fn root_tmpfs_can_be_read_only_and_says_what_is_wrong() {
    let ground = Ground::new();
    let target = ground.dir("target");
    let options = TmpfsOptions {
        read_only: true,
        ..TmpfsOptions::default()
    };
    let tree = ground.mounter.tmpfs(&options).expect("a tmpfs");
    assert_eq!(tree.read_only(), Effective::Recursive);
    let attached = ground.attach(tree, &target);
    assert!(!writable(&target));
    ground.detach(&target, &attached);
    let options = TmpfsOptions {
        uid: u32::MAX,
        ..TmpfsOptions::default()
    };
    let error = ground.mounter.tmpfs(&options).expect_err("no such user");
    assert!(error.to_string().contains("kernel says"), "{error}");
}
