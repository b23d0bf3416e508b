//! The file of an image while it is written.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd as _, OwnedFd};

use layerd_layers::erofs::{Seal, Sealing};
use layerd_mounts::sys;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Bytes after which those before are sent to the disk, so that it works while more come.
const STRETCH: u64 = 8 << 20;

/// The image of a layer that is being written: empty at first, and deleted when dropped.
#[derive(Debug)]
pub struct ImageFile {
    out: Sealing<File>,
    /// Bytes until the next are sent to the disk; `None` if the kernel is left to it.
    until_sent: Option<u64>,
    /// Deletes the file, unless it was sealed.
    unfinished: Unfinished,
}

#[derive(Debug)]
struct Unfinished {
    folder: OwnedFd,
    /// Name of the file in the folder.
    name: Option<String>,
}

impl ImageFile {
    /// Takes a new, empty file of that name in a folder.
    pub(crate) fn new(file: File, folder: OwnedFd, name: String) -> Self {
        Self {
            out: Sealing::new(file),
            until_sent: None,
            unfinished: Unfinished {
                folder,
                name: Some(name),
            },
        }
    }

    /// Has the disk begin with what is written while more is: for an image that is to be durable. Waits
    /// for nothing.
    #[must_use]
    pub fn write_back_early(mut self) -> Self {
        self.until_sent = Some(STRETCH);
        self
    }

    fn note_written(&mut self, bytes: usize) -> io::Result<()> {
        let Some(until) = &mut self.until_sent else {
            return Ok(());
        };
        *until = until.saturating_sub(bytes as u64);
        if *until > 0 {
            return Ok(());
        }
        *until = STRETCH;
        sys::start_write_back(self.out.get_ref().as_fd())?;
        Ok(())
    }

    /// Seals the image of a layer. Answers the file, which is the caller's to keep or delete.
    pub(crate) fn seal(mut self, layer: u64) -> Result<(Seal, File), layerd_layers::erofs::Error> {
        let top = layerd_layers::apply::IMAGE_TOP.as_bytes();
        let sealed = self.out.seal(layer, top)?;
        self.unfinished.name = None;
        Ok(sealed)
    }
}

impl Write for ImageFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.out.write(data)?;
        self.note_written(count)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Seek for ImageFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.out.seek(to)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // The next start deletes it too.
            let _ = unlinkat(&self.folder, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
