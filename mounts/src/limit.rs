//! Limits of bytes and inodes: by a [quota](project) where the file system counts projects, else by an image
//! of a file system, mounted in the folder that holds it.
//!
//! ```text
//! <folder>/<name>/image  a file system as large as the limit, in a sparse file
//! <folder>/<name>/data   where it is mounted, through a loop device
//! ```
//!
//! The image is xfs where it can be, since that grows while it is mounted with CAP_SYS_ADMIN alone; ext4, which
//! needs CAP_SYS_RESOURCE for that, where inodes are limited, the limit is below what mkfs.xfs takes, or
//! there is no xfs. Works on every file system below, at the cost of a second one: each write passes both,
//! and no block is shared with others. Mounts outlive the process; a boot takes them away. Blocks that
//! are freed inside are given back (discard).

mod ext4;
mod grow;
pub mod project;
mod superblock;

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::unistd::Uid;
use tracing::debug;

use crate::error::{Error, with_causes};
use crate::folder::{Folder, c_name, open_file};
use crate::limit::project::Projects;
use crate::limit::superblock::Kind;
use crate::mount::let_go;
use crate::mountinfo::Entry;
use crate::sys::{self, loop_device};
use crate::user_namespace;

/// Name of the image in its holder.
pub const IMAGE: &str = "image";
/// Name of the mount point beside it.
pub const DATA: &str = "data";
/// Inodes of an ext4 that are its own, and one for its lost+found.
const OWN_INODES: u64 = 11;
/// Least size that mkfs.xfs takes.
const XFS_MIN: u64 = 300 << 20;

/// Limit of a volume or of a writable layer.
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

/// Choice of the way in which new limits are enforced. What is there keeps its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// By quotas of projects where the kernel enforces them, else by images.
    #[default]
    Auto,
    /// By images.
    Images,
}

impl Method {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Images];

    /// Name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Images => "images",
        }
    }
}

/// Way in which limits are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcement {
    /// By a quota of the project that the files belong to.
    Quota,
    /// By an image for each.
    Image {
        /// Set if larger ones are xfs; they are ext4 otherwise.
        has_xfs: bool,
    },
    /// By the file system that holds the layers, in bytes alone; which one.
    Bytes(&'static str),
    /// In no way, and why.
    None(String),
}

impl Enforcement {
    /// Looks for what it takes in the folder of `projects`. Tries a quota there, or runs two programs.
    #[must_use]
    pub fn probe(projects: &Projects, method: Method) -> Self {
        if !Uid::effective().is_root() {
            return Self::None("layerd does not run as root".to_owned());
        }
        if user_namespace::current().is_some() {
            let why = "layerd runs in a user namespace, and the kernel keeps quotas and loop devices to \
                       root of the machine";
            return Self::None(why.to_owned());
        }
        match projects.are_enforced() {
            Ok(()) if method == Method::Auto => return Self::Quota,
            Ok(()) => {}
            Err(why) => debug!(%why, "limits are not by quotas of projects"),
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

impl fmt::Display for Enforcement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota => formatter.write_str("project quotas of xfs"),
            Self::Image { has_xfs: true } => {
                formatter.write_str("image files on loop devices (xfs from 300 MiB, else ext4)")
            }
            Self::Image { has_xfs: false } => {
                formatter.write_str("image files on loop devices (ext4)")
            }
            Self::Bytes(of) => write!(formatter, "{of}, in bytes"),
            Self::None(why) => write!(formatter, "none: {why}"),
        }
    }
}

/// An image and its mount point, in a folder of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    path: PathBuf,
}

impl Holder {
    /// Those in the directory `name` of `folder`. Looks at nothing.
    #[must_use]
    pub fn new(folder: &Folder, name: &str) -> Self {
        let path = folder.path.join(name);
        Self { path }
    }

