//! Makes what the entries of a layer name, one after the other. A thread.
//!
//! The rules are those of containerd's differ when it writes into an upper directory, but what the
//! layer says of those below holds as the image specification has it: as if the layer were
//! unpacked upon them.
//!
//! - A path is cleaned by its text and taken from the root of the layer, `..` and a leading slash
//!   notwithstanding; what comes down to the root itself is passed over, but in layers that layerd
//!   made. Symlinks on the way are
//!   followed within the layer (see `dirs.rs`), the last name never.
//! - An entry replaces what is there by that name, with all below. A directory over a directory
//!   keeps what is in it and takes on the new attributes.
//! - What is missing on the way is as it is below: a symlink there is followed, a directory has
//!   its attributes, else it is 0755 and root's.
//! - `.wh.NAME` hides what is below by that name, and nothing that the layer brings, before or
//!   after: it makes a device 0:0 called NAME, or marks a directory of that name as opaque, or
//!   makes nothing if nothing is below. `.wh..wh..opq` marks its directory. Other names in
//!   `.wh..wh.` are whiteouts like any. When whiteouts are executed, both delete what did not come
//!   with this layer.
//! - A hard link must lead to a file that the layer itself brings (overlayfs could not show it
//!   as the same file anyhow), and gives that file the attributes of its own entry: its owner even
//!   if that is the same, which takes the capabilities that the entry does not repeat.
//! - Devices that are left out are passed over before all else, whatever their names.
//! - Attributes in `trusted.` are never set; of others, those are left out that the file system
//!   cannot hold.
//!
//! Otherwise we differ where containerd's result depends on the moment or on an accident: implied
//! directories keep the times of the lower layer, instead of getting those of their last change;
//! the times of a directory that is replaced later do not reach what replaces it; an opaque mark
//! that is executed spares directories that were only implied by what they hold; holes of sparse
//! files stay holes; and old formats that containerd knows but refuses (old GNU sparse files,
//! contiguous files) are read.

use std::borrow::Cow;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::apply::attributes::{Owner, PendingAttributes, refused};
use crate::apply::below::Below;
use crate::apply::dirs::{Dirs, Found, Id, New, ROOT, Setting};
use crate::apply::names::{self, Name, c_name};
use crate::apply::remove;
use crate::apply::shared::{Job, Shared};
use crate::apply::stream::Plain;
use crate::apply::{Options, Target, Whiteouts};
use crate::copy::Markers;
use crate::dir_stack;
use crate::error::Error;
use crate::node;
use crate::tar::{Entry, EntryKind, Reader};

mod files;
mod whiteouts;

pub(super) use whiteouts::MOST_LISTED;

/// Result of the extraction.
#[derive(Debug)]
pub(super) struct Extracted {
    pub(super) blocks: u64,
    pub(super) inodes: u64,
    pub(super) implied: Vec<Vec<u8>>,
    pub(super) whiteouts: Option<Vec<Vec<u8>>>,
    pub(super) top: bool,
    pub(super) left_out: u64,
    pub(super) first_left_out: Option<PathBuf>,
}

/// Makes the names of a layer.
pub(super) struct Extractor<'a> {
    reader: Reader<Plain<'a>>,
    pub(super) dirs: Dirs<'a>,
    /// The parent of the last entry, by the text of its path.
    last: (Vec<u8>, Id),
    batch: Vec<Job>,
    /// Where in the stream the first job of the batch lies.
    batch_from: u64,
    entries: u64,
    top: bool,
    left_out: u64,
    first_left_out: Option<PathBuf>,
    whiteouts: Option<Vec<Vec<u8>>>,
    listed: usize,
    /// Set if the directory was not empty, or a file was removed again: then usage is not the sum of
    /// the files made.
    disturbed: bool,
    /// Names made by this layer, kept where deletions are executed.
    own: Option<remove::Own>,
    us: Owner,
    /// Form of the notes of deletions; none if these are executed.
    markers: Option<Markers>,
    target: &'a Target<'a>,
    options: &'a Options<'a>,
    shared: &'a Shared,
}

