//! Capabilities of the driver.

use std::os::fd::{AsFd, OwnedFd};

use layerd_layers::Layering;
use layerd_layers::copy::Markers;
use layerd_mounts::folder::c_name;
use layerd_mounts::limit::Enforcement;
use layerd_mounts::{Error, Slot, Space, Usage, sys};
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};

use super::Overlay;
use crate::driver::{
    Base, Directories, ImageCounts, ImageFile, Images, LayerPool, Limits, Stamp, Survey, WorkDirs,
};

impl Limits for Overlay {
    fn enforcement(&self) -> &Enforcement {
        self.limited.enforcement()
    }

    fn is_limited(&self, slot: Slot) -> bool {
        self.limited.has(slot)
    }

    fn space(&self, slot: Slot) -> Result<Option<Space>, Error> {
        self.limited.space(slot, &self.dirs)
    }

    fn count(&self) -> usize {
        self.limited.count()
    }
}

impl LayerPool for Overlay {
    fn take(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let name = slot.to_string();
        let top = self.top(base)?;
        let made = self.dirs.stat(&self.dirs.layers, &c_name(&name))?;
        if !self.needs_work(base) {
            self.remove(slot)?;
        }
        let mode = Mode::from_bits_truncate(made.mode & 0o7777);
        if top == (made.uid, made.gid, mode) {
            return Ok(());
        }
        // The record does not wait: that the layer is there is durable already.
        let dir = self.dirs.correct(&name, top)?;
        let path = self.dirs.layers.path.join(name);
        self.dirs.barrier.changed_inode(dir.as_fd(), &path)
    }
}

impl Directories for Overlay {
    fn layering(&self) -> Layering {
        Layering::Diff(match self.layout.uses_user_attributes() {
            true => Markers::User,
            false => Markers::Trusted,
        })
    }

    fn filled(&self) -> Result<(), Error> {
        self.dirs.barrier.filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        if self.images.has(slot) || self.limited.has_image(slot) {
            return Ok(None);
        }
        let stamp = self.dirs.stamp(slot)?;
        // The kernel makes it with the first mount to be written, and leaves it there.
        let path = c_name(&format!("{slot}/work"));
        match sys::stat(self.dirs.work.fd.as_fd(), &path) {
            Ok(_) => Ok(None),
            Err(Errno::ENOENT) => Ok(Some(stamp)),
            Err(cause) => {
                let path = self.dirs.work.path.join(slot.to_string());
                Err(Error::io("look into", &path, cause))
            }
        }
    }
}

impl Images for Overlay {
    fn is_due(&self, slot: Slot) -> Result<bool, Error> {
        Ok(self.images.is_wanted && !self.limited.has(slot) && self.is_unused(slot)?)
    }

    fn create_image(&self, slot: Slot) -> Result<ImageFile, Error> {
        self.images.create(slot)
    }

    fn finish_image(&self, slot: Slot, file: ImageFile, durable: bool) -> Result<Usage, Error> {
        self.images.finish(slot, file, durable, &self.dirs)
    }

    fn is_image(&self, slot: Slot) -> bool {
        self.images.has(slot)
    }

    fn counts(&self) -> ImageCounts {
        self.images.counts()
    }

    fn open_image(&self, slot: Slot) -> Result<Option<OwnedFd>, Error> {
        let is_image = self.images.has(slot);
        let open = is_image.then(|| self.images.open_file(slot));
        Ok(open.transpose()?.map(OwnedFd::from))
    }

    fn expand(&self, slot: Slot) -> Result<(), Error> {
        self.images.expand(slot, &self.dirs)
    }
}

impl WorkDirs for Overlay {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.to_string();
        if !self.limited.has_image(slot) {
            self.dirs.stat(&self.dirs.layers, &c_name(&name))?;
        }
        match mkdirat(&self.dirs.work.fd, name.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(cause) => {
                let path = self.dirs.work.path.join(name);
                Err(Error::io("create work directory", &path, cause))
            }
        }
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        self.limited.remove(slot, &self.dirs)?;
        self.dirs.remove_work(slot)
    }
}
