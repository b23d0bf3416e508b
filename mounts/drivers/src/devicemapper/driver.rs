//! The driver's calls.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use layerd_layers::Layering;
use layerd_mounts::thin::{METADATA_BLOCK, SECTOR};
use layerd_mounts::{Error, Mount, Slot, Usage, sys};

use super::devices::{BASE, Devices, PATIENCE};
use super::figures::{self, FROZEN, Figures};
use super::settings::Access;
use super::{Devicemapper, FOLDERS, check_id};
use crate::driver::{
    Base, Content, Directories, Driver, Found, Info, Stack, Stamp, Survey, WorkDirs,
};

impl Survey for Devicemapper {
    fn folders(&self) -> &'static [&'static str] {
        FOLDERS
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.dirs.list()
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        let name = slot.to_string();
        Ok(self.dirs.work.has(&name)? || !self.dirs.layers.has(&name)?)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        if self.dirs.trash.has(&format!("{slot}.w"))? {
            return Ok(true);
        }
        Ok(self.is_unused(slot)? && !self.dirs.trash.has(&slot.to_string())?)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        let (top, access) = self.open_top(slot)?;
        if access == Access::Write {
            self.filling.lock().insert(slot);
        }
        Ok(top)
    }
}

impl Driver for Devicemapper {
    fn name(&self) -> &'static str {
        "devicemapper"
    }

    fn info(&self) -> Info {
        let devices = self.devices();
        let mut facts = vec![
            ("Pool Name".to_owned(), devices.pool.name.clone()),
            ("Pool Blocksize".to_owned(), self.block_bytes.to_string()),
            (
                "Base Device Size".to_owned(),
                devices.sectors.saturating_mul(SECTOR).to_string(),
            ),
            (
                "Backing Filesystem".to_owned(),
                devices.file_system.to_string(),
            ),
        ];
        if let Ok(status) = devices.status() {
            let parts = [
                ("Data", status.data, self.block_bytes),
                ("Metadata", status.metadata, METADATA_BLOCK),
            ];
            for (what, share, bytes) in parts {
                let free = share.total.saturating_sub(share.used);
                let rows = [
                    ("Used", share.used),
                    ("Total", share.total),
                    ("Available", free),
                ];
                facts.extend(rows.map(|(name, blocks)| {
                    let value = blocks.saturating_mul(bytes).to_string();
                    (format!("{what} Space {name}"), value)
                }));
            }
            let transaction = status.transaction.to_string();
            facts.push(("Transaction".to_owned(), transaction));
        }
        let percent = format!("{} %", self.keep_free_percent);
        facts.push(("Thin Pool Minimum Free Space".to_owned(), percent));
        let findings = self.findings.iter().filter(|finding| !finding.ok);
        facts.extend(findings.map(|finding| (finding.name.to_owned(), finding.detail.clone())));
        facts.push((
            "made durable".to_owned(),
            "each layer by its file system, all of them by a commit of the pool's metadata"
                .to_owned(),
        ));
        Info {
            backing_filesystem: devices.file_system.to_string(),
            facts,
        }
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        check_id(slot)?;
        let source = match base.content {
            Content::Empty => (BASE, self.base),
            Content::Of(parent) => (parent, self.frozen(parent)?),
            Content::Deferred => {
                return Err(Error::NotAStack {
                    problem: "a device starts from its parent's, which is not known",
                });
            }
        };
        self.check_room()?;
        self.dirs.mark(slot)?;
        self.make(slot, base, source).inspect_err(|cause| {
            if cause.io_kind() == Some(ErrorKind::AlreadyExists) {
                // It is another's, and must not be taken for one that is being made.
                let _ = self.dirs.remove_work(slot);
            }
        })
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        let (top, access) = self.open_top(slot)?;
        if access == Access::Write {
            self.devices().write_back(slot, &top)?;
        }
        self.usage_of(slot, self.figures(slot)?)
    }

    /// Waits up to five seconds for clients to unmount the layer.
    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        self.frozen(stack.writable_layer()?).map(drop)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        match (stack.own, stack.parents.first()) {
            (Some(own), _) => {
                self.must_exist(own)?;
                if stack.writable {
                    // Its commit came to nothing.
                    figures::forget(&self.dirs, own, FROZEN)?;
                }
                self.ready(own)?;
                self.dirs.remove_work(own)
            }
            (None, Some(parent)) => {
                // A call for the mounts may have come between its freezing and its record.
                self.frozen(*parent)?;
                self.ready(*parent)
            }
            (None, None) => Ok(()),
        }
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        let shown = stack.shown()?;
        let access = match stack.writable {
            true => Access::Write,
            false => Access::Read,
        };
        let kind = self.devices().file_system;
        let options = [stack.access()]
            .into_iter()
            .chain(kind.options(access).iter().copied());
        Ok(vec![Mount {
            kind: kind.name().to_owned(),
            source: self.devices().path(shown).display().to_string(),
            options: options.map(str::to_owned).collect(),
        }])
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        let devices = self.devices();
        let path = (mount.kind == devices.file_system.name()).then_some(&mount.source)?;
        let name = path.strip_prefix("/dev/mapper/")?;
        let name = name.strip_prefix(&Devices::prefix(&devices.pool.name))?;
        name.parse().ok().filter(|slot| *slot != BASE)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.dirs.layers.has(&slot.to_string())
    }

    /// Constant time: figures of the pool and of the file system, less those of the content that the layer
    /// started from.
    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.must_exist(slot)?;
        if !keep_going() {
            return Err(Error::Stopped);
        }
        self.usage_of(slot, self.figures(slot)?)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.filling.lock().remove(&slot);
        self.mounted.release(slot);
        self.dirs.discard(slot)
    }

    /// Of a layer that a client has mounted nothing is deleted.
    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        if !keep_going() {
            return Err(Error::Stopped);
        }
        let trash = &self.dirs.trash;
        let is_there = trash.has(&slot.to_string())? || trash.has(&format!("{slot}.w"))?;
        if is_there && !self.has(slot)? {
            let _barred = self.mounted.bar(slot);
            self.devices().deactivate(slot, PATIENCE)?;
            if let Err(cause) = self.devices().give_back(slot) {
                // What the device below the pool is given back is a favour.
                let error = &cause as &dyn std::error::Error;
                tracing::debug!(error, slot = slot.0, "discard the blocks of a layer");
                self.devices().deactivate(slot, PATIENCE)?;
            }
            self.devices().delete(slot)?;
        }
        self.dirs.delete(slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.pairing.advance(self.devices())?;
        self.dirs.barrier.pass()
    }

    /// Moves the entry. The device stays in the pool, under the number in the name of the entry.
    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        if let Found::Slot(_, slot) = found {
            self.mounted.release(*slot);
        }
        self.dirs.move_to_lost_found(found)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        Some(self)
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        Some(self)
    }
}

