//! A directory of a test, and the guard that leaves nothing of it behind.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::process;

/// A fresh directory under `target/tmp`. When dropped: ends every process that names it in its
/// command line, with its descendants; detaches every mount below it; deletes it.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

impl Scratch {
    /// Makes the directory. Gives the process, and all that it starts, the usual umask.
    ///
    /// # Panics
    /// Without root: the tests mount.
    #[must_use]
    pub fn new() -> Self {
        assert!(geteuid().is_root(), "this test mounts: run it as root");
        // Programs that layerd is compared with give it to what they make.
        umask(Mode::from_bits_truncate(0o022));
        let parent = target().join("tmp");
        std::fs::create_dir_all(&parent).expect("target/ can be written");
        let dir = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(4)
            .tempdir_in(parent)
            .expect("target/tmp can be written");
        Self(Some(dir))
    }

    /// As [`new`](Self::new), on an xfs file system of its own with room for `mebibytes` (at least
    /// 300), in a sparse loop image.
    ///
    /// # Panics
    /// If xfs or loop devices cannot be had.
    #[must_use]
    pub fn on_xfs(mebibytes: u64) -> Self {
        Self::on("xfs", mebibytes)
    }

    /// As [`on_xfs`](Self::on_xfs), on a file system that mkfs knows by this name.
    ///
    /// # Panics
    /// If it or loop devices cannot be had.
    #[must_use]
    pub fn on(filesystem: &str, mebibytes: u64) -> Self {
        let scratch = Self::new();
        let image = scratch.path().join("disk.image");
        let file = std::fs::File::create(&image).expect("the image can be made");
        file.set_len(mebibytes << 20).expect("the image is sparse");
        let disk = scratch.dir("disk");
        let mkfs = format!("mkfs.{filesystem}");
        process::output(Command::new(mkfs).arg("-q").arg(&image));
        process::output(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&disk),
        );
        scratch
    }

    /// As [`on_xfs`](Self::on_xfs), with quotas of projects where the kernel has them; tells if it has.
    ///
    /// # Panics
    /// If xfs or loop devices cannot be had.
    #[must_use]
    pub fn on_xfs_with_quotas(mebibytes: u64) -> (Self, bool) {
        let scratch = Self::on_xfs(mebibytes);
        let (disk, image) = (scratch.dir("disk"), scratch.path().join("disk.image"));
        process::output(Command::new("umount").arg(&disk));
        let mount = |options: &str| {
            let mut mount = Command::new("mount");
            mount.args(["-o", options]).args([&image, &disk]);
            mount
        };
        let quotas = mount("loop,prjquota").output();
        let has_quotas = quotas.is_ok_and(|ended| ended.status.success());
        if !has_quotas {
            process::output(&mut mount("loop"));
        }
        (scratch, has_quotas)
    }

    /// As [`new`](Self::new), with a tmpfs on `disk`, where no upper layer of overlayfs can be on
    /// older kernels.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[must_use]
    pub fn on_tmpfs() -> Self {
        let scratch = Self::new();
        let disk = scratch.dir("disk");
        process::output(
            Command::new("mount")
                .args(["-t", "tmpfs", "tmpfs"])
                .arg(&disk),
        );
        scratch
    }

    /// As [`new`](Self::new), with an overlay mount on `disk`, as the file system of a container is.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[must_use]
    pub fn on_overlayfs() -> Self {
        let scratch = Self::new();
        let disk = scratch.dir("disk");
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.dir(name));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        process::output(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(&disk),
        );
        scratch
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken only by drop").path()
    }

    /// Makes a directory in it, and those above.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).expect("a scratch directory can be written");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let dir = self.0.take().expect("dropped once");
        process::kill_all_naming(dir.path());
        for _ in 0..50 {
            let mounts = mounts_below(dir.path());
            if mounts.is_empty() {
                open_mount_points(dir.path());
                return;
            }
            for mount in mounts.iter().rev() {
                // Fails where one above it went already, or while it is busy; then looked at again.
                let _ = umount2(mount, MntFlags::UMOUNT_NOFOLLOW);
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Deleting would walk into what is still mounted.
        let kept = dir.keep();
        eprintln!(
            "still mounted below {}: {:?}",
            kept.display(),
            mounts_below(&kept)
        );
    }
}

/// Takes the flag off the mount points of volumes with a limit, which could not be deleted with it.
fn open_mount_points(dir: &Path) {
    let mut find = Command::new("find");
    find.arg(dir)
        .args(["-maxdepth", "6", "-path", "*/volumes/*/data", "-prune"]);
    find.args(["-exec", "chattr", "-f", "-i", "{}", "+"]);
    // A file system without the flag has none to take off.
    let _ = find.output();
}

/// The mount points of this mount namespace below a directory, in the order of mounting.
///
/// # Panics
/// If the mount table cannot be read.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/thread-self/mountinfo").expect("proc is mounted");
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|path| path.starts_with(dir))
        .collect()
}

/// Undoes mountinfo's octal escapes (`\040` for a space).
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::new();
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The workspace's target directory: above the profile's folder.
pub(crate) fn target() -> PathBuf {
    profile()
        .parent()
        .expect("a profile lies in target/")
        .to_owned()
}

/// `target/debug` (or another profile), which holds the built programs.
///
/// # Panics
/// If it is not where cargo puts it.
#[must_use]
pub fn profile() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let folder = program.parent().expect("a program lies in a folder");
    // Tests lie in deps/, programs beside it.
    let profile = folder.parent().filter(|_| folder.ends_with("deps"));
    profile.unwrap_or(folder).to_owned()
}
