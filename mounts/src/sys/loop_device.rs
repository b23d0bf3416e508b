//! Loop devices (linux/loop.h, loop(4)): a file as a block device.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Once;

use nix::errno::Errno;
use tracing::info;

const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
const SET_CAPACITY: libc::Ioctl = 0x4c07;
const GET_STATUS: libc::Ioctl = 0x4c05;

/// Major number of loop devices.
const MAJOR: u32 = 7;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// Bytes of a block of each device, whatever the file system below reads and writes at once: what is in a file
/// was made for blocks of this size, and a larger one refuses it.
const BLOCK_SIZE: u32 = 512;

/// Devices that other programs may take first before this one gives up.
const ATTEMPTS: usize = 64;

/// struct `loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    fn new(flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// struct `loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes a read-only loop device of a file, which goes away with its last user. Answers its path, and
/// the device, open, which is the first user. Needs CAP_SYS_ADMIN and Linux 5.8.
///
/// # Errors
/// The kernel's answer: ENOENT without loop devices.
pub fn attach(file: BorrowedFd<'_>) -> Result<(PathBuf, File), Errno> {
    attach_as(file, READ_ONLY | AUTOCLEAR)
}

/// As [`attach`], of a file that is open for writing, to be written to. It bypasses the page cache of the file
/// where the file system below can in blocks of 512 bytes, so that nothing is cached twice: xfs cannot for a
/// file that shares blocks, nor any where the disk has larger sectors. The log says so once.
///
/// # Errors
/// As there.
pub fn attach_writable(file: BorrowedFd<'_>) -> Result<(PathBuf, File), Errno> {
    let (path, device) = match attach_as(file, AUTOCLEAR | DIRECT_IO) {
        Err(Errno::EINVAL) => attach_as(file, AUTOCLEAR),
        other => other,
    }?;
    if status(&device).is_ok_and(|info| info.flags & DIRECT_IO == 0) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            let device = path.display();
            info!(%device, "the file system below has no direct I/O in blocks of 512 bytes: images are cached twice");
        });
    }
    Ok((path, device))
}

/// The loop device that has this file already, by whatever program, mounted wherever: a second one would
/// be a second cache of the same blocks, which destroys a file system that is written. Costs a look at each
/// loop device.
///
/// # Errors
/// The kernel's answer.
pub fn of_file(device: u64, inode: u64) -> Result<Option<PathBuf>, Errno> {
    for entry in std::fs::read_dir("/sys/block").map_err(errno)? {
        let entry = entry.map_err(errno)?;
        if !entry.path().join("loop").exists() {
            continue;
        }
        let path = PathBuf::from("/dev").join(entry.file_name());
        // One that went away meanwhile has no file.
        if let Ok(open) = open(path.clone(), false)
            && let Ok(info) = status(&open)
            && (info.device, info.inode) == (device, inode)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// True if a device is a loop device that has this file.
#[must_use]
pub fn holds(number: (u32, u32), device: u64, inode: u64) -> bool {
    let info = path_of(number).and_then(|path| status(&open(path, false)?));
    number.0 == MAJOR && info.is_ok_and(|info| (info.device, info.inode) == (device, inode))
}

fn status(device: &File) -> Result<Info, Errno> {
    let mut info = Info::new(0);
    // SAFETY: the request writes one `loop_info64`, whose layout `Info` has, and of which each value is valid;
    // it outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS, &raw mut info) };
    Errno::result(rc).map(|_| info)
}

/// Path of the loop device of this number.
///
/// # Errors
/// The kernel's answer.
pub fn path_of((major, minor): (u32, u32)) -> Result<PathBuf, Errno> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let link = link.map_err(errno)?;
    let name = link.file_name().ok_or(Errno::ENODEV)?;
    Ok(PathBuf::from("/dev").join(name))
}

/// Has a loop device take over the length of its file.
///
/// # Errors
/// The kernel's answer.
pub fn refresh_size(device: PathBuf) -> Result<(), Errno> {
    let device = open(device, true)?;
    // SAFETY: the call takes no argument.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), SET_CAPACITY, 0) };
    Errno::result(rc).map(drop)
}

fn attach_as(file: BorrowedFd<'_>, flags: u32) -> Result<(PathBuf, File), Errno> {
    let control = open("/dev/loop-control".into(), true)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the call takes no argument.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(path.clone(), flags & READ_ONLY == 0)?;
        match configure(&device, file, flags) {
            Ok(()) => return Ok((path, device)),
            Err(Errno::EBUSY) => {} // another program was faster
            Err(cause) => return Err(cause),
        }
    }
    Err(Errno::EBUSY)
}

fn open(path: PathBuf, write: bool) -> Result<File, Errno> {
    let opened = OpenOptions::new().read(true).write(write).open(path);
    opened.map_err(errno)
}

#[expect(clippy::needless_pass_by_value, reason = "to be named in map_err")]
fn errno(cause: std::io::Error) -> Errno {
    Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO))
}

fn configure(device: &File, file: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let config = Config {
        file: file.as_raw_fd().cast_unsigned(),
        block_size: BLOCK_SIZE,
        info: Info::new(flags),
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout that the kernel reads, and outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    Errno::result(rc).map(drop)
}
