//! Loop devices, file systems and mounts, each with a guard that takes it away again.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Whence, lseek64};

use super::{Error, at};

/// A file system to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// ext4 with its usual options. From about 8 MiB.
    Ext4,
    /// ext4 without a journal: what reaches the disk does so in no order. From about 8 MiB.
    Ext4WithoutJournal,
    /// xfs with its usual options. From 300 MiB, as mkfs.xfs demands.
    Xfs,
    /// btrfs with its usual options. From about 110 MiB, as mkfs.btrfs demands.
    Btrfs,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Ext4WithoutJournal, Self::Xfs, Self::Btrfs];

    /// Type as mount(8) and mkfs(8) know it.
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext4WithoutJournal => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Mount options. The images of one disk bear one UUID, and the kernel may still hold the one
    /// that was unmounted before.
    fn options(self) -> Option<&'static str> {
        match self {
            Self::Xfs => Some("nouuid"),
            Self::Ext4 | Self::Ext4WithoutJournal | Self::Btrfs => None,
        }
    }

    /// Makes the file system in `file`, which is sparse and stays so. Everything is initialised
    /// now, so that the kernel has nothing to do behind the test's back. The blocks of 4 KiB are
    /// those of a large ext4; a small one would get smaller ones.
    pub(crate) fn make(self, file: &Path) -> Result<(), Error> {
        const INITIALISED: &str = "lazy_itable_init=0,lazy_journal_init=0";
        let ext4 = ["-q", "-F", "-b", "4096", "-E", INITIALISED];
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Ext4 => command.args(ext4),
            Self::Ext4WithoutJournal => command.args(ext4).args(["-O", "^has_journal"]),
            Self::Xfs => command.args(["-q", "-f", "-K"]),
            Self::Btrfs => command.args(["-q", "-f", "-K"]),
        };
        output(command.arg(file)).map(drop)
    }

    /// Makes the file system in a new `file` of `size` bytes and mounts it on the directory
    /// `target`, where it stays until the caller unmounts it.
    ///
    /// # Errors
    /// Any [`Error`]; nothing is mounted then.
    pub fn mount_new(self, file: &Path, size: u64, target: &Path) -> Result<(), Error> {
        let image = File::create_new(file).map_err(at("create", file))?;
        image.set_len(size).map_err(at("resize", file))?;
        self.make(file)?;
        std::mem::forget(Mount::file(file, self, target, |_| Ok(()))?);
        Ok(())
    }

    /// Repairs a file system without a journal as a boot does after a power cut: fsck(8) with every
    /// repair. The others recover when they are mounted.
    ///
    /// # Errors
    /// [`Error::Program`] if something could not be repaired.
    pub(crate) fn repair(self, file: &Path) -> Result<(), Error> {
        /// Exit status of e2fsck(8): errors were left uncorrected, or it failed.
        const FAILED: i32 = 4;
        if self != Self::Ext4WithoutJournal {
            return Ok(());
        }
        let mut command = Command::new("e2fsck");
        let checked = command.args(["-f", "-y"]).arg(file).output();
        let checked = checked.map_err(at("run", "e2fsck"))?;
        match checked.status.code() {
            Some(code) if code < FAILED => Ok(()),
            _ => Err(failed(&command, &checked)),
        }
    }
}

/// A mount, taken away on drop.
#[derive(Debug)]
pub(crate) struct Mount(Option<PathBuf>);

impl Mount {
    /// Mounts a file that holds a file system.
    pub(crate) fn file(
        file: &Path,
        filesystem: Filesystem,
        target: &Path,
        check: impl FnOnce(&str) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let device = Loop::attach(file)?;
        check(&device.0)?;
        fs::create_dir_all(target).map_err(at("create", target))?;
        let flags = MsFlags::empty();
        mount(
            Some(device.0.as_str()),
            target,
            Some(filesystem.name()),
            flags,
            filesystem.options(),
        )
        .map_err(|cause| Error::Mount {
            what: "mount",
            path: file.to_owned(),
            cause,
        })?;
        // Detaching a device in use puts off its end until the unmount.
        drop(device);
        Ok(Self(Some(target.to_owned())))
    }

