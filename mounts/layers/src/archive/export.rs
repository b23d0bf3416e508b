//! Walks a tree in the order of its names and writes it.

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::archive::write::{Described, Links, Out};
use crate::archive::{ExportOptions, Exported};
use crate::copy::next_data;
use crate::dir_stack::DirStack;
use crate::error::Error;
use crate::node::{self, Kind, Stat, Xattrs};
use crate::tar::{BLOCK, padding};

/// Directories that stay open, besides the current one.
const OPEN_DIRECTORIES: usize = 64;

pub(super) fn export(
    dir: BorrowedFd<'_>,
    out: impl Write,
    options: &ExportOptions<'_>,
) -> Result<Exported, Error> {
    let failed = |cause| Error::io("open", Path::new(""), cause);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(dir, c".", flags, Mode::empty()).map_err(failed)?;
    let root = node::stat(dir.as_fd()).map_err(failed)?;
    let mut export = Export {
        dir_stack: DirStack::new(dir, OPEN_DIRECTORIES),
        root,
        out: Out::marked(out)?,
        links: Links::default(),
        todo: Vec::new(),
        options,
        files: 0,
        left_out: 0,
        changed: 0,
    };
    export.run()?;
    let (files, left_out, changed) = (export.files, export.left_out, export.changed);
    let (bytes, sha256) = export.out.finish_signed()?;
    Ok(Exported {
        bytes,
        files,
        left_out,
        changed,
        sha256,
    })
}

struct Export<'a, W: Write> {
    dir_stack: DirStack,
    root: Stat,
    out: Out<W>,
    links: Links,
    /// For each directory on the way, the names still to come, last first.
    todo: Vec<Vec<CString>>,
    options: &'a ExportOptions<'a>,
    files: u64,
    left_out: u64,
    changed: u64,
}

