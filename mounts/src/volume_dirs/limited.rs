//! Volumes with a limit of bytes or inodes: an image of a file system, mounted at the content's place.
//!
//! ```text
//! <root>/volumes/<slot>/image  a file system as large as the limit, in a sparse file
//! <root>/volumes/<slot>/data   where it is mounted, through a loop device
//! ```
//!
//! It is xfs where it can be, since that grows while it is mounted with CAP_SYS_ADMIN alone; ext4, which
//! needs CAP_SYS_RESOURCE for that, where inodes are limited, the limit is below what mkfs.xfs takes, or
//! there is no xfs. Works on every file system below, at the cost of a second one: each write passes both,
//! and no block is shared with other volumes or images. The mount point below is immutable, so that nothing is written
//! past the limit while nothing is mounted. Mounts outlive the process; a boot takes them away, and
//! [`ready`](VolumeDirs::ready) makes them anew. Blocks that are freed inside are given back (discard).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Uid, syncfs};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tracing::warn;

use super::{DATA, VolumeDirs, open_holder};
use crate::error::Error;
use crate::folder::Folder;
use crate::mount::let_go;
use crate::slot::Slot;
use crate::space::Space;
use crate::sys::{self, loop_device};

/// Name of the image in a volume's folder.
pub(super) const IMAGE: &str = "image";
/// Inodes of an ext4 that are its own, and one for its lost+found.
const OWN_INODES: u64 = 11;
/// Least size that mkfs.xfs takes.
const XFS_MIN: u64 = 300 << 20;

/// Limit of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes, those that the file system needs for itself included.
    pub bytes: u64,
    /// Inodes, rounded up to full blocks of them; as many as ext4 makes for the size if there is none.
    pub inodes: Option<u64>,
}

impl Limit {
    /// Least size: below it ext4 has no room for its journal.
    pub const MIN_BYTES: u64 = 4 << 20;
    /// Most bytes: 16 TiB, which ext4 with blocks of any size can hold.
    pub const MAX_BYTES: u64 = 16 << 40;
}

/// Way in which limits are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcement {
    /// By an image for each volume.
    Image {
        /// Set if larger ones are xfs; they are ext4 otherwise.
        has_xfs: bool,
    },
    /// In no way, and why.
    None(String),
}

impl Enforcement {
    /// Looks for what it takes. Runs two programs.
    pub(super) fn probe() -> Self {
        if !Uid::effective().is_root() {
            return Self::None("layerd does not run as root".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Self::None("the kernel has no loop devices (/dev/loop-control)".to_owned());
        }
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let has_xfs = known.lines().any(|line| line.trim() == "xfs");
        match run("mkfs.ext4", &[OsStr::new("-V")]) {
            Ok(()) => Self::Image {
                has_xfs: has_xfs && run("mkfs.xfs", &[OsStr::new("-V")]).is_ok(),
            },
            Err(cause) => Self::None(format!("{cause}; it is in the package e2fsprogs")),
        }
    }
}

impl VolumeDirs {
    /// Way in which limits of new volumes are enforced. Looked for once.
    pub fn enforcement(&self) -> &Enforcement {
        self.enforcement.get_or_init(Enforcement::probe)
    }

    /// Makes the image of a staged volume and mounts it on its content, which is empty. Answers the
    /// mounted content. The image is on the disk then, and the names in it are not.
    pub(super) fn stage_image(&self, slot: Slot, limit: Limit) -> Result<OwnedFd, Error> {
        let staging = self.staging()?;
        let folder = staging.path.join(slot.to_string());
        let image = folder.join(IMAGE);
        let has_xfs = matches!(self.enforcement(), Enforcement::Image { has_xfs: true });
        let is_xfs = has_xfs && limit.inodes.is_none() && limit.bytes >= XFS_MIN;
        make_image(&image, limit, is_xfs)?;
        close_mount_point(staging, slot)?;
        mount_image(&folder)?;
        delete_lost_and_found(&folder)?;
        super::open_data(staging, slot)
    }

    /// Has the content of a volume with an image mounted. Costs two looks where it is, or has none; else a
    /// mount, which replays the journal of a file system that was not unmounted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ready(&self, slot: Slot) -> Result<(), Error> {
        if !self.has_image(slot)? || is_mounted(&self.live, slot)? {
            return Ok(());
        }
        let _lock = self.mounting.lock();
        match is_mounted(&self.live, slot)? {
            true => Ok(()),
            false => mount_image(&self.live.path.join(slot.to_string())),
        }
    }