impl Devicemapper {
    /// Figures of a layer that is not written to from now on.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is mounted to be written.
    fn frozen(&self, slot: Slot) -> Result<Figures, Error> {
        self.must_exist(slot)?;
        if let Some(figures) = figures::noted(&self.dirs, slot, FROZEN)? {
            return Ok(figures);
        }
        let _barred = self.mounted.bar(slot);
        let top = self.devices().open(slot, Access::Write)?;
        self.devices().write_back(slot, &top)?;
        let figures = self.devices().figures(slot, &top)?;
        drop(top);
        self.devices().deactivate(slot, PATIENCE)?;
        figures::note(&self.dirs, slot, FROZEN, figures)?;
        self.filling.lock().remove(&slot);
        Ok(figures)
    }

    /// Makes the device of a layer active, as it may be used.
    fn ready(&self, slot: Slot) -> Result<(), Error> {
        let access = self.access(slot)?;
        if access == Access::Read {
            self.mounted.release(slot);
        }
        self.devices().activate(slot, access)
    }
}

impl Directories for Devicemapper {
    fn layering(&self) -> Layering {
        Layering::Full
    }

    /// Brings all layers to the disk that are being filled.
    fn filled(&self) -> Result<(), Error> {
        let filling: Vec<Slot> = self.filling.lock().iter().copied().collect();
        for slot in filling {
            match self.open_top(slot) {
                Ok((top, Access::Write)) => self.devices().write_back(slot, &top)?,
                Ok((_, Access::Read)) => {}
                // It was removed meanwhile.
                Err(cause) if cause.io_kind() == Some(ErrorKind::NotFound) => {}
                Err(cause) => return Err(cause),
            }
        }
        self.dirs.barrier.note();
        self.sync()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let (top, _) = self.open_top(slot)?;
        let path = self.devices().path(slot);
        let top = sys::stat(top.as_fd(), c"");
        let top = top.map_err(|cause| Error::io("look at", &path, cause))?;
        Ok(Some(Stamp {
            inode: top.inode,
            changed: top.changed,
        }))
    }
}

/// The mark of a layer that is being made.
impl WorkDirs for Devicemapper {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        self.must_exist(slot)
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        self.dirs.remove_work(slot)
    }
}
