//! Enlarges images. Nothing is begun for which the disk has no room, and what is enlarged while it is not mounted
//! is a copy, which takes the image's place once it is whole: programs that run out of space half-way leave a
//! damaged file system behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek64, syncfs};
use tracing::warn;

use super::{Holder, ext4, io_error, open_image, run};
use crate::error::Error;
use crate::folder::sync_path;
use crate::space::Space;
use crate::sys::{self, loop_device};

/// Name of a copy that is being enlarged, beside the image.
const COPY: &str = "image.new";
/// Room that is asked for in any case, in bytes.
const LEAST_ROOM: u64 = 4 << 20;
/// Share of the new space that a file system writes to at most when it grows: bitmaps and descriptors of ext4,
/// whose inode tables stay unwritten, or headers of the allocation groups of xfs.
const OWN_SHARE: u64 = 512;

impl Holder {
    /// Enlarges a mounted image, of which `data` is a file, also while it is in use. A size that it has is
    /// success. An ext4 that the kernel does not enlarge while it is mounted (CAP_SYS_RESOURCE) is
    /// unmounted for it, unless it `is_held`, and enlarged as a copy: a reflink, or else as many bytes as it
    /// takes of the disk. Durable on return.
    ///
    /// # Errors
    /// [`Error::Busy`] if it would have to be unmounted, and is in use; [`Error::TooLarge`] if what is in it
    /// would have to be moved; [`Error::NoRoom`] if the disk has no room for it; [`Error::Io`]. It has its old
    /// size then, or the new one.
    pub fn grow(&self, data: OwnedFd, bytes: u64, is_held: bool) -> Result<(), Error> {
        let (image, content) = (self.image(), self.data());
        let file = open_image(&image)?;
        let failed = |cause| io_error("enlarge", &image, cause);
        if let Some(most) = ext4::most_bytes(&file).map_err(failed)?
            && bytes > most
        {
            return Err(Error::TooLarge { path: image, most });
        }
        let before = file.metadata().map_err(failed)?.len();
        let room = bytes.saturating_sub(before) / OWN_SHARE;
        if before < bytes {
            self.require(&file, LEAST_ROOM.saturating_add(room))?;
            file.set_len(bytes).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        let of_content = |cause| Error::io("enlarge the file system on", &content, cause);
        let device = sys::stat(data.as_fd(), c"").map_err(of_content)?.device;
        let device = loop_device::path_of(device).map_err(of_content)?;
        loop_device::refresh_size(device.clone()).map_err(of_content)?;
        if fstatfs(&data).map_err(of_content)?.filesystem_type() == XFS_SUPER_MAGIC {
            let grown = run("xfs_growfs", &[OsStr::new("-d"), content.as_os_str()]);
            grown.map_err(|cause| io_error("enlarge", &content, cause))?;
            return syncfs(&data).map_err(of_content);
        }
        match run("resize2fs", &[device.as_os_str()]) {
            Ok(()) => syncfs(&data).map_err(of_content),
            Err(cause) if is_held => {
                warn!(
                    error = &cause as &dyn std::error::Error,
                    "enlarge a volume in use"
                );
                Err(Error::Busy { path: content })
            }
            Err(_) => {
                drop(data);
                self.grow_unmounted(&device, &file, before, room)
            }
        }
    }

    /// Refuses what needs more room than the disk has.
    fn require(&self, file: &File, need: u64) -> Result<(), Error> {
        let found = fstatvfs(file).map(Space::from);
        let free = found
            .map_err(|cause| Error::io("look at the disk of", &self.image(), cause))?
            .bytes_free;
        match need > free {
            true => Err(Error::NoRoom {
                path: self.image(),
                need,
                free,
            }),
            false => Ok(()),
        }
    }

    /// Enlarges an ext4 that nothing uses to the size of its image, while it is not mounted. After a failure the
    /// image is what it was, and is mounted.
    fn grow_unmounted(
        &self,
        device: &Path,
        file: &File,
        before: u64,
        room: u64,
    ) -> Result<(), Error> {
        let content = self.data();
        crate::mount::unmount(&content)?;
        // One that is mounted elsewhere keeps its device, and must not be written to.
        let name = device.file_name().unwrap_or_default();
        let is_gone = !Path::new("/sys/block").join(name).join("loop").exists();
        let grown = match is_gone {
            false => Err(Error::Busy { path: content }),
            true => self.grow_copy(file, room).inspect_err(|_| {
                self.drop_copy();
                // Nothing is there beyond it; the file system is as large as it was.
                let _ = file.set_len(before);
            }),
        };
        let mounted = self.mount().and_then(|()| self.delete_lost_and_found());
        grown?;
        mounted
    }

    /// Puts an enlarged copy in the place of the image.
    fn grow_copy(&self, file: &File, room: u64) -> Result<(), Error> {
        let (image, copy) = (self.image(), self.copy());
        let failed = |cause| io_error("enlarge", &image, cause);
        self.drop_copy();
        let to = File::create_new(&copy).map_err(failed)?;
        if rustix::fs::ioctl_ficlone(&to, file).is_err() {
            let taken = file
                .metadata()
                .map_err(failed)?
                .blocks()
                .saturating_mul(512);
            self.require(file, taken.saturating_add(LEAST_ROOM).saturating_add(room))?;
            copy_sparse(file, &to).map_err(failed)?;
        }
        run("e2fsck", &[OsStr::new("-fp"), copy.as_os_str()])
            .and_then(|()| run("resize2fs", &[copy.as_os_str()]))
            .and_then(|()| to.sync_all())
            .and_then(|()| fs::rename(&copy, &image))
            .map_err(failed)?;
        sync_path(&self.path)
    }

    fn copy(&self) -> PathBuf {
        self.path.join(COPY)
    }

    /// Deletes a copy that is left, if there is one.
    pub(super) fn drop_copy(&self) {
        let _ = fs::remove_file(self.copy());
    }
}

/// Copies what is written of a file; holes stay holes.
fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    loop {
        let signed = |at: u64| i64::try_from(at).map_err(io::Error::other);
        let begin = match lseek64(from, signed(at)?, Whence::SeekData) {
            Err(nix::errno::Errno::ENXIO) => return Ok(()),
            begin => begin?,
        };
        let end = lseek64(from, begin, Whence::SeekHole)?;
        lseek64(from, begin, Whence::SeekSet)?;
        lseek64(to, begin, Whence::SeekSet)?;
        let bytes = u64::try_from(end.saturating_sub(begin)).map_err(io::Error::other)?;
        let copied = io::copy(&mut io::Read::take(from, bytes), &mut &*to)?;
        if copied != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = u64::try_from(end).map_err(io::Error::other)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::limit::is_mounted;
    use crate::limit::tests::made;
    use crate::test_support::{LoopDisk, enter_private_mounts};

    fn fill(path: &Path) {
        let mut file = File::create(path).expect("create");
        for bytes in [1 << 20, 64 << 10, 4 << 10] {
            let piece = vec![1; bytes];
            while file.write_all(&piece).is_ok() {}
            let _ = file.sync_all();
        }
    }

    /// As if other programs had taken the room that was there.
    #[test]
    fn root_what_fails_half_way_leaves_the_image_as_it_was() {
        enter_private_mounts();
        for disk in [LoopDisk::xfs(&[]), LoopDisk::ext4(64)] {
            let (folder, holder) = made(&disk, 8);
            holder.mount().expect("mount");
            let (path, content) = (holder.data().join("file"), vec![5; 2 << 20]);
            fs::write(&path, &content).expect("write");
            let data = File::open(holder.data()).expect("open");
            syncfs(&data).expect("sync");
            let number = sys::stat(data.as_fd(), c"").expect("look").device;
            let device = loop_device::path_of(number).expect("a loop device");
            drop(data);
            let other = disk.path().join("other");
            fill(&other);
            let file = open_image(&holder.image()).expect("open");
            let before = file.metadata().expect("look").len();
            file.set_len(1 << 30).expect("enlarge");
            let failed = holder.grow_unmounted(&device, &file, before, 0);
            let failed = failed.expect_err("there is no room");
            assert!(failed.is_full(), "{failed:?}");
            assert!(is_mounted(&folder, "v").expect("look"));
            assert!(fs::read(&path).expect("read") == content);
            assert_eq!(file.metadata().expect("look").len(), before);
            assert!(!holder.copy().exists());
            fs::remove_file(&other).expect("remove");
            fs::write(holder.data().join("new"), "content").expect("write");
            holder.let_go().expect("let go");
            run("e2fsck", &[OsStr::new("-fn"), holder.image().as_os_str()]).expect("clean");
        }
    }
}