    /// True if a volume in its place has an image.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_image(&self, slot: Slot) -> Result<bool, Error> {
        self.live.has(&format!("{slot}/{IMAGE}"))
    }

    /// True if a volume in the trash has an image.
    pub(super) fn has_trashed_image(&self, slot: Slot) -> Result<bool, Error> {
        self.trash()?.has(&format!("{slot}/{IMAGE}"))
    }

    /// Takes the mount of a volume in the trash away, so that it holds no loop device there. What has
    /// it mounted elsewhere goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rest(&self, slot: Slot) -> Result<(), Error> {
        unmount(self.trash()?, slot)
    }

    /// Takes away what is mounted on staged content, which is about to be deleted.
    pub(super) fn unmount_staged(&self, slot: Slot) -> Result<(), Error> {
        unmount(self.staging()?, slot)
    }

    /// Brings what was made in an image to the disk: all of its file system. Nothing without an image.
    pub(super) fn sync_image(&self, data: &OwnedFd, slot: Slot) -> Result<(), Error> {
        let staging = self.staging()?;
        if !staging.has(&format!("{slot}/{IMAGE}"))? {
            return Ok(());
        }
        let path = staging.path.join(slot.to_string()).join(DATA);
        syncfs(data).map_err(|cause| Error::io("sync", &path, cause))
    }

    /// Enlarges a volume with an image, also while it is in use. A size that it has is success. An ext4
    /// that the kernel does not enlarge while it is mounted (CAP_SYS_RESOURCE) is unmounted for it, unless
    /// the volume `is_held`. Durable on return.
    ///
    /// # Errors
    /// [`Error::Busy`] if it would have to be unmounted, and is in use; [`Error::Io`]. It has its old size
    /// then, or the new one.
    pub fn grow(&self, slot: Slot, bytes: u64, is_held: bool) -> Result<(), Error> {
        self.step("grow", slot);
        let data = self.open_data(slot)?;
        let _lock = self.mounting.lock();
        let folder = self.live.path.join(slot.to_string());
        let (image, content) = (folder.join(IMAGE), folder.join(DATA));
        let file = open_image(&image)?;
        let failed = |cause| io_error("enlarge", &image, cause);
        if file.metadata().map_err(failed)?.len() < bytes {
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
                grow_unmounted(&folder, &device)
            }
        }
    }

    /// Room in a volume with an image, as those see it who write to it; none without an image. One system
    /// call.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space_in(&self, slot: Slot) -> Result<Option<Space>, Error> {
        if !self.has_image(slot)? {
            return Ok(None);
        }
        let disk = fstatvfs(self.open_data(slot)?);
        let path = self.data_path(slot);
        disk.map(|disk| Some(Space::from(disk)))
            .map_err(|cause| Error::io("look at", &path, cause))
    }
}

/// Mounts the image in a volume's folder on the content beside it.
fn mount_image(folder: &Path) -> Result<(), Error> {
    let (image, target) = (folder.join(IMAGE), folder.join(DATA));
    let file = open_image(&image)?;
    let mut magic = [0; 4];
    let read = file.read_exact_at(&mut magic, 0);
    read.map_err(|cause| io_error("read", &image, cause))?;
    // The image is sparse, and reads as zeros where nothing was written.
    let (kind, options) = match &magic {
        b"XFSB" => ("xfs", "discard"),
        _ => ("ext4", "discard,noinit_itable,errors=remount-ro"),
    };
    let found = file.metadata();
    let found = found.map_err(|cause| io_error("look at", &image, cause))?;
    let of_loop = |cause| Error::io("make a loop device of", &image, cause);
    // What is mounted elsewhere, as in the mount namespace of a pod that ended, is the same file system.
    let there = loop_device::of_file(found.dev(), found.ino()).map_err(of_loop)?;
    let (device, open) = match there {
        Some(device) => (device, None),
        None => {
            let attached = loop_device::attach_writable(file.as_fd());
            let (device, open) = attached.map_err(of_loop)?;
            (device, Some(open))
        }
    };
    let none = MsFlags::empty();
    let mounted = nix::mount::mount(Some(&device), &target, Some(kind), none, Some(options));
    drop(open);
    mounted.map_err(|cause| Error::io("mount the image of a volume on", &target, cause))
}

