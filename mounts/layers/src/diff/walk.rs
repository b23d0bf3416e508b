//! Walks an upper directory in the order of its names, beside the stack below it.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::archive::write::{Described, Links, Out};
use crate::copy::stack::{Stack, marks};
use crate::copy::{Markers, Note};
use crate::diff::same::{Version, same_attributes, same_file};
use crate::diff::stream::Compressor;
use crate::diff::{DiffOptions, Diffed, ids};
use crate::dir_stack::DirStack;
use crate::error::Error;
use crate::layering::Layering;
use crate::node::{self, Kind, Stat, Xattrs};

/// Directories of the upper tree that stay open, besides the current one.
const OPEN_DIRECTORIES: usize = 64;

/// Prefix of whiteouts.
const WHITEOUT: &[u8] = b".wh.";

pub(super) fn diff(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &DiffOptions<'_>,
    out: &mut dyn Write,
) -> Result<Diffed, Error> {
    let failed = |cause| Error::io("open", Path::new(""), cause);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::openat(upper, c".", flags, Mode::empty()).map_err(failed)?;
    let root = node::stat(upper.as_fd()).map_err(failed)?;
    let packer =
        Compressor::new(options.compression, out).map_err(|cause| write_failed(0, cause))?;
    let markers = options.layering.markers();
    let mut diff = Diff {
        dir_stack: DirStack::new(upper, OPEN_DIRECTORIES),
        root,
        below: below(lowers, options.layering)?,
        frames: Vec::new(),
        links: Links::default(),
        out: Out::new(packer),
        options,
        entries: 0,
        changed: 0,
        left_out: (0, None),
        markers,
    };
    diff.run(!lowers.is_empty())?;
    diff.finish()
}

/// The stack that is compared with; of whole trees the nearest alone.
fn below(lowers: &[BorrowedFd<'_>], layering: Layering) -> Result<Stack, Error> {
    match layering {
        Layering::Diff(markers) => Stack::of_layers(lowers, markers),
        Layering::Full => Stack::of_tree(lowers.first().copied()),
    }
}

fn write_failed(offset: u64, cause: std::io::Error) -> Error {
    Error::Stream {
        attempt: "write",
        offset,
        cause,
    }
}

struct Diff<'a> {
    dir_stack: DirStack,
    root: Stat,
    /// The layers below. It is in the current directory if that one's frame says so.
    below: Stack,
    /// One for each directory on the way, the root's first.
    frames: Vec<Frame>,
    links: Links,
    out: Out<Compressor<'a>>,
    options: &'a DiffOptions<'a>,
    entries: u64,
    changed: u64,
    left_out: (u64, Option<PathBuf>),
    /// Where overlayfs' notes are; `None` in whole trees.
    markers: Option<Markers>,
}

/// A directory on the way.
struct Frame {
    /// Names still to come, last first.
    todo: Vec<Name>,
    /// Set if the lower stack has this directory.
    has_below: bool,
    /// Set if it is opaque.
    hides: bool,
    /// Data of its entry, until that is written.
    unwritten: Option<(Stat, Xattrs)>,
}

struct Name {
    name: CString,
    at: At,
}

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the upper tree.
    Upper,
    /// Only below, in a directory that hides that.
    Below,
    /// In the upper tree, as that of a file that is deleted.
    Deleted,
}

