//! Directories of volumes.
//!
//! ```text
//! <root>/volumes/<slot>/data           a volume's content; stays where it is while it is attached
//! <root>/volumes/<slot>/image          of one with a limit: a file system, mounted on data
//! <root>/volumes/<slot>/project        or a symlink that notes the project of data, which has a quota
//! <root>/volumes/<slot>/new            until its record is written
//! <root>/volumes/.staging/<slot>/data  content that is being made, or deleted
//! <root>/volumes/.trash/<slot>         a deleted volume, whole
//! <root>/volumes/by-name/<name>        links for people
//! <root>/volumes/.lost                 what was moved out of the way on a disk of its own
//! ```
//!
//! A volume appears by rename, whole, and goes by rename, whatever its size. The staging area may be
//! deleted at any start. The links are for people only: they are made anew at start.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::{Mode, SFlag, fchmod, mkdirat, mknodat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use parking_lot::Mutex;

use crate::Slot;
use crate::barrier::Barrier;
use crate::error::Error;
use crate::folder::{FLAGS, Folder, c_name, move_over};
use crate::limit::project::Projects;
use crate::limit::{DATA, Enforcement, Limit, Method};
use crate::space::Space;
use crate::types::Usage;
use crate::{sys, tree};

mod exchange;
mod limited;
mod own;
mod survey;

use own::Own;

const NEW: &str = "new";

/// Owner and mode that were asked for the top folder of a volume. The default asks for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Top {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

impl Top {
    /// Those of a volume that is made: root's and 0755 where nothing else was asked for.
    fn of_new(self) -> Self {
        Self {
            uid: self.uid.or(Some(0)),
            gid: self.gid.or(Some(0)),
            mode: self.mode.or(Some(0o755)),
        }
    }

    /// Gives what was asked for to the open top folder of a staged volume, and leaves the rest as
    /// it is. The mode goes last, because a change of the owner may take bits of it away.
    fn give(self, data: &OwnedFd) -> Result<(), Errno> {
        if self.uid.is_some() || self.gid.is_some() {
            fchown(
                data,
                self.uid.map(Uid::from_raw),
                self.gid.map(Gid::from_raw),
            )?;
        }
        match self.mode {
            Some(mode) => fchmod(data, Mode::from_bits_truncate(mode)),
            None => Ok(()),
        }
    }
}

/// Directories of volumes on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundVolumes {
    /// In their place.
    pub live: Vec<Slot>,
    /// Being made when the last process ended.
    pub staged: Vec<Slot>,
    /// True if there is a folder for the trash, as layerd makes it.
    pub has_trash: bool,
    /// In the trash.
    pub trashed: Vec<Slot>,
    /// Of those in their place, the ones that are marked as [new](VolumeDirs::publish).
    pub new: Vec<Slot>,
    /// Of those in their place, the ones whose content is gone.
    pub hollow: Vec<Slot>,
    /// Of those in their place, the ones with what holds them to a limit.
    pub with_limit: Vec<Slot>,
    /// Of those in their place, the ones whose image shows a fault without a mount, with that.
    pub bad_images: BTreeMap<Slot, String>,
    /// Links for people: the name, and the volume it leads to.
    pub links: BTreeMap<String, Slot>,
    /// Unknown entries.
    pub unknown_entries: Vec<PathBuf>,
}

/// The directories of all volumes of one root.
#[derive(Debug)]
pub struct VolumeDirs {
    live: Folder,
    own: OnceLock<Own>,
    barrier: Barrier,
    enforcement: OnceLock<Enforcement>,
    projects: Projects,
    method: Method,
    /// Held while an image is mounted or enlarged.
    mounting: Mutex<()>,
    /// Told of each step, in tests.
    #[cfg(any(test, feature = "fake"))]
    pub hook: crate::fake::HookCell,
}

