//! Device mapper (linux/dm-ioctl.h, dmsetup(8)): block devices whose content a table maps to others.
//!
//! A request is a header of 312 bytes and what belongs to the call behind it, in one buffer that the
//! kernel overwrites with its answer. Each number in an answer is checked before it is used. All calls
//! need CAP_SYS_ADMIN. Events carry no cookie, so that nothing waits for udev: the caller makes the names in
//! /dev/mapper.

#![expect(
    clippy::host_endian_bytes,
    reason = "the kernel reads and answers in the order of bytes of the machine"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use rustix::ioctl::{Opcode, opcode};

/// Path of the control device.
pub const CONTROL: &str = "/dev/mapper/control";

/// Bytes of struct `dm_ioctl`.
const HEAD: usize = 312;
/// Bytes of struct `dm_target_spec`.
const SPEC: usize = 40;
/// Most bytes of a name, without the NUL that ends it.
pub const MAX_NAME: usize = 127;
/// Room for the first try at an answer, and for the last.
const FIRST_ROOM: usize = 16 << 10;
const MOST_ROOM: usize = 16 << 20;

const READ_ONLY: u32 = 1;
const SUSPEND: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE_PRESENT: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;
const NO_FLUSH: u32 = 1 << 11;

/// Calls that are used.
#[derive(Debug, Clone, Copy)]
enum Call {
    Version = 0,
    List = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    State = 7,
    Load = 9,
    Status = 12,
    Targets = 13,
    Message = 14,
}

impl Call {
    fn opcode(self) -> Opcode {
        opcode::read_write::<[u8; HEAD]>(0xfd, self as u8)
    }
}

/// Major, minor and patch.
pub type Version = (u32, u32, u32);

/// State of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Major and minor.
    pub number: (u32, u32),
    /// Users that have it open; a mounted file system is one.
    pub open_count: u32,
    /// Set while it holds back what is written.
    pub is_suspended: bool,
    /// Set if its table is read-only.
    pub is_read_only: bool,
    /// Set if it has a table at all.
    pub has_table: bool,
    /// The identity that its maker gave it, such as `LVM-...`; often empty.
    pub uuid: String,
}

/// One line of a table, or of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector of 512 bytes of the device.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// Type, such as `thin-pool`.
    pub kind: String,
    /// Parameters, or the status.
    pub text: String,
}

/// The open control device.
#[derive(Debug)]
pub struct Control {
    file: File,
}

impl Control {
    /// Opens it. Opening its node has the kernel load the module `dm-mod`.
    ///
    /// # Errors
    /// The kernel's answer: ENOENT or ENODEV where there is no device mapper.
    pub fn open() -> Result<Self, Errno> {
        let opened = OpenOptions::new().read(true).write(true).open(CONTROL);
        let file = opened.map_err(|cause| {
            let errno = cause.raw_os_error().unwrap_or(libc::EIO);
            Errno::from_raw(errno)
        })?;
        Ok(Self { file })
    }

