//! Walks a directory tree by descriptor, to delete or to measure it.
//!
//! Whoever filled the tree may be hostile and may still be at it. So: no path is resolved twice,
//! no symlink is followed, no mount is entered, and neither depth nor width costs more than
//! memory: at most `KEPT_OPEN` directories are open at once, however deep the tree. Below that, the
//! way back is `..`, and it must lead to the very directory that was left.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::driver::Usage;
use crate::error::Error;
use crate::sys::{self, Stat};

/// Directories held open at once by one walk.
const KEPT_OPEN: usize = 64;

/// Directories that are read again in one deletion because they were not empty after all.
const SECOND_LOOKS: u32 = 1000;

/// Longest path written into an error, in bytes.
const SHOWN: usize = 1024;

/// Deletes `name` in `parent` and all below it. `shown` is the path of `parent`, for errors. Cost:
/// one unlink a file. Nothing there is success. `keep_going` is asked before each entry.
///
/// # Errors
/// [`Error::Stopped`] at once when `keep_going` answers false. Otherwise, after everything that
/// could be deleted is: [`Error::Busy`] for the first mount point found, else [`Error::Io`] for
/// the first failure.
pub fn delete(
    parent: BorrowedFd<'_>,
    name: &CStr,
    shown: &Path,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let mut delete = Delete {
        second_looks: SECOND_LOOKS,
        ..Delete::default()
    };
    walk(parent, name, shown, &mut delete, keep_going)?;
    match delete.busy.or(delete.failed) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Measures `name` in `parent` and all below it, each inode once; mounts inside are left out, as
/// is what vanishes meanwhile. `shown` is the path of `parent`, for errors. Cost: one stat a
/// file; memory for each file with several names.
///
/// # Errors
/// [`Error::Stopped`] when `keep_going`, asked before each entry, answers false. [`Error::Io`] for
/// the first failure, `NotFound` if there is nothing of that name.
pub fn usage(
    parent: BorrowedFd<'_>,
    name: &CStr,
    shown: &Path,
    keep_going: &dyn Fn() -> bool,
) -> Result<Usage, Error> {
    let path = shown.join(OsStr::from_bytes(name.to_bytes()));
    sys::stat(parent, name).map_err(|cause| Error::io("measure", &path, cause))?;
    let mut measure = Measure::default();
    walk(parent, name, shown, &mut measure, keep_going)?;
    match measure.failed {
        Some(error) => Err(error),
        None => Ok(measure.total),
    }
}

/// What becomes of an entry that a visitor was shown.
enum Next {
    /// Go into it: it is a directory.
    Enter,
    /// Done with it.
    Pass,
}

/// What a walk does with what it meets.
trait Visitor {
    /// What it does, for errors.
    fn verb(&self) -> &'static str;

    /// Looks at an entry. `root` is the directory that holds the top of the tree.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
        root: &Stat,
    ) -> Result<Next, Errno>;

    /// Opens a directory whose permission bits forbid it; only root is above them.
    fn force(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno>;

    /// Is told that a directory was opened and is about to be read.
    fn entered(&mut self, dir: BorrowedFd<'_>, stat: &Stat);

    /// Is told that all below `name` is done. Answers whether it wants to enter it again.
    fn left(&mut self, dir: BorrowedFd<'_>, name: &CStr, clean: bool) -> Result<bool, Errno>;

    /// Is told that something is mounted on the path.
    fn mounted(&mut self, path: PathBuf);

    /// Is told of a failure; the walk goes on beside it.
    fn failed(&mut self, error: Error);
}

/// A directory that the walk is in.
struct Frame {
    name: CString,
    /// `None` while too many further in are open.
    fd: Option<OwnedFd>,
    stat: Stat,
    /// Directories in it still to be entered.
    pending: Vec<CString>,
    /// Nothing in it failed.
    clean: bool,
}

struct Walk<'a> {
    shown: &'a Path,
    frames: Vec<Frame>,
    root: Stat,
    visitor: &'a mut dyn Visitor,
    keep_going: &'a dyn Fn() -> bool,
}

fn walk(
    parent: BorrowedFd<'_>,
    name: &CStr,
    shown: &Path,
    visitor: &mut dyn Visitor,
    keep_going: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let start = |cause: Errno| Error::io("open directory", shown, cause);
    let root = sys::stat(parent, c"").map_err(start)?;
    let mut walk = Walk {
        shown,
        frames: vec![Frame {
            name: CString::default(),
            fd: Some(open(parent, c".").map_err(start)?),
            stat: root,
            pending: Vec::new(),
            clean: true,
        }],
        root,
        visitor,
        keep_going,
    };
    walk.look(name, None)?;
    walk.run()
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Error> {
        loop {
            let frame = self
                .frames
                .last_mut()
                .expect("the root frame is popped last");
            if let Some(name) = frame.pending.pop() {
                self.enter(name)?;
            } else if self.frames.len() > 1 {
                self.leave()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Shows one entry of the innermost directory to the visitor.
    fn look(&mut self, name: &CStr, kind: Option<Type>) -> Result<(), Error> {
        if !(self.keep_going)() {
            return Err(Error::Stopped);
        }
        let dir = innermost(&self.frames);
        match self.visitor.entry(dir, name, kind, &self.root) {
            Ok(Next::Enter) => self.frame().pending.push(name.to_owned()),
            Ok(Next::Pass) | Err(Errno::ENOENT) => {}
            Err(cause) => self.fail(self.visitor.verb(), name, cause),
        }
        Ok(())
    }

    fn enter(&mut self, name: CString) -> Result<(), Error> {
        let dir = innermost(&self.frames);
        let opened = match open(dir, &name) {
            Err(Errno::EACCES) => self.visitor.force(dir, &name),
            other => other,
        };
        let entered = opened.and_then(|fd| Ok((sys::stat(fd.as_fd(), c"")?, fd)));
        let (stat, fd) = match entered {
            Ok(entered) => entered,
            // It vanished, or something else has its name now; that was not there to be walked.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(cause) => {
                self.fail("open directory", &name, cause);
                return Ok(());
            }
        };
        if !stat.same_mount(&self.root) {
            let path = self.path(&name);
            self.visitor.mounted(path);
            self.frame().clean = false;
            return Ok(());
        }
        self.visitor.entered(fd.as_fd(), &stat);
        self.push(name, fd, stat);
        self.read()
    }

    fn push(&mut self, name: CString, fd: OwnedFd, stat: Stat) {
        self.frames.push(Frame {
            name,
            fd: Some(fd),
            stat,
            pending: Vec::new(),
            clean: true,
        });
        let depth = self.frames.len();
        // The root frame stays open, as the one place where all paths begin.
        if depth > KEPT_OPEN + 1 {
            self.frames[depth - KEPT_OPEN - 1].fd = None;
        }
    }

    fn read(&mut self) -> Result<(), Error> {
        // A second descriptor of the same open directory; both share a place in it.
        let opened = duplicate(innermost(&self.frames)).and_then(Dir::from_fd);
        let mut dir = match opened {
            Ok(dir) => dir,
            Err(cause) => {
                self.fail("read directory", c".", cause);
                return Ok(());
            }
        };
        for entry in dir.iter() {
            match entry {
                Ok(entry) if is_dot(entry.file_name()) => {}
                Ok(entry) => self.look(entry.file_name(), entry.file_type())?,
                Err(cause) => {
                    self.fail("read directory", c".", cause);
                    break;
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        let left = self.frames.pop().expect("run checked that there are two");
        if self.frame().fd.is_none() {
            let fd = self.way_back(&left)?;
            self.frame().fd = Some(fd);
        }
        let dir = innermost(&self.frames);
        match self.visitor.left(dir, &left.name, left.clean) {
            Ok(true) => self.frame().pending.push(left.name),
            Ok(false) => self.frame().clean &= left.clean,
            Err(Errno::ENOENT) => {}
            Err(Errno::EBUSY) => {
                let path = self.path(&left.name);
                self.visitor.mounted(path);
                self.frame().clean = false;
            }
            Err(cause) => self.fail("delete directory", &left.name, cause),
        }
        Ok(())
    }

    /// Opens the directory above `left`. If somebody moved `left` elsewhere, the walk must not
    /// follow: it would act on a tree that nobody asked about.
    fn way_back(&mut self, left: &Frame) -> Result<OwnedFd, Error> {
        let path = self.path(&left.name);
        let fail = |cause: Errno| Error::io("go back up from", &path, cause);
        let below = left.fd.as_ref().expect("the innermost directory is open");
        let fd = openat(below, c"..", FLAGS, Mode::empty()).map_err(fail)?;
        let stat = sys::stat(fd.as_fd(), c"").map_err(fail)?;
        if stat.identity() != self.frame().stat.identity() {
            return Err(fail(Errno::ESTALE));
        }
        Ok(fd)
    }

    fn fail(&mut self, attempt: &'static str, name: &CStr, cause: Errno) {
        let path = self.path(name);
        if cause == Errno::EBUSY {
            self.visitor.mounted(path);
        } else {
            self.visitor.failed(Error::io(attempt, &path, cause));
        }
        self.frame().clean = false;
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames
            .last_mut()
            .expect("the root frame is popped last")
    }

    /// Path of `name` in the innermost directory, its middle left out if it is very long.
    fn path(&self, name: &CStr) -> PathBuf {
        let mut path = self.shown.to_owned();
        for frame in &self.frames[1..] {
            if path.as_os_str().len() + frame.name.as_bytes().len() > SHOWN {
                path.push("...");
                break;
            }
            path.push(OsStr::from_bytes(frame.name.to_bytes()));
        }
        if name != c"." {
            path.push(OsStr::from_bytes(name.to_bytes()));
        }
        path
    }
}

fn innermost(frames: &[Frame]) -> BorrowedFd<'_> {
    let frame = frames.last().expect("the root frame is popped last");
    let fd = frame.fd.as_ref();
    fd.expect("the innermost directory is open").as_fd()
}

#[derive(Default)]
struct Delete {
    busy: Option<Error>,
    failed: Option<Error>,
    second_looks: u32,
}

impl Visitor for Delete {
    fn verb(&self) -> &'static str {
        "delete"
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
        _: &Stat,
    ) -> Result<Next, Errno> {
        let is_dir = match kind {
            Some(kind) => kind == Type::Directory,
            None => sys::stat(dir, name)?.is_dir(),
        };
        if is_dir {
            return Ok(Next::Enter);
        }
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => Ok(Next::Enter), // it was replaced since it was read
            other => other.map(|()| Next::Pass),
        }
    }

    fn force(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(dir, name, flags, Mode::empty())?;
        let proc = fd_path(found.as_fd());
        fchmodat(
            dir,
            proc.as_path(),
            Mode::S_IRWXU,
            FchmodatFlags::FollowSymlink,
        )?;
        open(found.as_fd(), c".")
    }

    fn entered(&mut self, dir: BorrowedFd<'_>, stat: &Stat) {
        let owner = Mode::S_IRWXU.bits();
        if stat.mode & owner != owner {
            // Who is not root needs these bits to delete inside. If that fails, deleting will.
            let _ = fchmod(dir, Mode::S_IRWXU);
        }
    }

    fn left(&mut self, dir: BorrowedFd<'_>, name: &CStr, clean: bool) -> Result<bool, Errno> {
        match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if !clean => Ok(false),
            // Deleting while reading may skip entries on some file systems.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.second_looks > 0 => {
                self.second_looks -= 1;
                Ok(true)
            }
            other => other.map(|()| false),
        }
    }

    fn mounted(&mut self, path: PathBuf) {
        self.busy.get_or_insert(Error::Busy { path });
    }

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

#[derive(Default)]
struct Measure {
    total: Usage,
    seen: HashSet<((u32, u32), u64)>,
    failed: Option<Error>,
}

impl Visitor for Measure {
    fn verb(&self) -> &'static str {
        "measure"
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        _: Option<Type>,
        root: &Stat,
    ) -> Result<Next, Errno> {
        let stat = sys::stat(dir, name)?;
        if !stat.same_mount(root) {
            return Ok(Next::Pass);
        }
        // Directories have several links, but only one name.
        let counted = stat.is_dir() || stat.links < 2 || self.seen.insert(stat.identity());
        if counted {
            self.total.bytes += stat.blocks * 512;
            self.total.inodes += 1;
        }
        Ok(if stat.is_dir() {
            Next::Enter
        } else {
            Next::Pass
        })
    }

    fn force(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<OwnedFd, Errno> {
        Err(Errno::EACCES) // measuring changes nothing
    }

    fn entered(&mut self, _: BorrowedFd<'_>, _: &Stat) {}

    fn left(&mut self, _: BorrowedFd<'_>, _: &CStr, _: bool) -> Result<bool, Errno> {
        Ok(false)
    }

    fn mounted(&mut self, _: PathBuf) {}

    fn failed(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(dir, name, FLAGS, Mode::empty())
}

/// dup(2) would leave the copy open in programs that are started meanwhile.
fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fd.try_clone_to_owned()
        .map_err(|cause| Errno::try_from(cause).unwrap_or(Errno::EIO))
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}

#[cfg(test)]
mod tests;
