//! The file of an image while it is written.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use layerd_layers::erofs::{Seal, Sealing};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// The image of a layer that is being written: empty at first, and deleted when dropped.
#[derive(Debug)]
pub struct ImageFile {
    out: Sealing<File>,
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
            unfinished: Unfinished {
                folder,
                name: Some(name),
            },
        }
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
        self.out.write(data)
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
