//! The file systems that are measured on.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use layerd_integration::Scratch;
use layerd_integration::process::output;
use nix::mount::{MntFlags, umount2};

/// Size of a loop image.
const IMAGE_MIB: usize = 2048;
/// Size of one with room for millions of files.
const ROOMY_MIB: usize = 6144;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fs {
    /// The one that target/ lies on
    Target,
    /// ext4 of its own in a loop image below target/
    Ext4,
    /// xfs of its own in a loop image below target/
    Xfs,
    /// Memory
    Tmpfs,
}

/// A fresh directory on such a file system; it goes when dropped, with all that runs in it.
#[derive(Debug)]
pub(crate) struct Place {
    /// Kept for its guard.
    _scratch: Scratch,
    dir: PathBuf,
    name: String,
}

impl Place {
    /// Makes it. A loop image is written in full first, so that the file system below it has
    /// nothing to allocate while we measure.
    ///
    /// # Panics
    /// If it cannot be had.
    pub(crate) fn new(fs: Fs) -> Self {
        Self::sized(fs, IMAGE_MIB)
    }

    /// As [`new`](Self::new), with room for millions of empty files.
    ///
    /// # Panics
    /// If it cannot be had.
    pub(crate) fn roomy(fs: Fs) -> Self {
        Self::sized(fs, ROOMY_MIB)
    }

    fn sized(fs: Fs, mebibytes: usize) -> Self {
        let scratch = Scratch::new();
        let dir = scratch.dir("disk");
        let image = |mkfs: &[&str]| mount_image(&scratch, &dir, mkfs, mebibytes);
        match fs {
            Fs::Target => {}
            // A large image is for inodes.
            Fs::Ext4 if mebibytes == ROOMY_MIB => image(&["mkfs.ext4", "-q", "-F", "-i", "1024"]),
            Fs::Ext4 => image(&["mkfs.ext4", "-q", "-F"]),
            Fs::Xfs if mebibytes == ROOMY_MIB => {
                image(&["mkfs.xfs", "-q", "-f", "-i", "maxpct=80"])
            }
            Fs::Xfs => image(&["mkfs.xfs", "-q", "-f"]),
            Fs::Tmpfs => {
                let mut mount = Command::new("mount");
                output(mount.args(["-t", "tmpfs", "tmpfs"]).arg(&dir));
            }
        }
        let kind = output(Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir));
        let kind = kind.trim().replace("ext2/ext3", "ext4");
        let name = match fs {
            Fs::Target => format!("{kind} (shared disk)"),
            Fs::Ext4 | Fs::Xfs => format!("{kind} (loop)"),
            Fs::Tmpfs => kind,
        };
        Self {
            _scratch: scratch,
            dir,
            name,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes a directory in it.
    pub(crate) fn sub(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).expect("a fresh file system can be written");
        path
    }

    /// Waits until everything on the file system is on its disk.
    pub(crate) fn sync(&self) {
        output(Command::new("sync").arg("-f").arg(&self.dir));
    }

    /// Bytes of it that are taken.
    pub(crate) fn used(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.dir).expect("it is mounted");
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    }

    /// Empties a directory in it, in which nothing runs any more, and syncs. Mounts in it, as those
    /// of images outlive layerd, are taken away.
    pub(crate) fn clear(&self, dir: &Path) {
        assert!(dir.starts_with(&self.dir), "not ours: {}", dir.display());
        self.unmount_below(dir);
        output(
            Command::new("rm")
                .arg("-rf")
                .arg("--one-file-system")
                .arg(dir),
        );
        self.sync();
    }

    /// Takes the mounts below a directory in it away, the last one first.
    pub(crate) fn unmount_below(&self, dir: &Path) {
        assert!(dir.starts_with(&self.dir), "not ours: {}", dir.display());
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("proc(5)");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below: Vec<&str> = points
            .filter(|point| Path::new(point).starts_with(dir))
            .collect();
        for point in below.iter().rev() {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            umount2(*point, flags).unwrap_or_else(|error| panic!("unmount {point}: {error}"));
        }
    }

    /// Requests that its block device has served so far. Other users of the disk count too.
    /// None for a file system without one.
    pub(crate) fn disk(&self) -> Option<Disk> {
        let device = output(Command::new("stat").args(["-c", "%Hd:%Ld"]).arg(&self.dir));
        let path = format!("/sys/dev/block/{}/stat", device.trim());
        let text = std::fs::read_to_string(path).ok()?;
        let fields: Vec<usize> = text.split_whitespace().flat_map(str::parse).collect();
        // The kernel's block/stat.rst: write I/Os are the fifth field, flush I/Os the sixteenth.
        Some(Disk {
            writes: *fields.get(4)?,
            flushes: *fields.get(15)?,
        })
    }
}

/// Counters of a block device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) writes: usize,
    pub(crate) flushes: usize,
}

impl std::ops::Sub for Disk {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            flushes: self.flushes - before.flushes,
        }
    }
}

fn mount_image(scratch: &Scratch, dir: &Path, mkfs: &[&str], mebibytes: usize) {
    let image = scratch.path().join("image");
    let mut file = File::create(&image).expect("the image can be made");
    let zeros = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        file.write_all(&zeros)
            .expect("target/ has room for the image");
    }
    file.sync_all().expect("the image can be written");
    output(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
    output(
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(dir),
    );
    // The loop device holds it; nothing that size is left behind, however we end.
    std::fs::remove_file(&image).expect("the image is ours");
}
