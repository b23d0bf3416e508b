//! Devices of a pool: made and deleted by messages, active only while they are wanted.
//!
//! A device of layer `<slot>` is `/dev/mapper/layerd-<pool>-<slot>` while it is active, a link beside the
//! node that the kernel makes. It is deactivated when nothing has it open and it was not asked for
//! within a grace time, the link first, so that no name ever leads to another layer's device.
//! What a killed process left is taken over by the next.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use layerd_mounts::sys::device_mapper::{self, Control, State, discard_blocks};
use layerd_mounts::thin::{self, PoolStatus};
use layerd_mounts::{Error, Slot, mount, mountinfo};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use parking_lot::Mutex;

use super::figures::Figures;
use super::settings::{Access, FileSystem};

/// Id of the empty file system that layers without content are snapshots of. No layer has the number.
pub(super) const BASE: Slot = Slot(0);
/// Wait for those who have a device open for a moment, as udev and measurements do.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at a device that is in use.
const PAUSE: Duration = Duration::from_millis(20);

/// A pool that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) number: (u32, u32),
}

impl Pool {
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }
}

/// The devices of one pool.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) control: Control,
    pub(super) pool: Pool,
    pub(super) file_system: FileSystem,
    /// Size of each device.
    pub(super) sectors: u64,
    /// Moment at which each active device was asked for last. Held while devices are changed.
    wanted: Mutex<HashMap<Slot, Instant>>,
    /// Something was told to the pool, or written through it, since this was cleared.
    changed: AtomicBool,
}

impl Devices {
    pub(super) fn new(control: Control, pool: Pool, file_system: FileSystem, sectors: u64) -> Self {
        Self {
            control,
            pool,
            file_system,
            sectors,
            wanted: Mutex::default(),
            changed: AtomicBool::new(false),
        }
    }

    /// Start of the names of devices.
    pub(super) fn prefix(pool: &str) -> String {
        format!("layerd-{pool}-")
    }

    fn name(&self, slot: Slot) -> String {
        format!("{}{slot}", Self::prefix(&self.pool.name))
    }

    /// Path of the active device of a layer.
    pub(super) fn path(&self, slot: Slot) -> PathBuf {
        Path::new("/dev/mapper").join(self.name(slot))
    }

    fn fail(&self, attempt: &'static str, slot: Slot) -> impl Fn(Errno) -> Error {
        let path = self.path(slot);
        move |cause| Error::io(attempt, &path, cause)
    }

