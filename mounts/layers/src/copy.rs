//! Copies a tree, straight out of the directories of a stack of layers.
//!
//! A mount of the stack would be slower to read and its files could not be cloned: overlayfs
//! answers EXDEV. So the stack is resolved here, and the content of a file shares the blocks of
//! the layer's where the file system can do that.
//!
//! One thread walks the source and makes names; content and all that belongs to a file are filled
//! in by workers, through descriptors, in any order. A directory gets its attributes, among them
//! its times and the access list it would hand down, once everything is made in it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::dir_stack::{self, DirStack};
use crate::durable::Durable;
use crate::error::Error;
use crate::node::{self, Attributes, Identity, Kind, Stat};
use crate::progress::{Progress, Silent};
use job::Job;
use stack::{Entry, Stack};
use work::Work;

mod content;
mod job;
mod markers;
mod share;
pub(crate) mod stack;
mod work;

pub(crate) use content::next_data;
pub use markers::Markers;
pub(crate) use markers::{Note, is_there, make_note};

/// Directories of the destination that stay open, besides the current one.
const OPEN_DIRECTORIES: usize = 64;

/// Options of [`copy_tree`].
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads that fill files, 1 to 4; 1 uses the calling thread alone.
    pub workers: usize,
    /// Durability on return.
    pub durable: Durable,
    /// For each layer that is a mounted EROFS image, at its position among them, the image file, with
    /// which copies share blocks where the file system can. May be shorter than the layers.
    pub images: &'a [Option<BorrowedFd<'a>>],
    /// Where the layers keep overlayfs' notes. Means nothing for a single directory.
    pub markers: Markers,
    /// Makes the destination a layer that takes the place of the stack: its files are further names
    /// of those of the layers (hard links), and attributes stay as layers keep them. A file that cannot
    /// have another name (too many of them, immutable, another project of a quota) is copied. Nothing
    /// may be written to either of the two afterwards.
    pub links: bool,
    /// Receiver of progress, which may cancel.
    pub progress: &'a dyn Progress,
}

impl Default for Options<'_> {
    /// As many workers as processors, at most 4; nothing durable; no progress.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: processors.min(MOST_WORKERS),
            durable: Durable::No,
            images: &[],
            markers: Markers::Trusted,
            links: false,
            progress: &Silent,
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Options");
        shown.field("workers", &self.workers);
        shown.field("durable", &self.durable);
        shown.field("markers", &self.markers);
        shown.field("links", &self.links);
        shown.finish_non_exhaustive()
    }
}

const MOST_WORKERS: usize = 4;

/// Result of [`copy_tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Names made: files and directories of every type, the destination itself not counted.
    pub files: u64,
    /// Length of all regular files in bytes, each inode once, holes included; without those that are
    /// further names.
    pub bytes: u64,
    /// Part of `bytes` that shares blocks with the source.
    pub cloned_bytes: u64,
}

