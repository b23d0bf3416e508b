//! The directories of the layer, as far as the archive came by them.
//!
//! Each is known by its parent and its name, so that a path is found without asking the kernel,
//! and a few hundred of them are open. Since nobody else changes the layer, what is known stays
//! true until we change it ourselves. What is not known is found out by making it: only if
//! something is there already, it is looked at.
//!
//! A symlink on the way is followed as containerd does it: within the layer, whose directory is
//! its root, and in the layer alone. Layers below are not looked at: a directory that this layer
//! needs where one of them has a symlink hides that symlink.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::names::clean;
use crate::error::{Bound, Error};
use crate::trail;

/// Directories that are open at most.
const OPEN: usize = 256;

/// Symlinks on the way to one file.
pub(super) const MOST_LINKS: usize = 255;

/// A directory.
pub(super) type Id = usize;

/// The directory of the layer.
pub(super) const ROOT: Id = 0;

#[derive(Debug)]
struct Dir {
    parent: Id,
    /// The parent's number and the name, with its NUL.
    key: Arc<[u8]>,
    open: Option<OwnedFd>,
    used: u64,
    /// What it gets at the end.
    times: Option<Timestamps>,
    /// Whether what is made in it belongs to us and has the mode that was asked for.
    plain: bool,
    implied: bool,
    gone: bool,
}

/// Bytes of the parent's number in a key.
const NUMBER: usize = size_of::<u32>();

impl Dir {
    fn name(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.key[NUMBER..]).unwrap_or_default()
    }
}

/// A directory that is not known yet.
#[derive(Debug)]
pub(super) struct New {
    /// Whether what is made in it belongs to us and has the mode that was asked for.
    pub(super) plain: bool,
    /// Whether only something in it asked for it, and no layer below has it.
    pub(super) implied: bool,
    pub(super) times: Option<Timestamps>,
}

/// What to do about a name that is not known: make a directory and answer it, or answer `None` to
/// have a look at what is there.
pub(super) type Missing<'a> = dyn FnMut(&mut Dirs, Id, &CStr) -> Result<Option<Id>, Error> + 'a;

#[derive(Debug)]
pub(super) struct Dirs {
    all: Vec<Dir>,
    known: HashMap<Arc<[u8]>, Id>,
    open: Vec<Id>,
    clock: u64,
    key: Vec<u8>,
    most: u64,
}

impl Dirs {
    /// Knows the root only; takes at most `most` directories.
    pub(super) fn new(root: OwnedFd, plain: bool, most: u64) -> Self {
        let root = Dir {
            parent: ROOT,
            key: Arc::from([0; NUMBER + 1]),
            open: Some(root),
            used: 0,
            times: None,
            plain,
            implied: false,
            gone: false,
        };
        Self {
            all: vec![root],
            known: HashMap::new(),
            open: Vec::new(),
            clock: 0,
            key: Vec::new(),
            most: most.min(u32::MAX.into()),
        }
    }

    fn key(&mut self, parent: Id, name: &[u8]) -> &[u8] {
        let number = u32::try_from(parent).unwrap_or(u32::MAX); // there are not that many
        self.key.clear();
        self.key.extend_from_slice(&number.to_le_bytes());
        self.key.extend_from_slice(name);
        self.key.push(0);
        &self.key
    }

    /// A directory in another one, if it is known.
    pub(super) fn child(&mut self, parent: Id, name: &[u8]) -> Option<Id> {
        self.key(parent, name);
        self.known.get(&*self.key).copied()
    }

    /// Makes a directory known.
    pub(super) fn add(
        &mut self,
        parent: Id,
        name: &CStr,
        open: OwnedFd,
        new: New,
    ) -> Result<Id, Error> {
        if self.all.len() as u64 >= self.most {
            let (bound, limit) = (Bound::Directories, self.most);
            return Err(Error::Beyond { bound, limit });
        }
        let key: Arc<[u8]> = Arc::from(self.key(parent, name.to_bytes()));
        let id = self.all.len();
        self.known.insert(Arc::clone(&key), id);
        self.all.push(Dir {
            parent,
            key,
            open: None,
            used: 0,
            times: new.times,
            plain: new.plain,
            implied: new.implied,
            gone: false,
        });
        self.keep(id, open);
        Ok(id)
    }

