//! The exchange of a volume's content, and its completion after a power cut.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{DATA, NEW, VolumeDirs, open_holder};
use crate::Slot;
use crate::error::Error;
use crate::folder::Folder;

impl VolumeDirs {
    /// Puts staged content in the place of a volume's own, which goes to the staging area. Who
    /// has the volume mounted keeps what was there before. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn exchange(&self, slot: Slot) -> Result<(), Error> {
        let staging = self.staging()?;
        self.step("exchange", slot);
        if self.has_limit(slot)? {
            return self.exchange_whole(slot);
        }
        let (staged, live) = (open_holder(staging, slot)?, open_holder(&self.live, slot)?);
        let path = |folder: &Folder| folder.path.join(slot.to_string());
        let flags = RenameFlags::RENAME_EXCHANGE;
        let exchanged = renameat2(&staged, DATA, &live, DATA, flags);
        self.barrier.note();
        exchanged.map_err(|cause| Error::io("exchange", &self.data_path(slot), cause))?;
        self.barrier.moved(
            (live.as_fd(), &path(&self.live)),
            (staged.as_fd(), &path(staging)),
        )
    }

    /// Exchanges the folders, since the content of a volume with a limit is a mount point, or belongs to a
    /// project that is noted beside it. The staged one has a limit too, and loses its marker, for its record is there.
    fn exchange_whole(&self, slot: Slot) -> Result<(), Error> {
        let staging = self.staging()?;
        let name = slot.to_string();
        let staged = open_holder(staging, slot)?;
        match unlinkat(&staged, NEW, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(cause) => return Err(Error::io("delete", &self.new_path(slot), cause)),
        }
        self.barrier
            .removed(staged.as_fd(), &staging.path.join(&name))?;
        let flags = RenameFlags::RENAME_EXCHANGE;
        let (from, to) = (staging, &self.live);
        let exchanged = renameat2(&from.fd, name.as_str(), &to.fd, name.as_str(), flags);
        self.barrier.note();
        exchanged.map_err(|cause| Error::io("exchange", &self.data_path(slot), cause))?;
        self.barrier
            .moved((to.fd.as_fd(), &to.path), (from.fd.as_fd(), &from.path))
    }

    /// Completes an [`exchange`](Self::exchange) that a power cut left with both names for one of the
    /// two directories, of which fsck(8) took the volume's away: what is staged then is whole, and
    /// is put where the volume has nothing. Answers whether it was so. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn complete_exchange(&self, slot: Slot) -> Result<bool, Error> {
        let staging = self.staging()?;
        let (staged, live) = (open_holder(staging, slot)?, open_holder(&self.live, slot)?);
        let path = |folder: &Folder| folder.path.join(slot.to_string());
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(&staged, DATA, &live, DATA, flags) {
            Err(Errno::ENOENT | Errno::EEXIST) => return Ok(false),
            moved => moved.map_err(|cause| Error::io("move to", &self.data_path(slot), cause))?,
        }
        self.barrier.note();
        self.barrier.moved(
            (live.as_fd(), &path(&self.live)),
            (staged.as_fd(), &path(staging)),
        )?;
        Ok(true)
    }
}