/// Copies the directory `subpath` of a stack of layers into `dest`, a directory without entries,
/// which takes over the attributes of `subpath` too.
///
/// `source` holds the layers' directories, topmost first. A single one is a plain tree: whiteouts
/// and overlayfs' attributes in it are copied like others. An empty `subpath` is the whole tree;
/// symlinks in it are followed within the stack, whose root is `/` to them. All descriptors may be
/// `O_PATH`.
///
/// See the crate for what belongs to a file, and [`Durable`] for what is on the disk on return.
/// Costs a few system calls a file; memory for the names of the directories on the way to the
/// current one and for each file with several names; at most 700 descriptors and two for each
/// layer. The content of a file that is written to meanwhile may be a mixture.
///
/// # Errors
/// [`Error::Missing`] and [`Error::NotADirectory`], naming the path that symlinks led to, if
/// `subpath` is not a directory or leads through more than 40 symlinks;
/// [`Error::Feature`] for layers of unusual mounts; [`Error::MountPoint`], [`Error::TooLong`] and
/// [`Error::Changed`] for trees that cannot be copied as a whole; [`Error::Stopped`] when
/// `progress` says so; else [`Error::Io`], with EEXIST if `dest` was not empty. What was copied so
/// far is left in `dest`.
pub fn copy_tree(
    source: &[BorrowedFd<'_>],
    subpath: &Path,
    dest: BorrowedFd<'_>,
    options: &Options<'_>,
) -> Result<Copied, Error> {
    let stack = Stack::open(source, subpath, options.markers)?.raw(options.links);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dest = rustix::fs::openat(dest, c".", flags, Mode::empty())
        .map_err(|cause| Error::io("open", Path::new(""), cause))?;
    let work = Work::new(source.len(), options);
    let files = work.run(options.workers.clamp(1, MOST_WORKERS), |fill| {
        let mut walk = Walk {
            stack,
            dest: DirStack::new(dest, OPEN_DIRECTORIES),
            frames: Vec::new(),
            links: HashMap::new(),
            fill,
            options,
            files: 0,
        };
        walk.run().map(|()| walk.files)
    })?;
    let (bytes, cloned_bytes) = work.moved();
    Ok(Copied {
        files,
        bytes,
        cloned_bytes,
    })
}

struct Walk<'a, 'w> {
    stack: Stack,
    dest: DirStack,
    frames: Vec<Frame>,
    /// First copies of files that have other names.
    links: HashMap<(usize, Identity), First>,
    fill: &'w mut dyn FnMut(Job) -> Result<(), Error>,
    options: &'a Options<'a>,
    files: u64,
}

/// A directory that is being filled.
struct Frame {
    todo: Vec<Entry>,
    attributes: Attributes,
}

struct First {
    path: PathBuf,
    identity: Identity,
}

impl Walk<'_, '_> {
    fn run(&mut self) -> Result<(), Error> {
        self.forget_acls()?;
        self.begin()?;
        while let Some(frame) = self.frames.last_mut() {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            match frame.todo.pop() {
                Some(entry) => self.entry(&entry)?,
                None => self.end()?,
            }
        }
        Ok(())
    }

    /// The destination must not hand an access list down to what is made in it.
    fn forget_acls(&mut self) -> Result<(), Error> {
        node::forget_acls(self.dest.here()?)
            .map_err(|cause| Error::io("remove the access list of", Path::new(""), cause))
    }

    fn begin(&mut self) -> Result<(), Error> {
        let (stat, xattrs) = self.stack.here()?;
        let mut todo = self.stack.list()?;
        todo.reverse(); // they are taken from the end, and directories come last
        let attributes = Attributes::of(&stat, xattrs);
        self.frames.push(Frame { todo, attributes });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let path = self.dest.path();
        let here = self.dest.here()?;
        frame
            .attributes
            .give(here)
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        self.dest.leave();
        if !self.frames.is_empty() {
            self.stack.leave();
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.dest.check_length(&entry.name)?;
        let path = self.dest.join(&entry.name);
        let Some((from, stat)) = self.stack.find(entry, &path)? else {
            return Ok(()); // it was deleted since the directory was read
        };
        self.files += 1;
        let kind = stat.kind();
        if self.options.links
            && kind != Kind::Directory
            && self.link_to_source(entry, from.as_fd(), &path)?
        {
            self.options.progress.advanced(1, 0);
            return Ok(());
        }
        if kind != Kind::Directory && stat.links > 1 && self.link(entry, &stat, &path)? {
            self.options.progress.advanced(1, 0);
            return Ok(());
        }
        match kind {
            Kind::Directory => {
                self.options.progress.advanced(1, 0);
                self.directory(entry, &path)
            }
            Kind::Regular => self.regular(entry, from, stat, path),
            _ => self.special(entry, from.as_fd(), &stat, &path),
        }
    }

    fn directory(&mut self, entry: &Entry, path: &Path) -> Result<(), Error> {
        let failed = |cause| Error::io("create directory", path, cause);
        let parent = self.dest.here()?;
        rustix::fs::mkdirat(parent, &*entry.name, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, &*entry.name, flags, Mode::empty());
        let made = made.map_err(failed)?;
        let identity = node::stat(made.as_fd()).map_err(failed)?.identity();
        self.dest.enter(&entry.name, made, identity);
        self.stack.enter(&entry.name)?;
        self.begin()
    }

    fn regular(
        &mut self,
        entry: &Entry,
        found: OwnedFd,
        stat: Stat,
        path: PathBuf,
    ) -> Result<(), Error> {
        let from = node::reopen(found.as_fd()).map_err(|cause| Error::io("open", &path, cause))?;
        drop(found);
        let xattrs = self.stack.xattrs(from.as_fd(), &path)?;
        let failed = |cause| Error::io("create", &path, cause);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let parent = self.dest.here()?;
        let to = rustix::fs::openat(parent, &*entry.name, flags, mode).map_err(failed)?;
        if stat.links > 1 {
            let identity = node::stat(to.as_fd()).map_err(failed)?.identity();
            self.remember(entry, &stat, &path, identity);
        }
        (self.fill)(Job {
            from,
            to,
            size: stat.size,
            sparse: stat.may_have_holes(),
            attributes: Attributes::of(&stat, xattrs),
            layer: entry.layer,
            path,
        })
    }

    fn special(
        &mut self,
        entry: &Entry,
        from: BorrowedFd<'_>,
        stat: &Stat,
        path: &Path,
    ) -> Result<(), Error> {
        let xattrs = self.stack.xattrs(from, path)?;
        let failed = |cause| Error::io("create", path, cause);
        let parent = self.dest.here()?;
        make(parent, &entry.name, from, stat).map_err(failed)?;
        let (made, new) = node::find(parent, &entry.name).map_err(failed)?;
        Attributes::of(stat, xattrs)
            .give(made.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, path, cause))?;
        if stat.links > 1 {
            self.remember(entry, stat, path, new.identity());
        }
        self.options.progress.advanced(1, 0);
        Ok(())
    }

    fn remember(&mut self, entry: &Entry, stat: &Stat, path: &Path, identity: Identity) {
        let path = path.to_owned();
        let first = First { path, identity };
        self.links.insert((entry.layer, stat.identity()), first);
    }

    /// Makes another name of a file that was copied before; false if it was not.
    fn link(&mut self, entry: &Entry, stat: &Stat, path: &Path) -> Result<bool, Error> {
        let Some(first) = self.links.get(&(entry.layer, stat.identity())) else {
            return Ok(false);
        };
        let failed = |cause| Error::io("link", path, cause);
        let other = dir_stack::open_below(self.dest.root(), &first.path, OFlags::PATH);
        let other = other.map_err(failed)?;
        if node::stat(other.as_fd()).map_err(failed)?.identity() != first.identity {
            let path = first.path.clone();
            return Err(Error::Changed { path });
        }
        link(other.as_fd(), self.dest.here()?, &entry.name).map_err(failed)?;
        Ok(true)
    }

    /// Makes a further name of a file of the source; false if it can have none.
    fn link_to_source(
        &mut self,
        entry: &Entry,
        from: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<bool, Error> {
        match link(from, self.dest.here()?, &entry.name) {
            Ok(()) => Ok(true),
            // The file system's limit; a flag of the file; another project, or file system.
            Err(Errno::MLINK | Errno::PERM | Errno::XDEV) => Ok(false),
            Err(cause) => Err(Error::io("link", path, cause)),
        }
    }
}

/// Makes another name of a file that was opened, a symlink too.
fn link(file: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    let proc = node::proc_path(file);
    rustix::fs::linkat(CWD, &*proc, parent, &**name, AtFlags::SYMLINK_FOLLOW)
}

/// Makes a symlink, device, FIFO or socket like the one that was found.
fn make(
    parent: BorrowedFd<'_>,
    name: &CString,
    from: BorrowedFd<'_>,
    stat: &Stat,
) -> Result<(), Errno> {
    let kind = match stat.kind() {
        Kind::Symlink => {
            let target = rustix::fs::readlinkat(from, c"", Vec::new())?;
            return rustix::fs::symlinkat(&*target, parent, &**name);
        }
        Kind::Character => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::Directory | Kind::Regular => return Err(Errno::INVAL),
    };
    let number = rustix::fs::makedev(stat.number.0, stat.number.1);
    rustix::fs::mknodat(parent, &**name, kind, Mode::RUSR | Mode::WUSR, number)
}

#[cfg(test)]
mod tests;