    /// Version of the interface.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn version(&self) -> Result<Version, Errno> {
        let answer = self.call(Call::Version, &request("", 0, &[])?)?;
        let part = |at| word(&answer, at);
        Ok((part(0)?, part(4)?, part(8)?))
    }

    /// Types of targets that the kernel has now, each with its version.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn targets(&self) -> Result<Vec<(String, Version)>, Errno> {
        versions(&self.ask(Call::Targets, "", 0)?)
    }

    /// Names of all devices. Cost: one call, or a few if there are hundreds.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn list(&self) -> Result<Vec<String>, Errno> {
        names(&self.ask(Call::List, "", 0)?)
    }

    /// Looks at a device; `None` if there is none of the name.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn state(&self, name: &str) -> Result<Option<State>, Errno> {
        match self.call(Call::State, &request(name, 0, &[])?) {
            Ok(answer) => state(&answer).map(Some),
            Err(Errno::ENXIO) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// The kernel's answer: EBUSY if the name is taken.
    pub fn create(&self, name: &str) -> Result<State, Errno> {
        state(&self.call(Call::Create, &request(name, 0, &[])?)?)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// The kernel's answer: EBUSY if it is in use, ENXIO if there is none.
    pub fn remove(&self, name: &str) -> Result<(), Errno> {
        self.call(Call::Remove, &request(name, 0, &[])?).map(drop)
    }

    /// Gives a device a table of one line, which counts from the next [`resume`](Self::resume) on.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn load(&self, name: &str, target: &Target, read_only: bool) -> Result<(), Errno> {
        let flags = if read_only { READ_ONLY } else { 0 };
        let mut buffer = request(name, flags, &encoded(target)?)?;
        set(&mut buffer, 20, 1);
        self.call(Call::Load, &buffer).map(drop)
    }

    /// Has a device hold back what is written from now on. A file system on it is brought to a state that
    /// needs no recovery, and what is under way is waited for.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn suspend(&self, name: &str) -> Result<(), Errno> {
        self.call(Call::Suspend, &request(name, SUSPEND, &[])?)
            .map(drop)
    }

    /// Takes the loaded table into use, if there is one, and lets writes pass again.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn resume(&self, name: &str) -> Result<(), Errno> {
        self.call(Call::Suspend, &request(name, 0, &[])?).map(drop)
    }

    /// Status of each line of the table in use. Nothing is written for it.
    ///
    /// # Errors
    /// The kernel's answer: ENXIO if there is no such device.
    pub fn status(&self, name: &str) -> Result<Vec<Target>, Errno> {
        targets(&self.ask(Call::Status, name, NO_FLUSH)?)
    }

    /// The table in use.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub fn table(&self, name: &str) -> Result<Vec<Target>, Errno> {
        targets(&self.ask(Call::Status, name, NO_FLUSH | STATUS_TABLE)?)
    }

    /// Sends a message to the first line of the table of a device.
    ///
    /// # Errors
    /// The kernel's answer, which the target gives.
    pub fn message(&self, name: &str, text: &str) -> Result<(), Errno> {
        let mut body = 0_u64.to_ne_bytes().to_vec(); // sector
        body.extend(text.as_bytes());
        body.push(0);
        self.call(Call::Message, &request(name, 0, &body)?)
            .map(drop)
    }

    /// A call without a body, whose answer may need more room than the first try has.
    fn ask(&self, call: Call, name: &str, flags: u32) -> Result<Vec<u8>, Errno> {
        let mut room = FIRST_ROOM;
        loop {
            let answer = self.call(call, &request(name, flags, &vec![0; room])?)?;
            if word(&answer, 28)? & BUFFER_FULL == 0 {
                return Ok(answer);
            }
            room *= 4;
            if room > MOST_ROOM {
                return Err(Errno::EMSGSIZE);
            }
        }
    }

    fn call(&self, call: Call, request: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut buffer = request.to_vec();
        // SAFETY: the kernel reads and writes as many bytes as the header in the buffer says
        // (`data_size`), which `request` set to the buffer's length; it outlives the call.
        let rc = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                call.opcode().into(),
                buffer.as_mut_ptr(),
            )
        };
        Errno::result(rc)?;
        Ok(buffer)
    }
}

/// The node that devtmpfs has for a device of the device mapper.
#[must_use]
pub fn node((_, minor): (u32, u32)) -> String {
    format!("/dev/dm-{minor}")
}

/// Gives the blocks of a part of a block device back (BLKDISCARD), which read as zeros or as anything
/// afterwards.
///
/// # Errors
/// The kernel's answer: EOPNOTSUPP where the device cannot.
pub fn discard_blocks(device: &Path, bytes: u64) -> Result<(), Errno> {
    const BLKDISCARD: Opcode = opcode::none(0x12, 119);
    let opened = OpenOptions::new().read(true).write(true).open(device);
    let file =
        opened.map_err(|cause| Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO)))?;
    let range = [0_u64, bytes];
    // SAFETY: the request reads two numbers of 64 bits, which outlive the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD.into(), range.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// A header, with `body` behind it.
fn request(name: &str, flags: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
    if name.len() > MAX_NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    if name.bytes().any(|byte| byte == 0) {
        return Err(Errno::EINVAL);
    }
    let mut buffer = vec![0; HEAD];
    buffer.extend(body);
    let size = u32::try_from(buffer.len()).map_err(|_| Errno::EMSGSIZE)?;
    set(&mut buffer, 0, 4); // version 4.0.0
    set(&mut buffer, 12, size);
    set(&mut buffer, 16, 312); // start of the body
    set(&mut buffer, 28, flags);
    buffer[48..48 + name.len()].copy_from_slice(name.as_bytes());
    Ok(buffer)
}