impl Diff<'_> {
    fn run(&mut self, has_below: bool) -> Result<(), Error> {
        // A whole tree lists what is missing in it, like a directory that was made again.
        let hides = match self.markers {
            Some(markers) => marks(self.dir_stack.here()?, markers, Path::new(""))?,
            None => true,
        };
        self.top(has_below)?;
        self.begin(has_below, hides, None)?;
        while let Some(frame) = self.frames.last_mut() {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            match frame.todo.pop() {
                Some(name) => self.entry(&name)?,
                None => self.end(),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Diffed, Error> {
        let (packer, uncompressed, diff_id) = self.out.finish()?;
        let packed = packer.finish();
        let (size, sha256) = packed.map_err(|cause| write_failed(uncompressed, cause))?;
        Ok(Diffed {
            sha256: sha256.unwrap_or(diff_id),
            size,
            diff_id,
            uncompressed,
            entries: self.entries,
            changed: self.changed,
            left_out: self.left_out.0,
            first_left_out: self.left_out.1,
        })
    }

    /// Writes the root directory, if it is not as it is below, or was made.
    fn top(&mut self, has_below: bool) -> Result<(), Error> {
        let path = Path::new("");
        let here = self.dir_stack.root().try_clone_to_owned();
        let here = here.map_err(|cause| Error::Io {
            attempt: "open".into(),
            path: crate::error::shown(path),
            cause,
        })?;
        let stat = ids::stat(self.root, self.options.ids, path)?;
        let xattrs = self.xattrs(here.as_fd(), path)?;
        let key = |stat: &Stat| (stat.permissions(), stat.uid, stat.gid);
        let (made, none) = ((0o755, 0, 0), Xattrs::new());
        let (key_below, xattrs_below) = match has_below {
            true => {
                let (stat, xattrs) = self.below.here()?;
                (key(&stat), ids::xattrs(portable(xattrs), None, path)?)
            }
            false => (made, none),
        };
        if key(&stat) == key_below && xattrs == xattrs_below {
            return Ok(());
        }
        self.describe(b"./", &stat, &xattrs, b"", None)
    }

    /// Lists the directory that was entered.
    fn begin(
        &mut self,
        has_below: bool,
        hides: bool,
        unwritten: Option<(Stat, Xattrs)>,
    ) -> Result<(), Error> {
        let mut todo = self.names()?;
        if has_below && hides {
            let ours: HashSet<CString> = todo.iter().map(|name| name.name.clone()).collect();
            let theirs = self.below.list()?.into_iter().map(|entry| entry.name);
            todo.extend(theirs.filter(|name| !ours.contains(name)).map(|name| Name {
                name,
                at: At::Below,
            }));
        }
        todo.sort_unstable_by(|one, other| other.name.cmp(&one.name));
        self.frames.push(Frame {
            todo,
            has_below,
            hides,
            unwritten,
        });
        Ok(())
    }

    fn names(&mut self) -> Result<Vec<Name>, Error> {
        let path = self.dir_stack.path();
        let failed = |cause| Error::io("read directory", &path, cause);
        let mut names = Vec::new();
        for entry in node::read_dir(self.dir_stack.here()?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                let name = entry.file_name();
                let note = self.markers.map_or(Note::No, |markers| markers.note(name));
                let (name, at) = match note {
                    Note::No => (name.to_owned(), At::Upper),
                    Note::Deletes(name) => (name, At::Deleted),
                    Note::Own => continue,
                };
                names.push(Name { name, at });
            }
        }
        Ok(names)
    }

    fn end(&mut self) {
        if let Some(frame) = self.frames.pop() {
            if frame.has_below {
                self.below.leave();
            }
            self.dir_stack.leave();
        }
    }

    fn entry(&mut self, name: &Name) -> Result<(), Error> {
        let Name { name, at } = name;
        self.dir_stack.check_length(name)?;
        let path = self.dir_stack.join(name);
        match at {
            At::Below => return self.whiteout(&path),
            At::Deleted => {
                let has_below = self.frames.last().is_some_and(|frame| frame.has_below);
                return match has_below && self.below.look(name)?.is_some() {
                    true => self.whiteout(&path),
                    false => Ok(()),
                };
            }
            At::Upper => {}
        }
        let (found, stat) = match node::find(self.dir_stack.here()?, name) {
            Err(Errno::NOENT) => return Ok(()), // deleted since the directory was read
            other => other.map_err(|cause| Error::io("look at", &path, cause))?,
        };
        if !stat.same_mount(&self.root) {
            return Err(Error::MountPoint { path });
        }
        let has_below = self.frames.last().is_some_and(|frame| frame.has_below);
        let below = if has_below {
            self.below.look(name)?
        } else {
            None
        };
        let kind_below = below.as_ref().map(|(_, stat)| stat.kind());
        let is_whiteout = self
            .markers
            .is_some_and(|markers| markers.is_whiteout(&stat));
        match stat.kind() {
            _ if is_whiteout && below.is_some() => self.whiteout(&path),
            _ if is_whiteout => Ok(()),
            _ if name.to_bytes().starts_with(WHITEOUT) => {
                self.left_out.0 += 1;
                self.left_out.1.get_or_insert(path);
                Ok(())
            }
            Kind::Socket if kind_below.is_some_and(|kind| kind != Kind::Socket) => {
                self.whiteout(&path)
            }
            Kind::Socket => Ok(()),
            Kind::Directory => {
                let is_new = kind_below != Some(Kind::Directory);
                self.directory(name, &path, found, stat, is_new)
            }
            _ => self.other(&path, found, stat, below),
        }
    }

    fn directory(
        &mut self,
        name: &CString,
        path: &Path,
        found: OwnedFd,
        stat: Stat,
        is_new: bool,
    ) -> Result<(), Error> {
        let opaque = match self.markers {
            Some(markers) => marks(found.as_fd(), markers, path)?,
            None => false,
        };
        let stat = ids::stat(stat, self.options.ids, path)?;
        let xattrs = self.xattrs(found.as_fd(), path)?;
        let mut is_same = false;
        if !is_new {
            self.below.enter(name)?;
            let (lower_stat, lower_xattrs) = self.below.here()?;
            let version = |stat, xattrs| Version {
                file: found.as_fd(),
                stat,
                xattrs,
            };
            let lower_xattrs = &ids::xattrs(portable(lower_xattrs), None, path)?;
            is_same = same_attributes(
                &version(&stat, &xattrs),
                &version(&lower_stat, lower_xattrs),
            );
        }
        let hides = opaque || self.frames.last().is_some_and(|frame| frame.hides);
        self.dir_stack.enter(name, found, stat.identity());
        self.begin(!is_new, hides, Some((stat, xattrs)))?;
        if is_same { Ok(()) } else { self.directories() }
    }

    fn other(
        &mut self,
        path: &Path,
        found: OwnedFd,
        stat: Stat,
        below: Option<(OwnedFd, Stat)>,
    ) -> Result<(), Error> {
        let stat = ids::stat(stat, self.options.ids, path)?;
        let xattrs = self.xattrs(found.as_fd(), path)?;
        if let Some((lower, lower_stat)) = below
            && lower_stat.kind() == stat.kind()
        {
            let lower_xattrs = portable(self.below.xattrs(lower.as_fd(), path)?);
            let lower_xattrs = ids::xattrs(lower_xattrs, None, path)?;
            let upper = Version {
                file: found.as_fd(),
                stat: &stat,
                xattrs: &xattrs,
            };
            let lower = Version {
                file: lower.as_fd(),
                stat: &lower_stat,
                xattrs: &lower_xattrs,
            };
            let compared = same_file(&upper, &lower);
            if compared.map_err(|cause| Error::io("compare", path, cause))? {
                return Ok(());
            }
        }
        self.directories()?;
        self.file(path, found, &stat, &xattrs)
    }

    /// The attributes that a layer keeps.
    fn xattrs(&self, file: BorrowedFd<'_>, path: &Path) -> Result<Xattrs, Error> {
        let failed = |cause| Error::io("read the attributes of", path, cause);
        let xattrs = node::xattrs(file).map_err(failed)?;
        let xattrs = match self.markers {
            Some(markers) => markers.strip(xattrs, path)?,
            None => xattrs,
        };
        let xattrs = portable(xattrs);
        ids::xattrs(xattrs, self.options.ids, path)
    }

    /// Writes the directories on the way that are not written yet.
    fn directories(&mut self) -> Result<(), Error> {
        let path = self.dir_stack.path();
        let mut names = path.iter();
        let mut way = PathBuf::new();
        for depth in 1..self.frames.len() {
            way.extend(names.next());
            if let Some((stat, xattrs)) = self.frames[depth].unwritten.take() {
                let member = [way.as_os_str().as_bytes(), b"/"].concat();
                self.describe(&member, &stat, &xattrs, b"", None)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        self.directories()?;
        let name = path.file_name().unwrap_or_default();
        let name = [WHITEOUT, name.as_bytes()].concat();
        let path = path.with_file_name(OsStr::from_bytes(&name));
        let mut stat = self.root;
        stat.mode = libc::S_IFREG;
        (stat.uid, stat.gid, stat.size) = (0, 0, 0);
        stat.modified = node::timespec(0, 0);
        self.describe(
            path.as_os_str().as_bytes(),
            &stat,
            &Xattrs::new(),
            b"",
            None,
        )
    }

    fn file(
        &mut self,
        path: &Path,
        found: OwnedFd,
        stat: &Stat,
        xattrs: &Xattrs,
    ) -> Result<(), Error> {
        let member = path.as_os_str().as_bytes();
        if let Some(first) = self.links.first(member, stat) {
            // Appliers set the owner once more, which takes the capabilities away.
            return self.describe(member, stat, xattrs, b"", Some(&first));
        }
        let failed = |cause| Error::io("read", path, cause);
        match stat.kind() {
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&found, c"", Vec::new()).map_err(failed)?;
                self.describe(member, stat, xattrs, target.to_bytes(), None)
            }
            Kind::Regular => {
                let open = node::reopen(found.as_fd()).map_err(failed)?;
                self.describe(member, stat, xattrs, b"", None)?;
                self.content(path, open.as_fd(), stat)
            }
            _ => self.describe(member, stat, xattrs, b"", None),
        }
    }

    fn content(&mut self, path: &Path, file: BorrowedFd<'_>, stat: &Stat) -> Result<(), Error> {
        let progress = self.options.progress;
        if self.out.piece(file, path, (0, stat.size), progress)? {
            let path = path.to_owned();
            return Err(Error::Changed { path });
        }
        self.out.pad(stat.size)?;
        let now = node::stat(file).map_err(|cause| Error::io("look at", path, cause))?;
        if (now.size, now.modified) != (stat.size, stat.modified) {
            self.changed += 1;
        }
        Ok(())
    }

    fn describe(
        &mut self,
        path: &[u8],
        stat: &Stat,
        xattrs: &Xattrs,
        target: &[u8],
        first: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.entries += 1;
        self.options.progress.advanced(1, 0);
        let has_content = first.is_none() && stat.kind() == Kind::Regular;
        let mut stat = *stat;
        if let Some(epoch) = self.options.source_date_epoch
            && stat.modified.tv_sec >= epoch
        {
            stat.modified = node::timespec(epoch, 0);
        }
        self.out.describe(&Described {
            path,
            stat: &stat,
            xattrs,
            target,
            first,
            stored: if has_content { stat.size } else { 0 },
            sparse: false,
            access_times: false,
            top: path == b"./",
        })
    }
}

/// Attributes that mean something elsewhere, sorted: without those that overlayfs and other
/// privileged programs keep on the files of this machine.
fn portable(mut xattrs: Xattrs) -> Xattrs {
    xattrs.retain(|(name, _)| {
        let name = name.to_bytes();
        !name.starts_with(b"trusted.") && !name.starts_with(b"user.overlay.")
    });
    xattrs.sort_unstable();
    xattrs
}
