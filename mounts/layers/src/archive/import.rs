//! Makes the files of an archive, one after the other.
//!
//! The directories on the way to the current file are open, or are opened again as the very ones
//! they were. A directory gets its mode, times and access list when the archive goes on outside of
//! it: until then it belongs to us alone, and hands no access list down. One that an archive comes
//! back to later is given back what it had.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::{ImportOptions, Imported};
use crate::dir_stack::{self, DirStack};
use crate::durable::OnTheWay;
use crate::error::Error;
use crate::node::{self, Attributes, Kind, Stat};
use crate::tar::{Entry, EntryKind, Reader};
use checked::{attributes, names, refused, relative};

mod checked;

/// Directories that stay open, besides the current one.
const OPEN_DIRECTORIES: usize = 64;

/// Bytes written at once.
const BUFFER: usize = 256 << 10;

pub(super) fn import(
    input: impl Read,
    dest: BorrowedFd<'_>,
    options: &ImportOptions<'_>,
) -> Result<Imported, Error> {
    let failed = |cause| Error::io("open", Path::new(""), cause);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dest = rustix::fs::openat(dest, c".", flags, Mode::empty()).map_err(failed)?;
    let root = node::stat(dest.as_fd()).map_err(failed)?;
    let mut import = Import {
        reader: Reader::new(input),
        dir_stack: DirStack::new(dest, OPEN_DIRECTORIES),
        root,
        names: Vec::new(),
        later: Vec::new(),
        on_the_way: OnTheWay::new(options.durable),
        buffer: vec![0; BUFFER],
        options,
        done: Imported::default(),
    };
    import.run()?;
    Ok(import.done)
}

struct Import<'a, R> {
    reader: Reader<R>,
    dir_stack: DirStack,
    root: Stat,
    /// The directories below the destination that lead to the current one.
    names: Vec<CString>,
    /// Attributes to set on them, and first on the destination, when they are left.
    later: Vec<Option<Attributes>>,
    on_the_way: OnTheWay,
    buffer: Vec<u8>,
    options: &'a ImportOptions<'a>,
    done: Imported,
}