impl<W: Write> Export<'_, W> {
    fn run(&mut self) -> Result<(), Error> {
        let root = self.root;
        let xattrs = node::xattrs(self.dir_stack.here()?);
        let xattrs = xattrs.map_err(|cause| Error::io("look at", Path::new(""), cause))?;
        self.describe(Path::new(""), &root, &xattrs, b"")?;
        self.list()?;
        while let Some(names) = self.todo.last_mut() {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            match names.pop() {
                Some(name) => self.entry(&name)?,
                None => {
                    self.todo.pop();
                    self.dir_stack.leave();
                }
            }
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(), Error> {
        let path = self.dir_stack.path();
        let failed = |cause| Error::io("read directory", &path, cause);
        let mut names = Vec::new();
        for entry in node::read_dir(self.dir_stack.here()?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable_by(|one, other| other.cmp(one));
        self.todo.push(names);
        Ok(())
    }

    fn entry(&mut self, name: &CString) -> Result<(), Error> {
        self.dir_stack.check_length(name)?;
        let path = self.dir_stack.join(name);
        let failed = |cause| Error::io("look at", &path, cause);
        let (found, stat) = match node::find(self.dir_stack.here()?, name) {
            Err(Errno::NOENT) => return Ok(()), // deleted since the directory was read
            other => other.map_err(failed)?,
        };
        if !stat.same_mount(&self.root) {
            return Err(Error::MountPoint { path });
        }
        if stat.kind() == Kind::Socket {
            self.left_out += 1;
            return Ok(());
        }
        let xattrs = node::xattrs(found.as_fd()).map_err(failed)?;
        match stat.kind() {
            Kind::Directory => {
                self.describe(&path, &stat, &xattrs, b"")?;
                self.dir_stack.enter(name, found, stat.identity());
                self.list()
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&found, c"", Vec::new()).map_err(failed)?;
                self.describe(&path, &stat, &xattrs, target.to_bytes())
            }
            Kind::Regular => self.regular(&path, found, &stat, &xattrs),
            _ => self.describe(&path, &stat, &xattrs, b""),
        }
    }

    /// Writes the header of what has no content. True if it was another name of what is there.
    fn describe(
        &mut self,
        path: &Path,
        stat: &Stat,
        xattrs: &Xattrs,
        target: &[u8],
    ) -> Result<(), Error> {
        let path = member(path, stat);
        if self.linked(&path, stat, xattrs)? {
            return Ok(());
        }
        self.header(&path, stat, xattrs, target, None)
    }

    fn header(
        &mut self,
        path: &[u8],
        stat: &Stat,
        xattrs: &Xattrs,
        target: &[u8],
        content: Option<&Content>,
    ) -> Result<(), Error> {
        self.files += 1;
        self.options.progress.advanced(1, 0);
        self.out.describe(&Described {
            path,
            stat,
            xattrs,
            target,
            first: None,
            stored: content.map_or(0, Content::stored),
            sparse: content.is_some_and(|content| content.map.is_some()),
            access_times: self.options.access_times,
            top: false,
        })
    }

    /// Writes a hard link if this is another name of a file that was written. The attributes come
    /// along once more: a reader that sets the owner of each name takes the capabilities away.
    fn linked(&mut self, path: &[u8], stat: &Stat, xattrs: &Xattrs) -> Result<bool, Error> {
        let Some(first) = self.links.first(path, stat) else {
            return Ok(false);
        };
        self.files += 1;
        self.options.progress.advanced(1, 0);
        self.out.describe(&Described {
            path,
            stat,
            xattrs,
            target: b"",
            first: Some(&first),
            stored: 0,
            sparse: false,
            access_times: self.options.access_times,
            top: false,
        })?;
        Ok(true)
    }

    fn regular(
        &mut self,
        path: &Path,
        found: OwnedFd,
        stat: &Stat,
        xattrs: &Xattrs,
    ) -> Result<(), Error> {
        let name = member(path, stat);
        if self.linked(&name, stat, xattrs)? {
            return Ok(());
        }
        let failed = |cause| Error::io("read", path, cause);
        let file = node::reopen(found.as_fd()).map_err(failed)?;
        drop(found);
        let content = Content::of(file.as_fd(), stat).map_err(failed)?;
        self.header(&name, stat, xattrs, b"", Some(&content))?;
        if let Some(map) = &content.map {
            self.out.put(map)?;
        }
        let mut shrunk = false;
        let progress = self.options.progress;
        for piece in &content.pieces {
            shrunk |= self.out.piece(file.as_fd(), path, *piece, progress)?;
        }
        self.out.pad(content.stored())?;
        let now = node::stat(file.as_fd()).map_err(failed)?;
        if shrunk || (now.size, now.modified) != (stat.size, stat.modified) {
            self.changed += 1;
        }
        Ok(())
    }
}

/// Content of a regular file in the archive.
struct Content {
    /// Offset and length of each part.
    pieces: Vec<(u64, u64)>,
    /// The parts as text, filled up to a whole block; `None` if there are no holes.
    map: Option<Vec<u8>>,
}

impl Content {
    fn of(file: BorrowedFd<'_>, stat: &Stat) -> Result<Self, Errno> {
        let whole = Self {
            pieces: vec![(0, stat.size)],
            map: None,
        };
        if !stat.may_have_holes() {
            return Ok(whole);
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = next_data(file, at, stat.size)? {
            pieces.push((start, end - start));
            at = end;
            if at >= stat.size {
                break;
            }
        }
        if pieces == whole.pieces {
            return Ok(whole);
        }
        if at < stat.size {
            pieces.push((stat.size, 0)); // as GNU tar marks a hole at the end
        }
        let map = Some(map(&pieces));
        Ok(Self { pieces, map })
    }

    fn stored(&self) -> u64 {
        let map = self.map.as_ref().map_or(0, |map| map.len() as u64);
        map + self.pieces.iter().map(|(_, length)| length).sum::<u64>()
    }
}

fn map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", pieces.len());
    for (offset, length) in pieces {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = text.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    debug_assert_eq!(map.len() % BLOCK, 0);
    map
}

/// The name of a file in the archive: relative, and with a slash if it is a directory.
fn member(path: &Path, stat: &Stat) -> Vec<u8> {
    let mut name = PathBuf::from(".");
    name.push(path);
    let mut name = name.into_os_string();
    if stat.kind() == Kind::Directory && !name.as_bytes().ends_with(b"/") {
        name.push(OsStr::new("/"));
    }
    name.as_bytes().to_vec()
}
