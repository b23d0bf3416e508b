//! Helpers of tests on the real kernel. Tests only.
//!
//! All mounts are made in a mount namespace that the test's thread has for itself: they vanish
//! with the thread, also when it panics or is killed.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};

use crate::error::Error;
use crate::mount;
use crate::types::Mount;

/// Gives this thread, and what it starts from here on, a mount namespace of its own and the usual umask.
///
/// # Panics
/// If this process is not root.
pub fn enter_private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("this test mounts file systems: run it as root");
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .expect("root may make its mounts private");
    set_umask();
}

/// Gives the files that this thread and what it starts make the usual modes, whatever the umask of
/// who runs the tests.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// A file system of its own in a file, mounted. Call [`enter_private_mounts`] first.
#[derive(Debug)]
pub struct LoopDisk {
    folder: PathBuf,
}

impl LoopDisk {
    /// An empty xfs; `options` are further ones for mkfs.xfs.
    ///
    /// # Panics
    /// If xfsprogs is not installed or there is no loop device.
    #[must_use]
    pub fn xfs(options: &[&str]) -> Self {
        Self::new("mkfs.xfs", &[&["-q"], options].concat(), 300)
    }

    /// An empty xfs with quotas of projects; `None` where the kernel has none.
    ///
    /// # Panics
    /// If xfsprogs is not installed or there is no loop device.
    #[must_use]
    pub fn xfs_with_project_quotas() -> Option<Self> {
        let disk = Self::xfs(&[]);
        let has_quotas = disk.mount_again("loop,prjquota");
        assert!(
            has_quotas || disk.mount_again("loop"),
            "it was mounted before"
        );
        has_quotas.then_some(disk)
    }

    /// Unmounts a disk, which nothing uses, and mounts it with these options, of which one is `loop`. Answers
    /// false if the kernel refuses them; it is not mounted then.
    ///
    /// # Panics
    /// If it cannot be unmounted.
    pub fn mount_again(&self, options: &str) -> bool {
        let image = self.folder.join("image");
        // Below the mount, if there is one.
        if !image.exists() {
            run("umount", &[text(&self.folder)]);
        }
        let arguments = ["-o", options, text(&image), text(&self.folder)];
        let mounted = Command::new("mount").args(arguments).output();
        mounted.is_ok_and(|output| output.status.success())
    }

    /// An empty btrfs.
    ///
    /// # Panics
    /// If btrfs-progs is not installed or there is no loop device.
    #[must_use]
    pub fn btrfs() -> Self {
        Self::new("mkfs.btrfs", &["-q"], 128)
    }

    /// An empty ext4 of `mib` mebibytes.
    ///
    /// # Panics
    /// If e2fsprogs is not installed or there is no loop device.
    #[must_use]
    pub fn ext4(mib: u64) -> Self {
        Self::new("mkfs.ext4", &["-q"], mib)
    }

    /// An empty ext4 of `mib` mebibytes that has no journal.
    ///
    /// # Panics
    /// If e2fsprogs is not installed or there is no loop device.
    #[must_use]
    pub fn ext4_without_journal(mib: u64) -> Self {
        Self::new("mkfs.ext4", &["-q", "-O", "^has_journal"], mib)
    }

    /// An empty ext4 whose directories do not tell the types of their entries.
    ///
    /// # Panics
    /// If e2fsprogs is not installed or there is no loop device.
    #[must_use]
    pub fn ext4_without_entry_types() -> Self {
        Self::new("mkfs.ext4", &["-q", "-O", "^filetype"], 16)
    }

    /// An empty tmpfs.
    ///
    /// # Panics
    /// If this process may not mount.
    #[must_use]
    pub fn tmpfs() -> Self {
        Self::memory("tmpfs")
    }

    /// An empty ramfs, which has no extended attributes.
    ///
    /// # Panics
    /// If this process may not mount.
    #[must_use]
    pub fn ramfs() -> Self {
        Self::memory("ramfs")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn memory(kind: &str) -> Self {
        let disk = Self::folder();
        run("mount", &["-t", kind, kind, text(&disk.folder)]);
        disk
    }

    fn new(make: &str, options: &[&str], mib: u64) -> Self {
        let disk = Self::folder();
        let image = disk.folder.join("image");
        let file = std::fs::File::create(&image).expect("a temporary file");
        file.set_len(mib << 20).expect("a sparse file");
        run(make, &[options, &[text(&image)]].concat());
        run("mount", &["-o", "loop", text(&image), text(&disk.folder)]);
        disk
    }

    fn folder() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("layerd-disk-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            match std::fs::create_dir(&folder) {
                Ok(()) => return Self { folder },
                // Left by a test that was killed in a process of the same number.
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(cause) => unreachable!("a temporary directory: {cause}"),
            }
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A thread that is about to end may have a file open; sled's end after sled is dropped.
        const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
        let began = std::time::Instant::now();
        let umount = || nix::mount::umount2(&self.folder, nix::mount::MntFlags::empty());
        let mut unmounted = umount();
        while unmounted == Err(nix::errno::Errno::EBUSY) && began.elapsed() < LIMIT {
            std::thread::yield_now();
            unmounted = umount();
        }
        if let Err(error) = unmounted {
            // Never delete through a mount; the namespace ends with the thread.
            let failing = std::thread::panicking();
            assert!(failing, "something keeps the disk busy: {error}");
            return;
        }
        let _ = std::fs::remove_file(self.folder.join("image"));
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// A planned stack, mounted until dropped.
#[derive(Debug)]
pub struct Mounted {
    target: PathBuf,
}

impl Mounted {
    /// Makes `mounts` on a new directory `target`.
    ///
    /// # Errors
    /// As [`mount::mount`].
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn new(mounts: &[Mount], target: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(target).expect("a directory to mount on");
        mount::mount(mounts, target)?;
        Ok(Self {
            target: target.to_owned(),
        })
    }

    /// The path of `name` inside.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = mount::unmount(&self.target);
        if !std::thread::panicking() {
            assert_eq!(unmounted.expect("unmount"), mount::Unmounted::Now);
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        unreachable!("this test needs `{program}`, which did not start: {error}")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}
