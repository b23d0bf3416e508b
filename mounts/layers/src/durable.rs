//! Durability of a new tree, and write-back of its first files while later ones are made.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::error::Error;
use crate::sys::{self, WriteBack};

/// Durability of a new tree when the call that made it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Whatever the kernel has written so far.
    No,
    /// The content of all files; writing starts with the first file and is waited for at the end.
    /// Names, attributes and what is no regular file are left to one wait by the caller: on file
    /// systems whose journal commits as a whole (xfs, and ext4 with a journal), an fsync(2) of a
    /// later change; on all others syncfs(2), since symlinks, devices, FIFOs and sockets cannot be
    /// opened to be synced.
    Content,
}

/// Files that are waited for later, so that the disk has something to do meanwhile; each holds a
/// descriptor.
const WAITING: usize = 64;

/// Files whose content is on its way to the disk.
#[derive(Debug)]
pub(crate) struct OnTheWay {
    durable: Durable,
    files: VecDeque<(OwnedFd, PathBuf)>,
}

impl OnTheWay {
    pub(crate) fn new(durable: Durable) -> Self {
        let files = VecDeque::new();
        Self { durable, files }
    }

    /// Takes a file that is complete. `dirty` tells whether content was written that shares no
    /// blocks with what is on the disk already.
    pub(crate) fn add(&mut self, file: OwnedFd, path: PathBuf, dirty: bool) -> Result<(), Error> {
        if self.durable == Durable::No || !dirty {
            return Ok(());
        }
        sys::write_back(file.as_fd(), WriteBack::Start)
            .map_err(|cause| Error::io("write to the disk", &path, cause))?;
        self.files.push_back((file, path));
        self.wait(WAITING)
    }

    /// Waits for all of them.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.wait(0)
    }

    fn wait(&mut self, left: usize) -> Result<(), Error> {
        while self.files.len() > left {
            let Some((file, path)) = self.files.pop_front() else {
                break;
            };
            sys::write_back(file.as_fd(), WriteBack::Finish)
                .map_err(|cause| Error::io("write to the disk", &path, cause))?;
        }
        Ok(())
    }
}