impl<'a> Extractor<'a> {
    /// `masked` tells whether files may get fewer permissions than are asked for.
    pub(super) fn new(
        target: &'a Target<'a>,
        options: &'a Options<'a>,
        shared: &'a Shared,
        masked: bool,
    ) -> Result<Self, Error> {
        let failed = |cause| Error::io("open", Path::new(""), cause);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(target.layer, c".", flags, Mode::empty()).map_err(failed)?;
        let stat = node::stat(root.as_fd()).map_err(failed)?;
        let acls = node::xattr(&node::proc_path(root.as_fd()), c"system.posix_acl_default");
        let us = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let plain = !masked
            && stat.gid == us.1
            && stat.permissions() & libc::S_ISGID == 0
            && acls.map_err(failed)?.is_none();
        let fresh = remove::is_empty(root.as_fd()).map_err(failed)?;
        let remembers = !fresh && target.whiteouts == Whiteouts::Delete;
        let markers = match target.whiteouts {
            Whiteouts::Devices(markers) => Some(markers),
            Whiteouts::Delete => None,
        };
        let setting = Setting {
            below: Below::new(target.lowers, markers.unwrap_or_default()),
            markers,
            us,
            most: options.limits.most_directories,
        };
        Ok(Self {
            reader: Reader::of_layer(Plain::new(shared)),
            dirs: Dirs::new(root, plain, setting),
            last: (Vec::new(), ROOT),
            batch: Vec::new(),
            batch_from: 0,
            entries: 0,
            top: false,
            left_out: 0,
            first_left_out: None,
            whiteouts: Some(Vec::new()),
            listed: 0,
            disturbed: !fresh,
            own: remembers.then(remove::Own::default),
            us,
            markers,
            target,
            options,
            shared,
        })
    }