    /// Notes that the metadata of the pool changed.
    pub(super) fn note_change(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Clears the note; answers whether there was one.
    pub(super) fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// State of the pool. One call, which writes nothing.
    pub(super) fn status(&self) -> Result<PoolStatus, Error> {
        let path = self.pool.path();
        let lines = self.control.status(&self.pool.name);
        let lines = lines.map_err(|cause| Error::io("look at the pool", &path, cause))?;
        let text = lines.first().map_or("", |line| line.text.as_str());
        text.parse().map_err(|_| {
            let cause = io::Error::other(format!("the pool does not work: {text:?}"));
            Error::io("look at the pool", &path, cause)
        })
    }

    pub(super) fn message(&self, text: &str) -> Result<(), Errno> {
        self.note_change();
        self.control.message(&self.pool.name, text)
    }

    /// Makes a device without content.
    pub(super) fn create_thin(&self, slot: Slot) -> Result<(), Error> {
        let made = self.made_anew(slot, &format!("create_thin {}", slot.0));
        made.map_err(self.fail("make the device", slot))
    }

    /// Makes a device with the content of another one, of that moment.
    pub(super) fn snapshot(&self, slot: Slot, of: Slot) -> Result<(), Error> {
        let _changing = self.wanted.lock();
        let source = self.name(of);
        let state = self.control.state(&source);
        let state = state.map_err(self.fail("look at the device", of))?;
        let is_active = state.is_some_and(|state| state.has_table);
        if is_active {
            let suspended = self.control.suspend(&source);
            suspended.map_err(self.fail("suspend the device", of))?;
        }
        let made = self.made_anew(slot, &format!("create_snap {} {}", slot.0, of.0));
        if is_active {
            let resumed = self.control.resume(&source);
            resumed.map_err(self.fail("resume the device", of))?;
        }
        made.map_err(self.fail("make the device", slot))
    }

    /// Numbers are never used twice: what is there is of a call that was interrupted.
    fn made_anew(&self, slot: Slot, message: &str) -> Result<(), Errno> {
        match self.message(message) {
            Err(Errno::EEXIST) => {
                self.message(&format!("delete {}", slot.0))?;
                self.message(message)
            }
            made => made,
        }
    }

    /// Deletes a device that is not active. Answers whether there was one.
    pub(super) fn delete(&self, slot: Slot) -> Result<bool, Error> {
        match self.message(&format!("delete {}", slot.0)) {
            Ok(()) => Ok(true),
            Err(Errno::ENODATA) => Ok(false),
            Err(cause) => Err(self.fail("delete the device", slot)(cause)),
        }
    }

    /// Gives the blocks that a device alone has back to the device below the pool, if they are passed on.
    pub(super) fn give_back(&self, slot: Slot) -> Result<(), Error> {
        if !self.status()?.passes_discards {
            return Ok(());
        }
        self.activate(slot, Access::Write)?;
        let given = discard_blocks(&self.path(slot), self.sectors.saturating_mul(thin::SECTOR));
        let gone = self.deactivate(slot, PATIENCE);
        given.map_err(self.fail("discard the blocks of", slot))?;
        gone
    }

    /// Makes a device active, and its path. One that is, stays; it is asked for now. Cost: two calls, or
    /// five.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is in use for something else: written to, or shown read-only.
    pub(super) fn activate(&self, slot: Slot, access: Access) -> Result<(), Error> {
        loop {
            {
                let mut wanted = self.wanted.lock();
                let name = self.name(slot);
                let state = self.control.state(&name);
                match state.map_err(self.fail("look at the device", slot))? {
                    None => {
                        let number = self.made_active(&name, slot, access)?;
                        wanted.insert(slot, Instant::now());
                        return self.link(slot, number);
                    }
                    Some(state) if is_for(&state, access) => {
                        if state.is_suspended {
                            let resumed = self.control.resume(&name);
                            resumed.map_err(self.fail("resume the device", slot))?;
                        }
                        wanted.insert(slot, Instant::now());
                        return self.link(slot, state.number);
                    }
                    Some(_) => {}
                }
            }
            self.deactivate(slot, PATIENCE)?;
        }
    }

    fn made_active(&self, name: &str, slot: Slot, access: Access) -> Result<(u32, u32), Error> {
        let made = self.control.create(name);
        let made = made.map_err(self.fail("activate the device", slot))?;
        let target = thin::thin_target(self.pool.number, slot.0, self.sectors);
        let loaded = self.control.load(name, &target, access == Access::Read);
        let ready = loaded.and_then(|()| self.control.resume(name));
        match ready {
            Ok(()) => Ok(made.number),
            Err(cause) => {
                let _ = self.control.remove(name); // the first error counts
                Err(self.fail("activate the device", slot)(cause))
            }
        }
    }

    /// Takes a device away that nothing uses. None there is success.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is in use for longer than `patience`.
    pub(super) fn deactivate(&self, slot: Slot, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        loop {
            if self.try_deactivate(slot, None)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(self.busy(slot));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Answers whether it is gone: not while it is in use, nor if it was asked for after `asked`.
    fn try_deactivate(&self, slot: Slot, asked: Option<Instant>) -> Result<bool, Error> {
        let mut wanted = self.wanted.lock();
        if asked.is_some_and(|asked| wanted.get(&slot).is_some_and(|last| *last > asked)) {
            return Ok(false);
        }
        let name = self.name(slot);
        let state = self.control.state(&name);
        let state = state.map_err(self.fail("look at the device", slot))?;
        if let Some(state) = state {
            if state.open_count > 0 {
                return Ok(false);
            }
            self.unlink(slot)?;
            match self.control.remove(&name) {
                Ok(()) | Err(Errno::ENXIO) => {}
                Err(Errno::EBUSY) => return self.link(slot, state.number).map(|()| false),
                Err(cause) => return Err(self.fail("deactivate the device", slot)(cause)),
            }
            self.note_change();
        }
        self.unlink(slot)?;
        wanted.remove(&slot);
        Ok(true)
    }

    /// Where the device is mounted, if that can be seen.
    fn busy(&self, slot: Slot) -> Error {
        let path = self.path(slot);
        let state = self.control.state(&self.name(slot)).ok().flatten();
        let mounts = mountinfo::read().unwrap_or_default();
        let number = state.map(|state| state.number);
        let mount = mounts.iter().find(|entry| Some(entry.device) == number);
        Error::Busy {
            path: mount.map_or(path, |entry| entry.target.clone()),
        }
    }

    /// Deactivates what was not asked for within `grace` and is not in use.
    pub(super) fn sweep(&self, grace: Duration) {
        let Some(before) = Instant::now().checked_sub(grace) else {
            return;
        };
        let old = |(slot, last): (&Slot, &Instant)| (*last <= before).then_some(*slot);
        let due: Vec<Slot> = self.wanted.lock().iter().filter_map(old).collect();
        for slot in due {
            if let Err(cause) = self.try_deactivate(slot, Some(before)) {
                let error = &cause as &dyn std::error::Error;
                tracing::warn!(error, slot = %slot, "deactivate a device");
            }
        }
    }

    /// Takes over the devices that an earlier process left: what it had suspended goes on, and what it had
    /// not made ready is taken away. Cost: a call for each active device of the machine.
    pub(super) fn take_over(&self) -> Result<(), Error> {
        let path = Path::new(device_mapper::CONTROL);
        let names = self.control.list();
        let names = names.map_err(|cause| Error::io("list devices by", path, cause))?;
        let prefix = Self::prefix(&self.pool.name);
        let ours = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        for slot in ours.filter_map(|name| name.parse::<Slot>().ok()) {
            let name = self.name(slot);
            let state = self.control.state(&name);
            let state = state.map_err(self.fail("look at the device", slot))?;
            match state {
                None => {}
                Some(state) if !state.has_table => self.deactivate(slot, PATIENCE)?,
                Some(state) => {
                    if state.is_suspended {
                        let resumed = self.control.resume(&name);
                        resumed.map_err(self.fail("resume the device", slot))?;
                    }
                    self.wanted.lock().insert(slot, Instant::now());
                }
            }
        }
        Ok(())
    }

    /// Opens the top directory of a layer, in a mount that no mount table shows and that goes with the
    /// descriptor. One that is shown read-only is mounted so; one that a client still writes to is only
    /// read through that file system.
    pub(super) fn open(&self, slot: Slot, access: Access) -> Result<OwnedFd, Error> {
        let (access, is_read_only) = match self.activate(slot, access) {
            Ok(()) => (access, access == Access::Read),
            Err(Error::Busy { .. }) if access == Access::Read => (Access::Write, true),
            Err(cause) => return Err(cause),
        };
        let device = self.path(slot);
        let mut options = self.file_system.options(access).to_vec();
        if access == Access::Read {
            options.push("ro");
        }
        let kind = self.file_system.name();
        mount::detached(kind, &device, &options, is_read_only)
            .map_err(|cause| Error::io("mount", &device, cause))
    }

    /// Figures of an active device, whose top directory is open.
    pub(super) fn figures(&self, slot: Slot, top: &OwnedFd) -> Result<Figures, Error> {
        let disk = fstatvfs(top).map_err(self.fail("look at the file system of", slot))?;
        let lines = self.control.status(&self.name(slot));
        let lines = lines.map_err(self.fail("look at the device", slot))?;
        let text = lines.first().map_or("", |line| line.text.as_str());
        let sectors = thin::mapped_sectors(text);
        let used = disk.blocks().saturating_sub(disk.blocks_free());
        Ok(Figures {
            sectors: sectors.ok_or_else(|| self.fail("look at the device", slot)(Errno::EIO))?,
            bytes: used.saturating_mul(disk.fragment_size()),
            inodes: disk.files().saturating_sub(disk.files_free()),
        })
    }

    /// Brings the content of a mounted layer to the disk.
    ///
    /// # Errors
    /// [`Error::Lost`] if the kernel gave some of it up, or the whole file system.
    pub(super) fn write_back(&self, slot: Slot, top: &OwnedFd) -> Result<(), Error> {
        self.note_change();
        let lost = |cause: Errno| Error::Lost {
            path: self.path(slot),
            cause: cause.into(),
        };
        nix::unistd::syncfs(top).map_err(lost)?;
        let disk = fstatvfs(top).map_err(self.fail("look at the file system of", slot))?;
        // After an error the kernel lets the file system only be read.
        match disk.flags().contains(FsFlags::ST_RDONLY) {
            false => Ok(()),
            true => Err(lost(Errno::EROFS)),
        }
    }

    fn link(&self, slot: Slot, number: (u32, u32)) -> Result<(), Error> {
        let path = self.path(slot);
        let linked = link(&path, number);
        linked.map_err(|cause| Error::io("make the name", &path, cause))
    }

    fn unlink(&self, slot: Slot) -> Result<(), Error> {
        let path = self.path(slot);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("delete the name", &path, cause))
            }
            _ => Ok(()),
        }
    }
}

fn is_for(state: &State, access: Access) -> bool {
    state.has_table && state.is_read_only == (access == Access::Read)
}

/// Makes `path` lead to a device: a link beside the node of devtmpfs, as udev makes it, or a node where
/// there is none. What is there and leads elsewhere is of a device that is gone.
fn link(path: &Path, number: (u32, u32)) -> io::Result<()> {
    let leads_there = |path: &Path| {
        fs::metadata(path).is_ok_and(|node| {
            let device = (major(node.rdev()), minor(node.rdev()));
            node.file_type().is_block_device()
                && device == (u64::from(number.0), u64::from(number.1))
        })
    };
    if leads_there(path) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    if leads_there(Path::new(&device_mapper::node(number))) {
        return symlink(format!("../dm-{}", number.1), path);
    }
    let device = makedev(number.0.into(), number.1.into());
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mknod(path, SFlag::S_IFBLK, mode, device).map_err(io::Error::from)
}