    pub(crate) fn unmount(mut self) -> Result<(), Error> {
        self.0.take().map_or(Ok(()), |path| unmount(&path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && unmount(&path).is_err()
        {
            // Something still uses it; the kernel takes it away after that.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

/// Unmounts, waiting up to five seconds for the last user.
pub(crate) fn unmount(path: &Path) -> Result<(), Error> {
    let mut result = umount2(path, MntFlags::empty());
    for _ in 0..500 {
        if result != Err(Errno::EBUSY) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        result = umount2(path, MntFlags::empty());
    }
    result.map_err(|cause| Error::Mount {
        what: "unmount",
        path: path.to_owned(),
        cause,
    })
}

/// A loop device, detached on drop.
#[derive(Debug)]
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Result<Self, Error> {
        let mut command = Command::new("losetup");
        let command = command
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file);
        output(command).map(|device| Self(device.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Fails only if something else detached it.
        let _ = output(Command::new("losetup").args(["--detach", &self.0]));
    }
}

/// Checks that a loop device hides neither writes nor flushes from its file.
pub(crate) fn check(device: &str) -> Result<(), Error> {
    let name = device.trim_start_matches("/dev/");
    let attributes = [("loop/dio", "1"), ("queue/write_cache", "write back")];
    for (attribute, wanted) in attributes {
        let path = Path::new("/sys/block").join(name).join(attribute);
        let found = fs::read_to_string(&path).map_err(at("read", &path))?;
        if found.trim() != wanted {
            return Err(Error::Device {
                device: device.to_owned(),
                attribute,
                found: found.trim().to_owned(),
                wanted,
            });
        }
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String, Error> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(at("run", program))?;
    if !output.status.success() {
        return Err(failed(command, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn failed(command: &Command, output: &Output) -> Error {
    Error::Program {
        command: format!("{command:?}"),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Copies a sparse file into a new one of the same size, holes staying holes.
pub(crate) fn copy_sparse(from: &File, to: &Path) -> Result<File, Error> {
    let target = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(to)
        .map_err(at("create", to))?;
    copy_data(from, &target).map_err(at("copy to", to))?;
    Ok(target)
}

fn copy_data(mut from: &File, to: &File) -> std::io::Result<()> {
    let size = from.seek(SeekFrom::End(0))?;
    to.set_len(size)?;
    let mut buffer = vec![0; 1 << 20];
    let mut start = 0;
    while let Some(data) = seek(from, start, Whence::SeekData)? {
        let end = seek(from, data, Whence::SeekHole)?.unwrap_or(size);
        start = data;
        while start < end {
            let length = (end - start).min(buffer.len() as u64);
            let chunk = &mut buffer[..usize::try_from(length).map_err(std::io::Error::other)?];
            from.read_exact_at(chunk, start)?;
            to.write_all_at(chunk, start)?;
            start += length;
        }
    }
    Ok(())
}

/// The next data or hole at or after `start`; none behind the end.
fn seek(file: &File, start: u64, whence: Whence) -> std::io::Result<Option<u64>> {
    let start = i64::try_from(start).map_err(std::io::Error::other)?;
    match lseek64(file, start, whence) {
        Ok(found) => Ok(Some(found.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes() {
        let directory = tempfile::tempdir().unwrap();
        let from = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.path().join("from"))
            .unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"middle", 32 << 20).unwrap();
        let copy = copy_sparse(&from, &directory.path().join("to")).unwrap();
        let mut seen = [0; 6];
        copy.read_exact_at(&mut seen, 32 << 20).unwrap();
        let status = copy.metadata().unwrap();
        assert_eq!((&seen, status.size()), (b"middle", 64 << 20));
        assert!(status.blocks() < 2048, "{} blocks", status.blocks());
    }
}