fn set(buffer: &mut [u8], at: usize, value: u32) {
    buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// A line of a table, as struct `dm_target_spec` with its text.
fn encoded(target: &Target) -> Result<Vec<u8>, Errno> {
    let kind = target.kind.as_bytes();
    let is_plain = |text: &[u8]| !text.contains(&0);
    if kind.len() > 15 || !is_plain(kind) || !is_plain(target.text.as_bytes()) {
        return Err(Errno::EINVAL);
    }
    let mut body = Vec::with_capacity(SPEC + target.text.len() + 8);
    body.extend(target.start.to_ne_bytes());
    body.extend(target.sectors.to_ne_bytes());
    body.extend([0; 8]); // status, and the way to the next, of which there is none
    body.extend(kind);
    body.resize(SPEC, 0);
    body.extend(target.text.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(8), 0);
    Ok(body)
}

fn word(buffer: &[u8], at: usize) -> Result<u32, Errno> {
    let bytes = buffer.get(at..at.saturating_add(4));
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or(Errno::EBADMSG)
}

fn long(buffer: &[u8], at: usize) -> Result<u64, Errno> {
    let bytes = buffer.get(at..at.saturating_add(8));
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_ne_bytes).ok_or(Errno::EBADMSG)
}

/// The text that begins at `at` and ends with a NUL.
fn text(buffer: &[u8], at: usize) -> Result<String, Errno> {
    let rest = buffer.get(at..).ok_or(Errno::EBADMSG)?;
    let end = rest.iter().position(|byte| *byte == 0);
    let bytes = rest.get(..end.ok_or(Errno::EBADMSG)?);
    let bytes = bytes.ok_or(Errno::EBADMSG)?.to_vec();
    String::from_utf8(bytes).map_err(|_| Errno::EBADMSG)
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The part of an answer that holds what was asked for.
fn body(answer: &[u8]) -> Result<&[u8], Errno> {
    let (start, end) = (size(word(answer, 16)?), size(word(answer, 12)?));
    answer
        .get(start..end.min(answer.len()))
        .ok_or(Errno::EBADMSG)
}

fn state(answer: &[u8]) -> Result<State, Errno> {
    let flags = word(answer, 28)?;
    let number = long(answer, 40)?;
    let part = |bits: u64| u32::try_from(bits).map_err(|_| Errno::EBADMSG);
    // As new_encode_dev() of linux/kdev_t.h packs it.
    let major = part((number & 0xf_ff00) >> 8)?;
    let minor = part((number & 0xff) | ((number >> 12) & 0xf_ff00))?;
    Ok(State {
        number: (major, minor),
        open_count: word(answer, 24)?,
        is_suspended: flags & SUSPEND != 0,
        is_read_only: flags & READ_ONLY != 0,
        has_table: flags & ACTIVE_PRESENT != 0,
        uuid: text(answer, 176)?,
    })
}

/// The lines of an answer; each says where the next begins, counted from the first.
fn targets(answer: &[u8]) -> Result<Vec<Target>, Errno> {
    let (count, body) = (word(answer, 20)?, body(answer)?);
    let (mut found, mut at) = (Vec::new(), 0_usize);
    for _ in 0..count {
        let spec = body
            .get(at..at.saturating_add(SPEC))
            .ok_or(Errno::EBADMSG)?;
        found.push(Target {
            start: long(spec, 0)?,
            sectors: long(spec, 8)?,
            // One of 16 bytes has no NUL of its own.
            kind: text(&[&spec[24..], &[0]].concat(), 0)?,
            text: text(body, at + SPEC)?,
        });
        let next = size(word(spec, 20)?);
        if next <= at {
            break;
        }
        at = next;
    }
    if found.len() != size(count) {
        return Err(Errno::EBADMSG);
    }
    Ok(found)
}

/// Offsets of entries that say how far the next one is from them, in the word at `link`; 0 ends them.
fn chain(body: &[u8], link: usize) -> Result<Vec<usize>, Errno> {
    let (mut found, mut at) = (Vec::new(), 0_usize);
    loop {
        let next = size(word(body, at.saturating_add(link))?);
        found.push(at);
        if next == 0 {
            return Ok(found);
        }
        at = at.saturating_add(next);
    }
}

fn names(answer: &[u8]) -> Result<Vec<String>, Errno> {
    let body = body(answer)?;
    // Without devices there is one entry with no number.
    if body.len() < 12 || long(body, 0)? == 0 {
        return Ok(Vec::new());
    }
    let entries = chain(body, 8)?;
    entries.into_iter().map(|at| text(body, at + 12)).collect()
}

fn versions(answer: &[u8]) -> Result<Vec<(String, Version)>, Errno> {
    let body = body(answer)?;
    let entry = |at: usize| {
        let part = |index: usize| word(body, at + 4 + 4 * index);
        Ok((text(body, at + 16)?, (part(0)?, part(1)?, part(2)?)))
    };
    chain(body, 0)?.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