impl<R: Read> Import<'_, R> {
    fn run(&mut self) -> Result<(), Error> {
        let root = self.borrow_attributes()?;
        self.later.push(Some(root));
        while let Some(entry) = self.reader.next_entry()? {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            self.count(&entry)?;
            self.entry(&entry)?;
            self.options.progress.advanced(1, 0);
        }
        self.done.verified = self.reader.is_verified();
        if self.options.checksum && !self.done.verified {
            let problem = "it has no checksum";
            return Err(Error::Damaged { problem });
        }
        while !self.later.is_empty() {
            self.leave()?;
        }
        self.on_the_way.finish()
    }

    fn count(&mut self, entry: &Entry) -> Result<(), Error> {
        let over = |what, limit| Err(Error::Limit { what, limit });
        self.count_file()?;
        let bytes = self.done.bytes.checked_add(entry.stored);
        match bytes.filter(|bytes| *bytes <= self.options.most_bytes) {
            Some(bytes) => self.done.bytes = bytes,
            None => return over("bytes", self.options.most_bytes),
        }
        Ok(())
    }

    fn count_file(&mut self) -> Result<(), Error> {
        self.done.files += 1;
        if self.done.files <= self.options.most_files {
            return Ok(());
        }
        let (what, limit) = ("files", self.options.most_files);
        Err(Error::Limit { what, limit })
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let mut names = names(&entry.path)?;
        let Some(last) = names.pop() else {
            if entry.kind != EntryKind::Directory {
                return Err(refused(
                    &entry.path,
                    "a file in the place of the whole tree",
                ));
            }
            self.go_to(&[], entry)?;
            self.later[0] = Some(attributes(entry, Kind::Directory)?);
            return Ok(());
        };
        self.go_to(&names, entry)?;
        match entry.kind {
            EntryKind::Directory => self.directory(&last, entry),
            EntryKind::HardLink => self.hard_link(&last, &names, entry),
            EntryKind::File => self.file(&last, entry),
            EntryKind::Symlink | EntryKind::Character | EntryKind::Block | EntryKind::Fifo => {
                self.special(&last, entry)
            }
        }
    }

    /// Makes the directory of the next file the current one.
    fn go_to(&mut self, names: &[CString], entry: &Entry) -> Result<(), Error> {
        let pairs = self.names.iter().zip(names);
        let common = pairs.take_while(|(ours, theirs)| ours == theirs).count();
        while self.names.len() > common {
            self.leave()?;
        }
        for name in &names[common..] {
            let path = self.dir_stack.join(name);
            let failed = |cause| Error::io("open directory", &path, cause);
            match node::find(self.dir_stack.here()?, name) {
                Err(Errno::NOENT) => {
                    // A single path can imply two thousand directories.
                    self.count_file()?;
                    self.make_directory(name, None)?;
                }
                other => {
                    let (found, stat) = other.map_err(failed)?;
                    match stat.kind() {
                        Kind::Directory => self.come_back(name, found, &stat)?,
                        Kind::Symlink => {
                            return Err(refused(&entry.path, "it lies behind a symlink"));
                        }
                        _ => {
                            return Err(refused(&entry.path, "it lies below what is no directory"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        let Some(attributes) = self.later.pop() else {
            return Ok(());
        };
        let path = self.dir_stack.path();
        let here = self.dir_stack.here()?;
        if let Some(attributes) = attributes {
            attributes
                .give(here)
                .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        }
        self.names.pop();
        self.dir_stack.leave();
        Ok(())
    }

    /// Enters a directory that is there, to give it back what it has now.
    fn come_back(&mut self, name: &CStr, found: OwnedFd, stat: &Stat) -> Result<(), Error> {
        let path = self.dir_stack.join(name);
        if !stat.same_mount(&self.root) {
            return Err(Error::MountPoint { path });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&found, c".", flags, Mode::empty())
            .map_err(|cause| Error::io("open directory", &path, cause))?;
        self.enter(name, open, stat);
        let attributes = self.borrow_attributes()?;
        self.set_later(Some(attributes));
        Ok(())
    }

    fn enter(&mut self, name: &CStr, open: OwnedFd, stat: &Stat) {
        self.dir_stack.enter(name, open, stat.identity());
        self.names.push(name.to_owned());
        self.later.push(None);
    }

    fn set_later(&mut self, attributes: Option<Attributes>) {
        if let Some(last) = self.later.last_mut() {
            *last = attributes;
        }
    }

    /// Reads the attributes of the current directory and takes its access lists away.
    fn borrow_attributes(&mut self) -> Result<Attributes, Error> {
        let path = self.dir_stack.path();
        let failed = |cause| Error::io("look at", &path, cause);
        let here = self.dir_stack.here()?;
        let stat = node::stat(here).map_err(failed)?;
        let xattrs = node::xattrs(here).map_err(failed)?;
        node::forget_acls(here)
            .map_err(|cause| Error::io("remove the access list of", &path, cause))?;
        Ok(Attributes::of(&stat, xattrs))
    }

    fn directory(&mut self, name: &CStr, entry: &Entry) -> Result<(), Error> {
        let attributes = attributes(entry, Kind::Directory)?;
        let path = self.dir_stack.join(name);
        match node::find(self.dir_stack.here()?, name) {
            Ok((found, stat)) if stat.kind() == Kind::Directory => {
                self.come_back(name, found, &stat)?;
                self.set_later(Some(attributes));
                return Ok(());
            }
            Ok(_) => self.clear(name)?,
            Err(Errno::NOENT) => {}
            Err(cause) => return Err(Error::io("look at", &path, cause)),
        }
        self.make_directory(name, Some(attributes))
    }

    /// Makes a directory and enters it. One that the archive only implies belongs to root.
    fn make_directory(&mut self, name: &CStr, later: Option<Attributes>) -> Result<(), Error> {
        self.dir_stack.check_length(name)?;
        let path = self.dir_stack.join(name);
        let failed = |cause| Error::io("create directory", &path, cause);
        let parent = self.dir_stack.here()?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
        let stat = node::stat(open.as_fd()).map_err(failed)?;
        if later.is_none() {
            rustix::fs::fchmod(&open, Mode::from_raw_mode(0o755)).map_err(failed)?;
        }
        self.enter(name, open, &stat);
        self.set_later(later);
        Ok(())
    }

    fn file(&mut self, name: &CStr, entry: &Entry) -> Result<(), Error> {
        let attributes = attributes(entry, Kind::Regular)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let create = |parent: BorrowedFd<'_>| rustix::fs::openat(parent, name, flags, mode);
        let file = self.create(name, &create)?;
        let path = self.dir_stack.join(name);
        self.content(&file, &path, entry)?;
        attributes
            .give(file.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))?;
        self.on_the_way.add(file, path, entry.stored > 0)
    }

    fn content(&mut self, file: &OwnedFd, path: &Path, entry: &Entry) -> Result<(), Error> {
        let failed = |cause| Error::io("write", path, cause);
        let whole = [(0, entry.size)];
        let pieces = entry.pieces.as_deref().unwrap_or(&whole);
        for (offset, length) in pieces {
            let (mut at, mut left) = (*offset, *length);
            while left > 0 {
                let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                let read = self.reader.read(&mut self.buffer[..most])?;
                if read == 0 || self.options.progress.cancelled() {
                    return Err(Error::Stopped); // 0 cannot be: the sizes were found sound
                }
                node::write_all(file.as_fd(), &self.buffer[..read], at).map_err(failed)?;
                self.options.progress.advanced(0, read as u64);
                at += read as u64;
                left -= read as u64;
            }
        }
        if entry.pieces.is_some() {
            rustix::fs::ftruncate(file, entry.size).map_err(failed)?;
        }
        Ok(())
    }

    fn special(&mut self, name: &CStr, entry: &Entry) -> Result<(), Error> {
        let (kind, kind_of_node) = match entry.kind {
            EntryKind::Character => (Kind::Character, FileType::CharacterDevice),
            EntryKind::Block => (Kind::Block, FileType::BlockDevice),
            EntryKind::Fifo => (Kind::Fifo, FileType::Fifo),
            _ => (Kind::Symlink, FileType::Symlink),
        };
        let device = matches!(kind, Kind::Character | Kind::Block);
        if device && !self.options.devices {
            return Err(refused(&entry.path, "a device"));
        }
        let attributes = attributes(entry, kind)?;
        let target = CString::new(&*entry.link);
        let target = target.map_err(|_| refused(&entry.path, "a NUL in the target"))?;
        if kind == Kind::Symlink && !(1..=dir_stack::LONGEST_PATH).contains(&entry.link.len()) {
            return Err(refused(&entry.path, "the target is empty or too long"));
        }
        let number = rustix::fs::makedev(entry.number.0, entry.number.1);
        self.create(name, &|parent| match kind {
            Kind::Symlink => rustix::fs::symlinkat(&*target, parent, name),
            _ => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(parent, name, kind_of_node, mode, number)
            }
        })?;
        let path = self.dir_stack.join(name);
        let (made, _) = node::find(self.dir_stack.here()?, name)
            .map_err(|cause| Error::io("look at", &path, cause))?;
        attributes
            .give(made.as_fd())
            .map_err(|(attempt, cause)| Error::io(attempt, &path, cause))
    }

    fn hard_link(&mut self, name: &CStr, dir: &[CString], entry: &Entry) -> Result<(), Error> {
        let target = names(&entry.link)?;
        if target
            .split_last()
            .is_some_and(|(last, before)| **last == *name && before == dir)
        {
            return Ok(()); // to itself
        }
        let path = relative(&target);
        let bad = |problem| refused(&entry.path, problem);
        let open = match dir_stack::open_below(self.dir_stack.root(), &path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(bad("a hard link to a file that did not come before"));
            }
            Err(Errno::LOOP | Errno::XDEV) => {
                return Err(bad("a hard link to what lies behind a symlink"));
            }
            other => other.map_err(|cause| Error::io("look at", &path, cause))?,
        };
        let stat = node::stat(open.as_fd());
        let stat = stat.map_err(|cause| Error::io("look at", &path, cause))?;
        if stat.kind() == Kind::Directory {
            return Err(bad("a hard link to a directory"));
        }
        let proc = node::proc_path(open.as_fd());
        self.create(name, &|parent| {
            rustix::fs::linkat(CWD, &*proc, parent, name, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Makes a name in the current directory, instead of what has it.
    fn create<T>(
        &mut self,
        name: &CStr,
        make: &dyn Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        self.dir_stack.check_length(name)?;
        let made = match make(self.dir_stack.here()?) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                make(self.dir_stack.here()?)
            }
            other => other,
        };
        made.map_err(|cause| Error::io("create", &self.dir_stack.join(name), cause))
    }

    /// Deletes a file or an empty directory.
    fn clear(&mut self, name: &CStr) -> Result<(), Error> {
        let path = self.dir_stack.join(name);
        let here = self.dir_stack.here()?;
        let removed = match rustix::fs::unlinkat(here, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(here, name, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(refused(
                path.as_os_str().as_bytes(),
                "a file in the place of a directory that is not empty",
            )),
            other => other.map_err(|cause| Error::io("replace", &path, cause)),
        }
    }
}
