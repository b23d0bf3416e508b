//! The FUSE file system of one file: a disk that logs what is done to it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use super::log::{Event, Log};

/// Name of the file.
pub(crate) const NAME: &str = "disk";

const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(86400);

/// A disk: its content and its log. Both change together.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) content: File,
    pub(crate) log: Log,
}

impl Disk {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.log.write(offset, bytes)?;
        self.content.write_all_at(bytes, offset)
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let event = Event::Zero { offset, length };
        self.log.events.push(event);
        self.log.replay(event, &(0..u64::MAX), &self.content)
    }
}

/// The disk, shared between the server and the readers of the log.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Disk>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the disk as a file. One thread does so: the log's order is the order of arrival.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) disk: Shared,
    pub(crate) size: u64,
}

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = if inode == FILE {
            (FileType::RegularFile, 0o600, self.size)
        } else {
            (FileType::Directory, 0o700, 0)
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A refusal names the largest size that is taken.
        if let Err(largest) = config.set_max_write(1 << 20) {
            config
                .set_max_write(largest)
                .map_err(|_| io::Error::other("the kernel takes no size of writes"))?;
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(size).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        match self.disk.lock().content.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.disk.lock().write(offset, data);
        match (written, u32::try_from(data.len())) {
            (Ok(()), Ok(length)) => reply.written(length),
            (Err(error), _) => reply.error(error.into()),
            (_, Err(_)) => reply.error(Errno::EINVAL),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // close(2), not a flush of the disk.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk.lock().log.events.push(Event::Flush);
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // The loop driver asks for nothing else: discards and writes of zeros.
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.disk.lock().zero(offset, length) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }
}
