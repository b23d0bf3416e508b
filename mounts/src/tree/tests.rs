use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, mkdirat};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;

use super::walk::FLAGS;
use super::{delete, usage, write_back};
use crate::barrier::Barrier;
use crate::error::Error;
use crate::folder::{Folder, rename_over};
use crate::mount::unmount;
use crate::test_support::{LoopDisk, enter_private_mounts};
use crate::types::Usage;

/// A directory that holds a tree named `top`.
struct Ground {
    dir: TempDir,
    fd: OwnedFd,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("top")).expect("mkdir");
        let fd = fs::File::open(dir.path()).expect("open").into();
        Self { dir, fd }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn delete(&self) -> Result<(), Error> {
        self.delete_while(&|| true)
    }

    fn delete_while(&self, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        let barrier = Barrier::open(self.dir.path()).expect("a barrier");
        delete(
            self.fd.as_fd(),
            c"top",
            self.dir.path(),
            &barrier,
            keep_going,
        )
    }

    fn usage(&self, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        usage(self.fd.as_fd(), c"top", self.dir.path(), keep_going)
    }

    fn write_back(&self) -> Usage {
        write_back(self.fd.as_fd(), c"top", self.dir.path()).expect("write back")
    }

    /// Nests `depth` directories with the longest names there are.
    fn nest(&self, depth: usize) {
        let name = CString::new([b'd'; 255]).expect("no NUL");
        let mut dir = openat(&self.fd, c"top", FLAGS, Mode::empty()).expect("open");
        for _ in 0..depth {
            mkdirat(&dir, name.as_c_str(), Mode::S_IRWXU).expect("mkdir");
            dir = openat(&dir, name.as_c_str(), FLAGS, Mode::empty()).expect("open");
        }
    }
}

#[test]
fn deletes_all_kinds_of_files_and_follows_none() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("outside")).expect("mkdir");
    fs::write(ground.at("outside/file"), "keep").expect("write");
    fs::create_dir_all(ground.at("top/a/b")).expect("mkdir");
    fs::write(ground.at("top/a/file"), "x").expect("write");
    symlink(ground.at("outside"), ground.at("top/a/link")).expect("symlink");
    symlink("nowhere", ground.at("top/a/dangling")).expect("symlink");
    nix::unistd::mkfifo(&ground.at("top/fifo"), Mode::S_IRWXU).expect("mkfifo");
    ground.delete().expect("delete");
    assert!(!ground.at("top").exists());
    assert_eq!(fs::read(ground.at("outside/file")).expect("kept"), b"keep");
    ground.delete().expect("nothing to delete");
}

#[test]
fn deletes_a_top_that_is_no_directory() {
    let ground = Ground::new();
    fs::remove_dir(ground.at("top")).expect("rmdir");
    fs::create_dir(ground.at("outside")).expect("mkdir");
    symlink("outside", ground.at("top")).expect("symlink");
    ground.delete().expect("delete");
    assert!(ground.at("top").symlink_metadata().is_err());
    assert!(ground.at("outside").exists());
}

/// A small stack and a count of descriptors show that depth costs neither.
#[test]
fn depth_costs_no_stack_and_no_descriptors() {
    const DEPTH: usize = 10_000;
    let ground = Ground::new();
    ground.nest(DEPTH);
    let act = || {
        let (calls, most) = (Cell::new(0_usize), Cell::new(0));
        let watch = || {
            calls.set(calls.get() + 1);
            if calls.get() % 500 == 0 {
                let open = fs::read_dir("/proc/self/fd").expect("proc").count();
                most.set(most.get().max(open));
            }
            true
        };
        let used = ground.usage(&watch).expect("usage");
        ground.delete_while(&watch).expect("delete");
        (used.inodes, most.get())
    };
    let (inodes, most) = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let thread = thread.spawn_scoped(scope, act).expect("a thread");
        thread.join().expect("no overflow")
    });
    assert_eq!(inodes, DEPTH as u64 + 1);
    assert!((64..200).contains(&most), "{most} descriptors");
    assert!(!ground.at("top").exists());
}

#[test]
fn width_is_no_matter() {
    let ground = Ground::new();
    for n in 0..5000 {
        let name = format!("top/{n}");
        if n % 2 == 0 {
            fs::create_dir(ground.at(&name)).expect("mkdir");
        } else {
            fs::write(ground.at(&name), "").expect("write");
        }
    }
    assert_eq!(ground.usage(&|| true).expect("usage").inodes, 5001);
    ground.delete().expect("delete");
    assert!(!ground.at("top").exists());
}