/// Enlarges an ext4 that nothing uses to the size of its image, while it is not mounted.
fn grow_unmounted(folder: &Path, device: &Path) -> Result<(), Error> {
    let (image, content) = (folder.join(IMAGE), folder.join(DATA));
    unmount_now(&content)?;
    // One that is mounted elsewhere keeps its device, and must not be written to.
    let name = device.file_name().unwrap_or_default();
    let is_gone = !Path::new("/sys/block").join(name).join("loop").exists();
    let failed = |cause| io_error("enlarge", &image, cause);
    let grown = match is_gone {
        false => Err(Error::Busy {
            path: content.clone(),
        }),
        true => run("e2fsck", &[OsStr::new("-fp"), image.as_os_str()])
            .and_then(|()| run("resize2fs", &[image.as_os_str()]))
            .map_err(failed),
    };
    let mounted = mount_image(folder).and_then(|()| delete_lost_and_found(folder));
    grown?;
    mounted
}

/// Deletes the folder that mkfs.ext4 and e2fsck make in a file system, unless something is in it: a new
/// volume is empty.
fn delete_lost_and_found(folder: &Path) -> Result<(), Error> {
    let lost = folder.join(DATA).join("lost+found");
    let passed = [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty];
    match fs::remove_dir(&lost) {
        Err(cause) if !passed.contains(&cause.kind()) => Err(io_error("delete", &lost, cause)),
        _ => Ok(()),
    }
}

/// Unmounts what nothing uses.
fn unmount_now(content: &Path) -> Result<(), Error> {
    crate::mount::unmount(content).map(drop)
}

fn make_image(image: &Path, limit: Limit, is_xfs: bool) -> Result<(), Error> {
    let failed = |cause| io_error("make", image, cause);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(image);
    let file = file.map_err(failed)?;
    file.set_len(limit.bytes).map_err(failed)?;
    // No blocks of root's, who would not be held to the limit. One inode for lost+found, which goes.
    let all = limit
        .inodes
        .map(|inodes| inodes.saturating_add(OWN_INODES).to_string());
    let inodes = all.iter().flat_map(|all| ["-N", all.as_str()]);
    let (program, arguments): (_, Vec<&str>) = match is_xfs {
        true => ("mkfs.xfs", vec!["-q", "-K"]),
        false => {
            let usual = ["-q", "-F", "-m", "0", "-I", "256"].into_iter();
            let lazy = ["-E", "lazy_itable_init=1,nodiscard"];
            ("mkfs.ext4", usual.chain(lazy).chain(inodes).collect())
        }
    };
    let mut arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
    arguments.push(image.as_os_str());
    run(program, &arguments).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Runs a program to its end; an error has what it says.
fn run(program: &str, arguments: &[&OsStr]) -> io::Result<()> {
    let mut command = Command::new(program);
    let ended = command.args(arguments).stdin(Stdio::null()).output();
    let ended =
        ended.map_err(|cause| io::Error::new(cause.kind(), format!("{program}: {cause}")))?;
    // e2fsck has 1 for what it repaired.
    if ended.status.success() || (program == "e2fsck" && ended.status.code() == Some(1)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    let text = text.trim().replace('\n', "; ");
    Err(io::Error::other(format!("{program}: {text}")))
}

fn open_image(image: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().read(true).write(true).open(image);
    opened.map_err(|cause| io_error("open", image, cause))
}

/// Keeps all from writing below a mount, where the file system has the flag for that.
fn close_mount_point(folder: &Folder, slot: Slot) -> Result<(), Error> {
    let data = super::open_data(folder, slot)?;
    if let Ok(flags) = ioctl_getflags(&data) {
        let _ = ioctl_setflags(&data, flags | IFlags::IMMUTABLE);
    }
    Ok(())
}

pub(super) fn is_mounted(folder: &Folder, slot: Slot) -> Result<bool, Error> {
    let holder = open_holder(folder, slot)?;
    let look = |name| sys::stat(holder.as_fd(), name);
    let (outer, inner) = (look(c""), look(c"data"));
    let path = || folder.path.join(slot.to_string()).join(DATA);
    match (outer, inner) {
        (Ok(outer), Ok(inner)) => Ok(!inner.same_mount(&outer)),
        (Err(cause), _) | (_, Err(cause)) => Err(Error::io("look at", &path(), cause)),
    }
}

/// Unmounts the content of a volume. Nothing there, or mounted, is success.
fn unmount(folder: &Folder, slot: Slot) -> Result<(), Error> {
    match folder.has(&format!("{slot}/{IMAGE}")) {
        Ok(false) => Ok(()),
        // What an interrupted deletion left may be no directory.
        Err(cause) if cause.errno() == Some(Errno::ENOTDIR as i32) => Ok(()),
        Ok(true) => let_go(&folder.path.join(slot.to_string()).join(DATA)),
        Err(cause) => Err(cause),
    }
}

fn io_error(attempt: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Io {
        attempt,
        path: PathBuf::from(path),
        cause,
    }
}
