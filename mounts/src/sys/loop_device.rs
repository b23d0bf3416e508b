//! Loop devices (linux/loop.h, loop(4)): a file as a block device.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;

const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

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
    let control = open("/dev/loop-control".into(), true)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the call takes no argument.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(path.clone(), false)?;
        match configure(&device, file) {
            Ok(()) => return Ok((path, device)),
            Err(Errno::EBUSY) => {} // another program was faster
            Err(cause) => return Err(cause),
        }
    }
    Err(Errno::EBUSY)
}

fn open(path: PathBuf, write: bool) -> Result<File, Errno> {
    let opened = OpenOptions::new().read(true).write(write).open(path);
    opened.map_err(|cause| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO)))
}

fn configure(device: &File, file: BorrowedFd<'_>) -> Result<(), Errno> {
    let config = Config {
        file: file.as_raw_fd().cast_unsigned(),
        block_size: 0, // that of the file system below
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: READ_ONLY | AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout that the kernel reads, and outlives the call.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    Errno::result(rc).map(drop)
}