    /// Those in the directory at `path`. Looks at nothing.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path }
    }

    fn image(&self) -> PathBuf {
        self.path.join(IMAGE)
    }

    fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Makes the image, which is not there. On the disk on return, without its name. Costs a run of mkfs
    /// and a wait for the disk.
    ///
    /// # Errors
    /// [`Error::Io`]; some of the image may stay.
    pub fn make(&self, limit: Limit, enforcement: &Enforcement) -> Result<(), Error> {
        let has_xfs = matches!(enforcement, Enforcement::Image { has_xfs: true });
        let is_xfs = has_xfs && limit.inodes.is_none() && limit.bytes >= XFS_MIN;
        make_image(&self.image(), limit, is_xfs)
    }

    /// Mounts the image on its mount point, which is there. A loop device that has the image already, as
    /// where it is mounted in another mount namespace, is used again. Costs a look at each loop device,
    /// and the replay of a journal if the file system was not unmounted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn mount(&self) -> Result<(), Error> {
        self.mount_with(true)
    }

    /// As [`mount`](Self::mount), of an image that was never mounted: no loop device is looked at.
    ///
    /// # Errors
    /// As there.
    pub fn mount_new(&self) -> Result<(), Error> {
        self.mount_with(false)
    }

    fn mount_with(&self, may_be_mounted: bool) -> Result<(), Error> {
        let (image, target) = (self.image(), self.data());
        if may_be_mounted {
            self.drop_copy();
        }
        let (file, kind) = superblock::open(&image, true)?;
        let (kind, options) = match kind {
            Kind::Xfs => ("xfs", "discard"),
            Kind::Ext4 => ("ext4", "discard,noinit_itable,errors=remount-ro"),
        };
        let found = file.metadata();
        let found = found.map_err(|cause| io_error("look at", &image, cause))?;
        let of_loop = |cause| Error::io("make a loop device of", &image, cause);
        // What is mounted elsewhere, as in the mount namespace of a pod that ended, is the same file system.
        let there = match may_be_mounted {
            true => loop_device::of_file(found.dev(), found.ino()).map_err(of_loop)?,
            false => None,
        };
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
        mounted.map_err(|cause| match cause {
            Errno::EINVAL | Errno::EUCLEAN | Errno::EBADMSG => Error::BadFileSystem {
                path: image,
                problem: format!("the kernel does not mount its {kind} ({})", cause.desc()),
            },
            _ => Error::io("mount the image on", &target, cause),
        })
    }

    /// Unmounts the image, also while it is in use: what uses it goes on. Nothing mounted is success.
    ///
    /// # Errors
    /// [`Error::Busy`] for a mount of another program on the mount point or in the image, which stays;
    /// [`Error::Io`].
    pub fn let_go(&self) -> Result<(), Error> {
        let found = fs::symlink_metadata(self.image()).ok();
        let is_own = |mount: &Entry| {
            let mut images = found.iter();
            images.any(|image| loop_device::holds(mount.device, image.dev(), image.ino()))
        };
        let_go(&self.data(), &is_own)
    }

    /// Deletes the folder that mkfs.ext4 and e2fsck make in a file system, unless something is in it: a
    /// new one is empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn delete_lost_and_found(&self) -> Result<(), Error> {
        let lost = self.data().join("lost+found");
        let passed = [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty];
        match fs::remove_dir(&lost) {
            Err(cause) if !passed.contains(&cause.kind()) => Err(io_error("delete", &lost, cause)),
            _ => Ok(()),
        }
    }
}

/// True if there is an image in the directory `name` of a folder.
///
/// # Errors
/// [`Error::Io`]; ENOTDIR if `name` is no directory.
pub fn has_image(folder: &Folder, name: &str) -> Result<bool, Error> {
    folder.has(&format!("{name}/{IMAGE}"))
}

/// Fault of the image in the directory at `path` that shows without a mount: it is gone, no file, cut short, or
/// without the superblock of a file system; or the answer of a disk that cannot read it. Two reads.
#[must_use]
pub fn image_problem(path: &Path) -> Option<String> {
    match superblock::open(&path.join(IMAGE), false) {
        Ok(_) => None,
        Err(Error::BadFileSystem { problem, .. }) => Some(problem),
        Err(cause) => Some(with_causes(&cause)),
    }
}

/// True if an image in the directory `name` of a folder is mounted: on its mount point is a loop device that
/// has the image. Cost: three looks, and one at the device. A missing mount point has no mount.
///
/// # Errors
/// [`Error::Busy`] if it is a mount of another program that is there; [`Error::Io`].
pub fn is_mounted(folder: &Folder, name: &str) -> Result<bool, Error> {
    let data = format!("{name}/{DATA}");
    let path = folder.path.join(&data);
    let look = |name: &str| sys::stat(folder.fd.as_fd(), &c_name(name));
    let device = match (look(name), look(&data)) {
        (Ok(outer), Ok(inner)) if inner.same_mount(&outer) => return Ok(false),
        (Ok(_), Ok(inner)) => inner.device,
        (Ok(_), Err(Errno::ENOENT)) => return Ok(false),
        (Err(cause), _) | (_, Err(cause)) => return Err(Error::io("look at", &path, cause)),
    };
    let image = fs::symlink_metadata(folder.path.join(name).join(IMAGE));
    match image.is_ok_and(|image| loop_device::holds(device, image.dev(), image.ino())) {
        true => Ok(true),
        false => Err(Error::Busy { path }),
    }
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
    command.args(arguments).stdin(Stdio::null());
    let ended = command.env("LC_ALL", "C").output();
    let ended =
        ended.map_err(|cause| io::Error::new(cause.kind(), format!("{program}: {cause}")))?;
    // e2fsck has 1 for what it repaired.
    if ended.status.success() || (program == "e2fsck" && ended.status.code() == Some(1)) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    if text.contains(Errno::ENOSPC.desc()) {
        return Err(Errno::ENOSPC.into());
    }
    let text = text.trim().replace('\n', "; ");
    Err(io::Error::other(format!("{program}: {text}")))
}

fn open_image(image: &Path) -> Result<File, Error> {
    let opened = open_file(image, true);
    opened.map_err(|cause| io_error("open", image, cause))
}

fn io_error(attempt: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Io {
        attempt,
        path: PathBuf::from(path),
        cause,
    }
}

#[cfg(test)]
mod tests;