#[test]
fn stops_when_told_and_goes_on_later() {
    let ground = Ground::new();
    for n in 0..100 {
        fs::write(ground.at(&format!("top/{n}")), "").expect("write");
    }
    let left = Cell::new(50);
    let stopped = ground.delete_while(&|| {
        left.set(left.get() - 1);
        left.get() > 0
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    let rest = fs::read_dir(ground.at("top")).expect("read").count();
    assert_eq!(rest, 100 - 48, "48 files after the top itself");
    ground.delete().expect("delete");
    assert!(!ground.at("top").exists());
}

#[test]
fn the_way_back_must_lead_where_it_came_from() {
    let ground = Ground::new();
    ground.nest(300);
    let name = "d".repeat(255);
    let calls = Cell::new(0);
    let lost = ground.delete_while(&|| {
        calls.set(calls.get() + 1);
        if calls.get() == 150 {
            // The 12th directory is no longer open by now.
            let mut path = ground.at("top");
            for _ in 0..12 {
                path.push(&name);
            }
            fs::rename(&path, ground.at("away")).expect("rename");
        }
        true
    });
    let error = lost.expect_err("it must not delete elsewhere");
    assert_eq!(error.errno(), Some(Errno::ESTALE as i32));
    assert!(
        error.to_string().len() < 2000,
        "{}",
        error.to_string().len()
    );
    assert!(ground.at("top").exists());
}

#[test]
fn usage_is_what_du_says() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("top/a/b/c")).expect("mkdir");
    fs::write(ground.at("top/a/big"), vec![1; 1 << 20]).expect("write");
    fs::write(ground.at("top/a/b/small"), "x").expect("write");
    fs::hard_link(ground.at("top/a/big"), ground.at("top/a/b/c/same")).expect("link");
    let sparse = fs::File::create(ground.at("top/sparse")).expect("create");
    sparse.set_len(1 << 30).expect("a hole");
    symlink("x".repeat(2000), ground.at("top/link")).expect("symlink");
    let du = |option: &str| -> u64 {
        let mut du = Command::new("du");
        let out = du.args(["-s", option]).arg(ground.at("top")).output();
        let out = out.expect("du of coreutils");
        let text = String::from_utf8(out.stdout).expect("text");
        let number = text.split('\t').next().expect("a number");
        number.parse().expect("a number")
    };
    let expected = Usage {
        bytes: du("-B1"),
        inodes: du("--inodes"),
    };
    assert_eq!(ground.usage(&|| true).expect("usage"), expected);
    assert_eq!(expected.inodes, 8);
    assert_eq!(ground.write_back(), expected);
}

#[test]
fn what_vanishes_while_measured_is_passed_over() {
    let ground = Ground::new();
    for n in 0..40 {
        fs::create_dir_all(ground.at(&format!("top/{n}/sub"))).expect("mkdir");
        fs::write(ground.at(&format!("top/{n}/sub/file")), "x").expect("write");
    }
    let calls = Cell::new(0);
    let used = ground.usage(&|| {
        calls.set(calls.get() + 1);
        if calls.get() == 60 {
            for n in 0..40 {
                let _ = fs::remove_file(ground.at(&format!("top/{n}/sub/file")));
                let _ = fs::remove_dir(ground.at(&format!("top/{n}/sub")));
                let _ = fs::remove_dir(ground.at(&format!("top/{n}")));
            }
        }
        true
    });
    let inodes = used.expect("no error").inodes;
    assert!((41..121).contains(&inodes), "{inodes}");
}

#[test]
fn nothing_there_cannot_be_measured() {
    let ground = Ground::new();
    fs::remove_dir(ground.at("top")).expect("rmdir");
    let error = ground.usage(&|| true).expect_err("nothing there");
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
}

/// Keeps a file from being deleted until dropped.
struct Immutable(std::path::PathBuf);

