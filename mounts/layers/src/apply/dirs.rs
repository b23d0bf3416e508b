//! Cache of the layer's directories that the archive has used.
//!
//! Each has its parent and name as key, so that a path is found without a system call, and at most
//! [`OPEN`] are open. No other process changes the layer, so cached facts stay true until we change
//! the layer ourselves. An unknown name is created first; only on EEXIST is it looked up.
//!
//! Lower layers are read only where the result depends on them: for directories without an entry
//! (`resolve.rs`), and for whiteouts (`hide.rs`).

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod hide;
mod resolve;

pub(super) use resolve::MOST_LINKS;

use rustix::fs::{AtFlags, OFlags, Timestamps};
use rustix::io::Errno;

use crate::apply::attributes::Owner;
use crate::apply::below::{Below, Merged};
use crate::copy::{Markers, is_there};
use crate::dir_stack;
use crate::error::{Bound, Error};
use crate::node::{self, Kind};

/// Directories that are open at most.
const OPEN: usize = 256;

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
    /// Times to be set at the end.
    times: Option<Timestamps>,
    /// Set if files made in it get our owner and the requested mode.
    plain: bool,
    implied: bool,
    gone: bool,
    /// Set if it is opaque, and if a whiteout was made in it.
    opaque: bool,
    has_whiteouts: bool,
    /// The layers below that are one with it, once that was asked for.
    merged: Option<Merged>,
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
    /// Set if files made in it get our owner and the requested mode.
    pub(super) plain: bool,
    /// Set if the archive has no entry for it and no lower layer has it.
    pub(super) implied: bool,
    pub(super) times: Option<Timestamps>,
}

/// Settings shared by all directories.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) below: Below<'a>,
    /// Form of the notes of deletions; none if these are executed.
    pub(super) markers: Option<Markers>,
    pub(super) us: Owner,
    /// Directories that may be known.
    pub(super) most: u64,
}

#[derive(Debug)]
pub(super) struct Dirs<'a> {
    setting: Setting<'a>,
    all: Vec<Dir>,
    known: HashMap<Arc<[u8]>, Id>,
    open: Vec<Id>,
    clock: u64,
    key: Vec<u8>,
    /// Directories made without an entry, and whiteouts taken away again.
    made: u64,
    revoked: u64,
    /// Files made to mark opaque directories.
    noted: u64,
}

impl<'a> Dirs<'a> {
    /// Knows the root only.
    pub(super) fn new(root: OwnedFd, plain: bool, setting: Setting<'a>) -> Self {
        let new = New {
            plain,
            implied: false,
            times: None,
        };
        let mut root_dir = Dir::new(ROOT, Arc::from([0; NUMBER + 1]), new);
        root_dir.open = Some(root);
        // It may hold something.
        root_dir.has_whiteouts = setting.markers.is_some_and(Markers::has_names);
        Self {
            setting,
            all: vec![root_dir],
            known: HashMap::new(),
            open: Vec::new(),
            clock: 0,
            key: Vec::new(),
            made: 0,
            revoked: 0,
            noted: 0,
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
        let limit = self.setting.most.min(u32::MAX.into());
        if self.all.len() as u64 >= limit {
            let bound = Bound::Directories;
            return Err(Error::Beyond { bound, limit });
        }
        let key: Arc<[u8]> = Arc::from(self.key(parent, name.to_bytes()));
        let id = self.all.len();
        self.known.insert(Arc::clone(&key), id);
        self.all.push(Dir::new(parent, key, new));
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
            let open = dir_stack::open_below(self.all[ROOT].fd(), &path, flags)
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
        let markers = self.setting.markers;
        let note = match self.all[parent].has_whiteouts {
            true => markers.and_then(|markers| markers.deletion(name)),
            false => None,
        };
        let here = self.open(parent)?;
        let opened = match open_child(here, name) {
            Ok(open) => open,
            // A symlink is no directory either.
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let found = no_directory(here, name, markers);
                return found.map_err(|cause| self.failed("look at", parent, name, cause));
            }
            Err(Errno::NOENT) => {
                let deleted = note.map_or(Ok(false), |note| is_there(here, &note));
                let deleted =
                    deleted.map_err(|cause| self.failed("look at", parent, name, cause))?;
                return Ok(if deleted {
                    Found::Whiteout
                } else {
                    Found::Nothing
                });
            }
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
        let id = self.add(parent, name, opened, new)?;
        self.all[id].has_whiteouts = self.has_notes();
        Ok(Found::Directory(id))
    }

    fn failed(&self, attempt: &'static str, parent: Id, name: &CStr, cause: Errno) -> Error {
        Error::io(attempt, &self.join(parent, name), cause)
    }

    /// Sets the times of all directories, and tells blocks and number of them all. Whiteouts in
    /// directories that turned out to hide what is below are taken away before.
    pub(super) fn finish(&mut self) -> Result<(u64, u64), Error> {
        let (mut blocks, mut inodes) = (0, 0);
        self.revoke_hidden()?;
        if self.all[ROOT].opaque {
            inodes += self.hide_all()?;
        }
        inodes += self.noted;
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
    fn new(parent: Id, key: Arc<[u8]>, new: New) -> Self {
        Self {
            parent,
            key,
            open: None,
            used: 0,
            times: new.times,
            plain: new.plain,
            implied: new.implied,
            gone: false,
            opaque: false,
            has_whiteouts: false,
            merged: None,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        let open = self
            .open
            .as_ref()
            .expect("it was just opened, or is the root");
        open.as_fd()
    }
}

/// Type of an existing name.
#[derive(Debug)]
pub(super) enum Found {
    Directory(Id),
    /// A symlink, and its target.
    Link(CString),
    Nothing,
    /// A note that it is deleted: the device that overlayfs takes for that, where it is one, or a name of
    /// AUFS.
    Whiteout,
    Other,
}

fn no_directory(
    dir: BorrowedFd<'_>,
    name: &CStr,
    markers: Option<Markers>,
) -> Result<Found, Errno> {
    let (found, stat) = node::find(dir, name)?;
    Ok(match stat.kind() {
        Kind::Symlink => Found::Link(rustix::fs::readlinkat(&found, c"", Vec::new())?),
        _ if markers.is_some_and(|markers| markers.is_whiteout(&stat)) => Found::Whiteout,
        _ => Found::Other,
    })
}

/// Opens a directory in another one, on the same mount.
fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    dir_stack::open_below(parent, path, OFlags::RDONLY | OFlags::DIRECTORY)
}
