//! The walk itself: which directory is open, what is still to be entered, and the way back.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::sys::{self, Stat};

/// Directories held open at once by one walk.
const KEPT_OPEN: usize = 64;

/// Longest path written into an error, in bytes.
const SHOWN: usize = 1024;

/// A visitor's decision about an entry.
pub(super) enum Next {
    /// Go into it: it is a directory.
    Enter,
    /// Done with it.
    Pass,
}

/// Actions of a walk.
pub(super) trait Visitor {
    /// Its verb, for errors.
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

pub(super) fn walk(
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

    /// Opens the directory above `left`. If another process moved `left` elsewhere, the walk must not
    /// follow: it would act on another tree.
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

pub(super) const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(dir, name, FLAGS, Mode::empty())
}

/// dup(2) would leave the copy open in programs that are started meanwhile.
fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fd.try_clone_to_owned()
        .map_err(|cause| Errno::try_from(cause).unwrap_or(Errno::EIO))
}

fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}