impl VolumeDirs {
    /// Opens `<root>/volumes`, making it if it is missing, and layerd's folders in it, unless it is on a
    /// read-only disk. The root is there and was checked.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        let live = Self::open_live(root)?;
        let dirs = Self {
            // A disk of its own may be mounted here.
            barrier: Barrier::open(&live.path)?,
            own: OnceLock::new(),
            projects: Projects::new(&live.path),
            method: Method::default(),
            live,
            enforcement: OnceLock::new(),
            mounting: Mutex::default(),
            #[cfg(any(test, feature = "fake"))]
            hook: Default::default(),
        };
        dirs.make_own()?;
        Ok(dirs)
    }

    /// Where a volume's content is.
    #[must_use]
    pub fn data_path(&self, slot: Slot) -> PathBuf {
        self.live.path.join(slot.to_string()).join(DATA)
    }

    /// Opens a volume's content; mounts it, if it is an image that is not mounted.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_data(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.step("open", slot);
        self.ready(slot)?;
        open_data(&self.live, slot)
    }

    /// Opens a volume's content, also that of one in the trash.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_any(&self, slot: Slot) -> Result<OwnedFd, Error> {
        open_data(&self.live, slot).or_else(|_| open_data(self.trash()?, slot))
    }

    /// Gives a volume's content to a group, as [`tree::give_group`] says.
    ///
    /// # Errors
    /// As there.
    pub fn give_group(
        &self,
        slot: Slot,
        group: u32,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let data = self.open_data(slot)?;
        tree::give_group(data.as_fd(), &self.data_path(slot), group, keep_going)
    }

    /// Room on the file system that holds the volumes. One system call.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space(&self) -> Result<Space, Error> {
        let disk = fstatvfs(&self.live.fd);
        disk.map(Space::from)
            .map_err(|cause| Error::io("look at the disk of", &self.live.path, cause))
    }

    /// True if the file system that holds the volumes is read-only, or was mounted so. One system call.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_read_only(&self) -> Result<bool, Error> {
        let disk = fstatvfs(&self.live.fd);
        let disk =
            disk.map_err(|cause| Error::io("look at the disk of", &self.live.path, cause))?;
        Ok(disk.flags().contains(FsFlags::ST_RDONLY))
    }

    /// Makes an empty volume in the staging area, held to a limit if it has one, and opens its content.
    /// Deletes remains of an earlier call first. After a failure nothing stays staged.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stage(&self, slot: Slot, top: Top, limit: Option<Limit>) -> Result<OwnedFd, Error> {
        let staged = self.stage_as(slot, top, limit);
        staged.inspect_err(|_| {
            // The next start deletes it too.
            let _ = self.drop_stage(slot);
        })
    }

    fn stage_as(&self, slot: Slot, top: Top, limit: Option<Limit>) -> Result<OwnedFd, Error> {
        let staging = self.staging()?;
        self.step("stage", slot);
        self.drop_stage(slot)?;
        let name = slot.to_string();
        let path = staging.path.join(&name);
        let fail = |cause: Errno| Error::io("create directory", &path, cause);
        mkdirat(&staging.fd, name.as_str(), Mode::S_IRWXU).map_err(fail)?;
        let holder = openat(&staging.fd, name.as_str(), FLAGS, Mode::empty()).map_err(fail)?;
        mkdirat(&holder, DATA, Mode::S_IRWXU).map_err(fail)?;
        let data = match limit {
            None => openat(&holder, DATA, FLAGS, Mode::empty()).map_err(fail)?,
            Some(limit) => self.stage_limited(slot, limit)?,
        };
        top.of_new().give(&data).map_err(fail)?;
        self.sync_image(&data, slot)?;
        mknodat(&holder, NEW, SFlag::S_IFREG, Mode::S_IRUSR, 0).map_err(fail)?;
        Ok(data)
    }

    /// Ends the filling of a staged volume through `data`, as [`stage`](Self::stage) opened it, once
    /// the content of its files is on the disk: gives its top folder the owner and mode that were
    /// asked for, after content from elsewhere brought its own, and has everything brought to the
    /// disk as `Directories::filled` of a storage driver does. To be called before the volume is
    /// moved: without a journal a power cut could else leave a name of half a volume.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    pub fn filled(&self, slot: Slot, data: &OwnedFd, top: Top) -> Result<(), Error> {
        let path = self.staging()?.path.join(slot.to_string()).join(DATA);
        top.give(data)
            .map_err(|cause| Error::io("set owner and mode of", &path, cause))?;
        self.sync_image(data, slot)?;
        self.barrier.filled()
    }

    /// Moves a staged volume to its final path, marked as new: it is not acknowledged yet. Unmarked
    /// ones without a record are users' data. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`]; a volume that is there already is never replaced.
    pub fn publish(&self, slot: Slot) -> Result<(), Error> {
        self.step("publish", slot);
        // Its marker must never be younger than its name.
        self.barrier.made()?;
        self.move_over(self.staging()?, &slot.to_string(), &self.live)
    }

    fn move_over(&self, from: &Folder, name: &str, to: &Folder) -> Result<(), Error> {
        self.barrier.note();
        move_over(&self.barrier, from, name, to, name)
    }

    /// Removes the marker of a new volume, whose record must be durable. A missing one is success. Not
    /// durable: with a record, the marker means nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear_marker(&self, slot: Slot) -> Result<(), Error> {
        self.step("clear marker", slot);
        let holder = open_holder(&self.live, slot)?;
        match unlinkat(&holder, NEW, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.barrier.removed(holder.as_fd(), &self.new_path(slot)),
            Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(Error::io("delete", &self.new_path(slot), cause)),
        }
    }

    /// Deletes a volume that has no record, without a way back.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete).
    pub fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.delete_from(&self.live, slot, &|| true)
    }

    /// Deletes what is staged for a volume. Nothing there is success.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete).
    pub fn drop_stage(&self, slot: Slot) -> Result<(), Error> {
        self.delete_staged(slot, &|| true)
    }

    /// Moves a volume to the trash. One that is not there is passed over.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn retire(&self, slot: Slot) -> Result<(), Error> {
        self.step("retire", slot);
        self.move_over(&self.live, &slot.to_string(), self.trash()?)
    }

    /// Moves a volume back out of the trash. Answers whether it is in its place then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn restore(&self, slot: Slot) -> Result<bool, Error> {
        self.step("restore", slot);
        let name = slot.to_string();
        self.move_over(self.trash()?, &name, &self.live)?;
        match sys::stat(self.live.fd.as_fd(), &c_name(&name)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(cause) => Err(Error::io("look at", &self.live.path.join(name), cause)),
        }
    }

    /// Deletes a volume from the trash, as `Driver::delete` of a storage driver does a layer.
    /// Once this has begun, it cannot be restored.
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.delete_from(self.trash()?, slot, keep_going)
    }

    /// By way of the staging area: half of a volume must not be where a whole one is looked for.
    fn delete_from(
        &self,
        from: &Folder,
        slot: Slot,
        keep_going: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        self.step("delete", slot);
        let name = slot.to_string();
        limited::unmount(from, slot)?;
        self.delete_staged(slot, keep_going)?;
        self.move_over(from, &name, self.staging()?)?;
        self.delete_staged(slot, keep_going)
    }

    fn delete_staged(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.release_staged(slot)?;
        let (folder, name) = (self.staging()?, c_name(&slot.to_string()));
        let parent = folder.fd.as_fd();
        tree::delete(parent, &name, &folder.path, &self.barrier, keep_going)
    }

    /// Measures a volume: one look at each file.
    ///
    /// # Errors
    /// As for `Driver::usage` of a storage driver.
    pub fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        if self.has_image(slot)? {
            // Its top is a mount, which no walk from above enters.
            let data = self.open_data(slot)?;
            return tree::usage(data.as_fd(), c".", &self.data_path(slot), keep_going);
        }
        let holder = open_holder(&self.live, slot)?;
        tree::usage(
            holder.as_fd(),
            &c_name(DATA),
            &self.data_path(slot),
            keep_going,
        )
    }

    /// True if a volume is empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        tree::is_empty(self.open_data(slot)?.as_fd(), &self.data_path(slot))
    }

    /// True if a volume in the trash is empty; `false` if it is not in the trash, or cannot be told.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_trashed_empty(&self, slot: Slot) -> Result<bool, Error> {
        let trash = self.trash()?;
        if self.has_trashed_image(slot)? && !limited::is_mounted(trash, slot)? {
            return Ok(false);
        }
        match open_data(trash, slot) {
            Ok(data) => tree::is_empty(data.as_fd(), &trash.path.join(slot.to_string())),
            Err(cause) if cause.errno() == Some(libc::ENOENT) => Ok(false),
            Err(cause) => Err(cause),
        }
    }

    /// Makes all earlier calls durable: one wait, or none if nothing was done.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be assumed durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.barrier.pass()
    }

    /// As `Driver::shared_journal_device` of a storage driver.
    #[must_use]
    pub fn journal(&self) -> Option<u64> {
        self.barrier.journal()
    }

    /// Makes the links for people, of which `there` are those that were found, be those of `names`,
    /// and no others. What is no link of layerd's is left alone.
    ///
    /// # Errors
    /// [`Error::Io`] for the first that could not be made.
    pub fn link_all(
        &self,
        there: &BTreeMap<String, Slot>,
        names: &BTreeMap<String, Slot>,
    ) -> Result<(), Error> {
        for name in there.keys().filter(|name| !names.contains_key(*name)) {
            self.unlink(name)?;
        }
        let mut missing = names
            .iter()
            .filter(|(name, slot)| there.get(*name) != Some(*slot));
        missing.try_for_each(|(name, slot)| self.link(name, *slot))
    }

    /// Links a name to a volume, in place of what it led to. `name` is the checked name of a
    /// volume, which is no path. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn link(&self, name: &str, slot: Slot) -> Result<(), Error> {
        let names = self.names()?;
        self.step("link", slot);
        self.unlink(name)?;
        let target = format!("../{slot}/{DATA}");
        let linked = symlinkat(target.as_str(), &names.fd, name);
        linked.map_err(|cause| Error::io("make the link", &names.path.join(name), cause))?;
        self.barrier.note();
        Ok(())
    }

    /// Removes the link of a name. Nothing there is success. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn unlink(&self, name: &str) -> Result<(), Error> {
        let names = self.names()?;
        match unlinkat(&names.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.barrier.note();
                Ok(())
            }
            Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(Error::io("remove the link", &names.path.join(name), cause)),
        }
    }

    #[cfg(any(test, feature = "fake"))]
    fn step(&self, step: &'static str, slot: Slot) {
        self.hook.tell(step, Some(slot));
    }

    #[cfg(not(any(test, feature = "fake")))]
    #[expect(clippy::unused_self, reason = "tests look here")]
    fn step(&self, _: &'static str, _: Slot) {}

    fn new_path(&self, slot: Slot) -> PathBuf {
        self.live.path.join(slot.to_string()).join(NEW)
    }
}

fn open_holder(folder: &Folder, slot: Slot) -> Result<OwnedFd, Error> {
    let name = slot.to_string();
    let opened = openat(&folder.fd, name.as_str(), FLAGS, Mode::empty());
    opened.map_err(|cause| Error::io("open directory", &folder.path.join(name), cause))
}

fn open_data(folder: &Folder, slot: Slot) -> Result<OwnedFd, Error> {
    let holder = open_holder(folder, slot)?;
    let opened = openat(&holder, DATA, FLAGS, Mode::empty());
    opened.map_err(|cause| {
        Error::io(
            "open directory",
            &folder.path.join(slot.to_string()).join(DATA),
            cause,
        )
    })
}