    /// Makes everything up to the end of the stream.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        while let Some(entry) = self.reader.next_entry()? {
            if self.options.progress.cancelled() {
                return Err(Error::Stopped);
            }
            self.count()?;
            self.entry(entry)?;
            self.options.progress.advanced(1, 0);
        }
        Ok(())
    }

    /// Waits for the files, then gives the directories their times.
    pub(super) fn finish(mut self) -> Result<Extracted, Error> {
        self.hand_over()?;
        self.reader.into_input().drain();
        self.shared.jobs.close();
        self.shared.jobs.idle().map_err(|_| Error::Stopped)?;
        self.shared.written.close();
        let (mut blocks, mut inodes) = self.dirs.finish()?;
        self.shared.written.idle().map_err(|_| Error::Stopped)?;
        if self.disturbed {
            (blocks, inodes) = remove::usage(self.dirs.open(ROOT)?)?;
        } else {
            use std::sync::atomic::Ordering::Relaxed;
            blocks += self.shared.blocks_used.load(Relaxed);
            inodes += self.shared.inodes.load(Relaxed) - self.dirs.revoked();
        }
        Ok(Extracted {
            blocks,
            inodes,
            implied: self.dirs.implied(),
            whiteouts: self.whiteouts,
            top: self.top,
            left_out: self.left_out,
            first_left_out: self.first_left_out,
        })
    }

    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        self.options.limits.check_entries(self.entries)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let parts = names::clean(&entry.path);
        let path = parts.join(&b'/');
        if self.options.leaves_out_devices && entry.kind.is_device() {
            self.left_out += 1;
            self.first_left_out
                .get_or_insert_with(|| shown(&path[..path.len().min(4096)]));
            return Ok(());
        }
        let Some((name, parents)) = parts.split_last() else {
            return self.top(&entry);
        };
        dir_stack::check_path_length(&path)?;
        let dir = self.parent(&path[..path.len() - name.len()], parents)?;
        match names::meaning(name) {
            Name::Plain => {}
            Name::Opaque => return self.opaque(dir),
            Name::Whiteout(hidden) => return self.whiteout(dir, hidden, &entry),
            Name::Bad => return Err(refused(&path, "a whiteout of nothing that could be")),
        }
        let name = c_name(name)?;
        let was_deleted = self.dirs.revoke_note(dir, &name)?;
        match entry.kind {
            EntryKind::Directory => self.directory(dir, &name, &entry, was_deleted)?,
            EntryKind::File => self.file(dir, &name, &entry)?,
            EntryKind::HardLink => self.hard_link(dir, &name, &path, &entry)?,
            EntryKind::Symlink | EntryKind::Character | EntryKind::Block | EntryKind::Fifo => {
                self.special(dir, &name, &entry)?;
            }
        }
        if let Some(own) = &mut self.own {
            own.add(&self.dirs.join(dir, &name));
        }
        Ok(())
    }

    /// The root of the layer: entries for it count only in layers that we made.
    fn top(&mut self, entry: &Entry) -> Result<(), Error> {
        if !entry.top || entry.kind != EntryKind::Directory {
            return Ok(());
        }
        self.top = true;
        self.apply_metadata(ROOT, &PendingAttributes::all(entry)?)
    }

    /// The directory that an entry goes to. Usually that of the entry before.
    fn parent(&mut self, text: &[u8], names: &[&[u8]]) -> Result<Id, Error> {
        if self.last.0 == text {
            return Ok(self.last.1);
        }
        let made = self.dirs.made();
        let found = self.dirs.resolve(names, true)?;
        for _ in made..self.dirs.made() {
            self.count()?;
        }
        let id = found.unwrap_or(ROOT); // what is missing was made
        self.last = (text.to_vec(), id);
        Ok(id)
    }

    fn directory(
        &mut self,
        dir: Id,
        name: &CStr,
        entry: &Entry,
        was_deleted: bool,
    ) -> Result<(), Error> {
        let mut attributes = PendingAttributes::all(entry)?;
        if let Some(id) = self.dirs.child(dir, name.to_bytes()) {
            return self.apply_metadata(id, &attributes);
        }
        let mode = Mode::from_raw_mode(entry.permissions);
        let make = |here: BorrowedFd<'_>| rustix::fs::mkdirat(here, name, mode);
        let mut made = make(self.dirs.open(dir)?);
        let is_taken = made == Err(Errno::EXIST);
        if is_taken {
            match self.dirs.enter(dir, name)? {
                Found::Directory(id) => return self.apply_metadata(id, &attributes),
                Found::Whiteout => self.dirs.revoke(dir, name)?,
                _ => self.remove(dir, name)?,
            }
            made = make(self.dirs.open(dir)?);
        }
        made.map_err(|cause| self.failed("create directory", dir, name, cause))?;
        let plain = self.dirs.is_plain(dir);
        if plain {
            attributes = PendingAttributes::rest(entry, self.us)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(self.dirs.open(dir)?, name, flags, Mode::empty())
            .map_err(|cause| self.failed("open directory", dir, name, cause))?;
        attributes
            .but_times(open.as_fd())
            .map_err(|(attempt, cause)| self.failed(attempt, dir, name, cause))?;
        let new = New {
            plain: plain && attributes.keeps_plain(self.us),
            implied: false,
            times: Some(attributes.times),
        };
        let id = self.dirs.add(dir, name, open, new)?;
        // What was there before hid what is below, and so does what takes its place.
        if is_taken || was_deleted {
            return self.dirs.hide(id);
        }
        Ok(())
    }

    /// Gives a directory that is there what its entry says.
    fn apply_metadata(&mut self, id: Id, attributes: &PendingAttributes) -> Result<(), Error> {
        attributes
            .but_times(self.dirs.open(id)?)
            .map_err(|(attempt, cause)| Error::io(attempt, &self.dirs.path(id), cause))?;
        let plain = self.dirs.is_plain(id) && attributes.keeps_plain(self.us);
        self.dirs.set(id, plain, attributes.times.clone());
        Ok(())
    }

    /// Attributes still to be set on a new file in this directory.
    fn rest(&self, dir: Id, entry: &Entry) -> Result<PendingAttributes, Error> {
        if self.dirs.is_plain(dir) {
            return PendingAttributes::rest(entry, self.us);
        }
        PendingAttributes::all(entry)
    }

    fn special(&mut self, dir: Id, name: &CStr, entry: &Entry) -> Result<(), Error> {
        let is_link = entry.kind == EntryKind::Symlink;
        let attributes = self.rest(dir, entry)?;
        let kind = match entry.kind {
            EntryKind::Character => FileType::CharacterDevice,
            EntryKind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let target = c_name(&entry.link)?;
        let mode = Mode::from_raw_mode(entry.permissions);
        let number = rustix::fs::makedev(entry.number.0, entry.number.1);
        self.create(dir, name, &|here| match is_link {
            true => rustix::fs::symlinkat(&*target, here, name),
            false => rustix::fs::mknodat(here, name, kind, mode, number),
        })?;
        let here = self.dirs.open(dir)?;
        attributes
            .to_name(here, name, is_link)
            .map_err(|(attempt, cause)| self.failed(attempt, dir, name, cause))?;
        let here = self.dirs.open(dir)?;
        let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| self.failed("look at", dir, name, cause))?;
        self.shared
            .count(u64::try_from(stat.st_blocks).unwrap_or(0));
        Ok(())
    }

    fn hard_link(&mut self, dir: Id, name: &CStr, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let missing = || refused(path, "a hard link to a file that this layer does not have");
        let parts = names::clean(&entry.link);
        let (last, parents) = parts.split_last().ok_or_else(missing)?;
        let target = c_name(last)?;
        let found = self.dirs.resolve(parents, false)?;
        let from = found.ok_or_else(missing)?;
        self.catch_up()?; // the attributes of this entry come after those of the file
        self.link(from, &target, dir, name)
            .map_err(|error| match error.errno() {
                Some(libc::ENOENT) => missing(),
                _ => error,
            })?;
        if let Some(digests) = self.options.digests {
            let (new, old) = (self.dirs.join(dir, name), self.dirs.join(from, &target));
            digests.link(new.as_os_str().as_bytes(), old.as_os_str().as_bytes());
        }
        let attributes = PendingAttributes::all(entry)?;
        let here = self.dirs.open(dir)?;
        let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| self.failed("look at", dir, name, cause))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_device = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if is_device && self.markers.is_some_and(|markers| !markers.has_names()) {
            return Err(missing()); // it is deleted
        }
        let is_link = kind == FileType::Symlink;
        let here = self.dirs.open(dir)?;
        attributes
            .to_name(here, name, is_link)
            .map_err(|(attempt, cause)| self.failed(attempt, dir, name, cause))
    }

    fn link(&mut self, from: Id, target: &CStr, dir: Id, name: &CStr) -> Result<(), Error> {
        let (there, here) = self.dirs.both(from, dir)?;
        let mut linked = rustix::fs::linkat(there, target, here, name, AtFlags::empty());
        if linked == Err(Errno::EXIST) {
            self.remove(dir, name)?;
            let (there, here) = self.dirs.both(from, dir)?;
            linked = rustix::fs::linkat(there, target, here, name, AtFlags::empty());
        }
        linked.map_err(|cause| self.failed("create hard link", dir, name, cause))
    }

    /// Makes a name, instead of what has it.
    fn create<T>(
        &mut self,
        dir: Id,
        name: &CStr,
        make: &dyn Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let made = match make(self.dirs.open(dir)?) {
            Err(Errno::EXIST) => {
                self.remove(dir, name)?;
                make(self.dirs.open(dir)?)
            }
            other => other,
        };
        made.map_err(|cause| self.failed("create", dir, name, cause))
    }

    /// Deletes what has a name, with all below, if there is any.
    fn remove(&mut self, dir: Id, name: &CStr) -> Result<(), Error> {
        self.disturbed = true;
        let path = self.dirs.join(dir, name);
        if let Some(digests) = self.options.digests {
            self.catch_up()?; // it is told of no file there after this
            digests.gone(path.as_os_str().as_bytes());
        }
        self.dirs.forget(dir, name.to_bytes());
        self.last = (Vec::new(), ROOT); // it may have led through here
        remove::remove(self.dirs.open(dir)?, name, &path)
    }

    fn failed(
        &self,
        attempt: impl Into<Cow<'static, str>>,
        dir: Id,
        name: &CStr,
        cause: Errno,
    ) -> Error {
        Error::io(attempt, &self.dirs.join(dir, name), cause)
    }
}

pub(super) fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}