impl Immutable {
    fn new(path: std::path::PathBuf) -> Self {
        chattr("+i", &path);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(flag: &str, path: &Path) {
    let status = Command::new("chattr").arg(flag).arg(path).status();
    let status = status.expect("chattr of e2fsprogs");
    assert!(status.success(), "chattr {flag}: run this test as root");
}

#[test]
fn root_what_cannot_be_deleted_keeps_nothing_else() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(16);
    let fd = fs::File::open(disk.path()).expect("open");
    let barrier = Barrier::open(disk.path()).expect("a barrier");
    let at = |name: &str| disk.path().join(name);
    fs::create_dir_all(at("top/a/b")).expect("mkdir");
    fs::create_dir_all(at("top/c")).expect("mkdir");
    for file in ["top/a/stays", "top/a/b/goes", "top/c/goes", "top/goes"] {
        fs::write(at(file), "x").expect("write");
    }
    let guard = Immutable::new(at("top/a/stays"));
    let mut own = capabilities(None).expect("own capabilities");
    own.effective -= CapabilitySet::LINUX_IMMUTABLE;
    set_capabilities(None, own).expect("a thread can give capabilities up");
    let error = delete(fd.as_fd(), c"top", disk.path(), &barrier, &|| true).expect_err("immutable");
    assert_eq!(error.errno(), Some(Errno::EPERM as i32));
    assert!(error.to_string().ends_with("/top/a/stays"), "{error}");
    assert!(at("top/a/stays").exists());
    for gone in ["top/a/b", "top/c", "top/goes"] {
        assert!(!at(gone).exists(), "{gone}");
    }
    drop(guard);
    delete(fd.as_fd(), c"top", disk.path(), &barrier, &|| true).expect("delete");
    assert!(!at("top").exists());
}

#[test]
fn root_what_is_immutable_or_append_only_is_moved_and_deleted() {
    enter_private_mounts();
    for disk in [LoopDisk::ext4(16), LoopDisk::xfs(&[]), LoopDisk::btrfs()] {
        let [from, to] =
            [c"from", c"to"].map(|name| Folder::open(disk.path(), name).expect("a folder"));
        let at = |name: &str| from.path.join(name);
        for dir in ["top/fixed/sub", "top/log"] {
            fs::create_dir_all(at(dir)).expect("mkdir");
        }
        for file in [
            "top/fixed/sub/file",
            "top/fixed/file",
            "top/log/file",
            "top/file",
        ] {
            fs::write(at(file), "x").expect("write");
        }
        symlink("nowhere", at("top/fixed/link")).expect("symlink");
        chattr("+a", &at("top/log/file"));
        chattr("+a", &at("top/log"));
        for fixed in ["top/file", "top/fixed/sub", "top/fixed", "top"] {
            chattr("+i", &at(fixed));
        }
        let moved = rename_over(&from, "top", &to, "top").expect("rename");
        assert!(moved && to.path.join("top/file").exists());
        let barrier = Barrier::open(disk.path()).expect("a barrier");
        delete(to.fd.as_fd(), c"top", &to.path, &barrier, &|| true).expect("delete");
        assert!(!to.path.join("top").exists());
    }
}

#[test]
fn root_mounts_are_not_entered() {
    enter_private_mounts();
    let ground = Ground::new();
    for dir in ["precious", "top/bound", "top/tmp", "top/goes"] {
        fs::create_dir(ground.at(dir)).expect("mkdir");
    }
    for file in ["precious/file", "top/file", "top/goes/file"] {
        fs::write(ground.at(file), "x").expect("write");
    }
    // The same file system, which only the number of the mount gives away, and another one.
    let mount = |arguments: &[&str], from: &Path, to: &str| {
        let mut command = Command::new("mount");
        let status = command
            .args(arguments)
            .arg(from)
            .arg(ground.at(to))
            .status();
        assert!(status.expect("mount").success());
    };
    mount(&["--bind"], &ground.at("precious"), "top/bound");
    mount(&["-t", "tmpfs"], Path::new("tmpfs"), "top/tmp");
    mount(&["--bind"], &ground.at("precious/file"), "top/file");
    fs::write(ground.at("top/tmp/file"), "x").expect("write");

    let used = ground.usage(&|| true).expect("usage");
    assert_eq!(used.inodes, 3, "top, goes and its file");
    assert_eq!(ground.write_back(), used);
    let error = ground.delete().expect_err("busy");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    for kept in [
        "precious/file",
        "top/bound/file",
        "top/tmp/file",
        "top/file",
    ] {
        assert!(ground.at(kept).exists(), "{kept}");
    }
    assert!(!ground.at("top/goes").exists());
    for target in ["top/bound", "top/tmp", "top/file"] {
        unmount(&ground.at(target)).expect("unmount");
    }
    ground.delete().expect("delete");
    assert!(ground.at("precious/file").exists());
}

#[test]
fn root_a_mounted_top_is_busy() {
    enter_private_mounts();
    let ground = Ground::new();
    fs::create_dir(ground.at("precious")).expect("mkdir");
    fs::write(ground.at("precious/file"), "x").expect("write");
    let top = ground.at("top");
    let flags = nix::mount::MsFlags::MS_BIND;
    let precious = ground.at("precious");
    nix::mount::mount(Some(&precious), &top, None::<&str>, flags, None::<&str>).expect("bind");
    match ground.delete() {
        Err(Error::Busy { path }) => assert_eq!(path, top),
        other => unreachable!("{other:?}"),
    }
    assert!(ground.at("precious/file").exists());
    unmount(&top).expect("unmount");
}

/// The file system sees this thread as an ordinary user, without root's right to all files.
#[test]
fn root_directories_without_permissions_are_deleted_by_their_owner() {
    let ground = Ground::new();
    let owner = nix::unistd::Uid::from_raw(12_345);
    fs::create_dir_all(ground.at("top/work/deep")).expect("mkdir");
    fs::create_dir_all(ground.at("top/unwritable")).expect("mkdir");
    fs::write(ground.at("top/unwritable/file"), "x").expect("write");
    for path in ["top/work/deep", "top/work", "top/unwritable", "top", ""] {
        nix::unistd::chown(&ground.at(path), Some(owner), None).expect("this test needs root");
    }
    let deny = |path: &str, mode| {
        fs::set_permissions(ground.at(path), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    deny("top/work", 0o000);
    deny("top/unwritable", 0o500);
    std::thread::scope(|scope| {
        let act = || {
            nix::unistd::setfsuid(owner);
            let denied = fs::read_dir(ground.at("top/work")).expect_err("denied");
            assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
            ground.delete()
        };
        scope.spawn(act).join().expect("no panic").expect("delete");
    });
    assert!(!ground.at("top").exists());
    assert_eq!(fs::metadata(ground.dir.path()).expect("stat").uid(), 12_345);
}