    /// Forgets a directory that was removed, and all below.
    pub(super) fn forget(&mut self, parent: Id, name: &[u8]) {
        self.key(parent, name);
        if let Some(id) = self.known.remove(&*self.key) {
            self.all[id].gone = true;
        }
    }

    pub(super) fn is_plain(&self, id: Id) -> bool {
        self.all[id].plain
    }

    /// The archive has the directory itself.
    pub(super) fn set(&mut self, id: Id, plain: bool, times: Timestamps) {
        let dir = &mut self.all[id];
        dir.plain = plain;
        dir.times = Some(times);
        dir.implied = false;
    }

    /// The path of a directory, from the root of the layer.
    pub(super) fn path(&self, id: Id) -> PathBuf {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(OsStr::from_bytes(self.all[at].name().to_bytes()));
            at = self.all[at].parent;
        }
        names.into_iter().rev().collect()
    }

    /// The path of a name in a directory.
    pub(super) fn join(&self, id: Id, name: &CStr) -> PathBuf {
        self.path(id).join(OsStr::from_bytes(name.to_bytes()))
    }

    fn keep(&mut self, id: Id, open: OwnedFd) {
        if self.open.len() >= OPEN {
            self.open.sort_unstable_by_key(|id| self.all[*id].used);
            for old in self.open.drain(..OPEN / 2) {
                self.all[old].open = None;
            }
        }
        self.clock += 1;
        self.all[id].open = Some(open);
        self.all[id].used = self.clock;
        self.open.push(id);
    }

    /// An open directory. At least [`OPEN`]/2 others stay open.
    pub(super) fn open(&mut self, id: Id) -> Result<BorrowedFd<'_>, Error> {
        if self.all[id].open.is_none() {
            let path = self.path(id);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let open = trail::open_below(self.all[ROOT].fd(), &path, flags)
                .map_err(|cause| Error::io("open directory again", &path, cause))?;
            self.keep(id, open);
        }
        self.clock += 1;
        self.all[id].used = self.clock;
        Ok(self.all[id].fd())
    }

    /// Two open directories.
    pub(super) fn both(
        &mut self,
        one: Id,
        other: Id,
    ) -> Result<(BorrowedFd<'_>, BorrowedFd<'_>), Error> {
        self.open(one)?;
        self.open(other)?;
        Ok((self.all[one].fd(), self.all[other].fd()))
    }

    /// Enters a directory that is there, known or not.
    pub(super) fn enter(&mut self, parent: Id, name: &CStr) -> Result<Found, Error> {
        if let Some(id) = self.child(parent, name.to_bytes()) {
            return Ok(Found::Directory(id));
        }
        let here = self.open(parent)?;
        let opened = match open_child(here, name) {
            Ok(open) => open,
            // A symlink is no directory either.
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return match rustix::fs::readlinkat(here, name, Vec::new()) {
                    Ok(target) => Ok(Found::Link(target)),
                    Err(Errno::INVAL) => Ok(Found::Other),
                    Err(cause) => Err(self.failed("read link", parent, name, cause)),
                };
            }
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::XDEV) => {
                let path = self.join(parent, name);
                return Err(Error::MountPoint { path });
            }
            Err(cause) => return Err(self.failed("open directory", parent, name, cause)),
        };
        let new = New {
            plain: false, // it need not be, and asking costs more than it saves
            implied: false,
            times: None,
        };
        self.add(parent, name, opened, new).map(Found::Directory)
    }

    fn failed(&self, attempt: &'static str, parent: Id, name: &CStr, cause: Errno) -> Error {
        Error::io(attempt, &self.join(parent, name), cause)
    }

    /// Finds the directory of these names, through symlinks within the layer. `None` if there is
    /// none.
    pub(super) fn resolve(
        &mut self,
        names: &[&[u8]],
        missing: &mut Missing<'_>,
    ) -> Result<Option<Id>, Error> {
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = todo.pop() {
            if let Some(id) = self.child(at, &name) {
                at = id;
                continue;
            }
            let name = c_name(&name)?;
            at = match missing(self, at, &name)? {
                Some(id) => id,
                None => match self.enter(at, &name)? {
                    Found::Directory(id) => id,
                    Found::Link(target) => {
                        links += 1;
                        self.check_links(links, at, &name)?;
                        self.turn(at, target.as_bytes(), &mut todo);
                        ROOT
                    }
                    Found::Nothing => return Ok(None),
                    Found::Other => {
                        let path = self.join(at, &name);
                        let found = "no directory";
                        return Err(Error::NotADirectory { path, found });
                    }
                },
            };
        }
        Ok(Some(at))
    }

    fn check_links(&self, links: usize, at: Id, name: &CStr) -> Result<(), Error> {
        if links <= MOST_LINKS {
            return Ok(());
        }
        Err(self.failed("resolve", at, name, Errno::LOOP))
    }

    /// What is to be done after a symlink in `at`, from the root on.
    fn turn(&self, at: Id, target: &[u8], todo: &mut Vec<Vec<u8>>) {
        let before = self.path(at);
        let mut path = Vec::new();
        if !target.starts_with(b"/") {
            path.extend_from_slice(before.as_os_str().as_bytes());
            path.push(b'/');
        }
        path.extend_from_slice(target);
        todo.extend(clean(&path).into_iter().rev().map(<[u8]>::to_vec));
    }

    /// Sets the times of all directories, and tells blocks and number of them all.
    pub(super) fn finish(&mut self) -> Result<(u64, u64), Error> {
        let (mut blocks, mut inodes) = (0, 0);
        for id in 0..self.all.len() {
            let parent = self.all[id].parent;
            if self.all[id].gone || (id != ROOT && self.all[parent].gone) {
                self.all[id].gone = true; // parents come first
                continue;
            }
            inodes += 1;
            blocks += self.finish_one(id, parent)?;
        }
        Ok((blocks, inodes))
    }

    fn finish_one(&mut self, id: Id, parent: Id) -> Result<u64, Error> {
        self.open(parent)?;
        let (here, dir) = (self.all[parent].fd(), &self.all[id]);
        let (name, flags) = match id {
            ROOT => (c"", AtFlags::EMPTY_PATH),
            _ => (dir.name(), AtFlags::SYMLINK_NOFOLLOW),
        };
        if let Some(times) = &dir.times {
            rustix::fs::utimensat(here, name, times, flags)
                .map_err(|cause| self.failed("set the times of", parent, name, cause))?;
        }
        let stat = rustix::fs::statat(here, name, flags)
            .map_err(|cause| self.failed("look at", parent, name, cause))?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0))
    }

    /// Writes each directory to the disk by itself.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        for id in 0..self.all.len() {
            if self.all[id].gone {
                continue;
            }
            let done = rustix::fs::fsync(self.open(id)?);
            done.map_err(|cause| Error::io("write to the disk", &self.path(id), cause))?;
        }
        Ok(())
    }

    /// The directories that only something in them asked for, and that no lower layer has. Of use
    /// after [`Dirs::finish`].
    pub(super) fn implied(&self) -> Vec<Vec<u8>> {
        let dirs = self.all.iter().enumerate();
        let implied = dirs.filter(|(_, dir)| dir.implied && !dir.gone);
        implied
            .map(|(id, _)| self.path(id).into_os_string().into_encoded_bytes())
            .collect()
    }
}

impl Dir {
    fn fd(&self) -> BorrowedFd<'_> {
        let open = self
            .open
            .as_ref()
            .expect("it was just opened, or is the root");
        open.as_fd()
    }
}

/// What has a name.
#[derive(Debug)]
pub(super) enum Found {
    Directory(Id),
    /// A symlink, and its target.
    Link(CString),
    Nothing,
    Other,
}

/// Opens a directory in another one, on the same mount.
fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    trail::open_below(parent, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// A name as the kernel takes it.
pub(super) fn c_name(name: &[u8]) -> Result<CString, Error> {
    CString::new(name).map_err(|_| {
        let path = PathBuf::from(OsStr::from_bytes(&name[..name.len().min(200)]));
        let problem = "a NUL in the name";
        Error::Refused { path, problem }
    })
}
