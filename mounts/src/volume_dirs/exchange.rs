//! The exchange of a volume's content, and its completion after a power cut.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};

use super::{DATA, VolumeDirs, open_holder};
use crate::error::Error;
use crate::folder::Folder;
use crate::slot::Slot;

impl VolumeDirs {
    /// Puts staged content in the place of a volume's own, which goes to the staging area. Who
    /// has the volume mounted keeps what was there before. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn exchange(&self, slot: Slot) -> Result<(), Error> {
        self.step("exchange", slot);
        let (staged, live) = (
            open_holder(&self.staging, slot)?,
            open_holder(&self.live, slot)?,
        );
        let path = |folder: &Folder| folder.path.join(slot.to_string());
        let flags = RenameFlags::RENAME_EXCHANGE;
        let exchanged = renameat2(&staged, DATA, &live, DATA, flags);
        self.barrier.note();
        exchanged.map_err(|cause| Error::io("exchange", &self.data_path(slot), cause))?;
        self.barrier.moved(
            (live.as_fd(), &path(&self.live)),
            (staged.as_fd(), &path(&self.staging)),
        )
    }

    /// Completes an [`exchange`](Self::exchange) that a power cut left with both names for one of the
    /// two directories, of which fsck(8) took the volume's away: what is staged then is whole, and
    /// is put where the volume has nothing. Answers whether it was so. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn complete_exchange(&self, slot: Slot) -> Result<bool, Error> {
        let (staged, live) = (
            open_holder(&self.staging, slot)?,
            open_holder(&self.live, slot)?,
        );
        let path = |folder: &Folder| folder.path.join(slot.to_string());
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(&staged, DATA, &live, DATA, flags) {
            Err(Errno::ENOENT | Errno::EEXIST) => return Ok(false),
            moved => moved.map_err(|cause| Error::io("move to", &self.data_path(slot), cause))?,
        }
        self.barrier.note();
        self.barrier.moved(
            (live.as_fd(), &path(&self.live)),
            (staged.as_fd(), &path(&self.staging)),
        )?;
        Ok(true)
    }
}
