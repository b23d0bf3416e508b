//! Builds the disks that a power cut could have left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::cut::{self, Cut, Later};
use super::device::{Filesystem, Mount, copy_sparse};
use super::log::{Event, Log};
use super::{Error, at};

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    filesystem: Filesystem,
    log: Log,
    start: usize,
    base: File,
    /// The disk as all events before `applied` made it.
    durable: File,
    applied: usize,
    images: u64,
    scratch: Arc<TempDir>,
}

impl Recording {
    pub(crate) fn new(
        filesystem: Filesystem,
        log: Log,
        start: usize,
        base: File,
        scratch: TempDir,
    ) -> Result<Self, Error> {
        let durable = copy_sparse(&base, &scratch.path().join("durable"))?;
        Ok(Self {
            filesystem,
            log,
            start,
            base,
            durable,
            applied: 0,
            images: 0,
            scratch: Arc::new(scratch),
        })
    }

    /// Picks `count` power cuts, in turn with each of `later`, half of them right behind a mark.
    /// The same seed gives the same cuts of the same recording.
    #[must_use]
    pub fn cuts(&self, seed: u64, count: usize, later: &[Later]) -> Vec<Cut> {
        cut::sample(&self.log.events, self.start, seed, count, later)
    }

    /// The power cut at the end of the recording.
    #[must_use]
    pub fn last_cut(&self, later: Later, seed: u64) -> Cut {
        Cut {
            position: self.log.events.len(),
            later,
            seed,
        }
    }

    /// The numbers marked before the cut, in order.
    #[must_use]
    pub fn marks(&self, cut: &Cut) -> Vec<u64> {
        let number = |event: &Event| match event {
            Event::Mark(number) => Some(*number),
            _ => None,
        };
        self.log.events[..cut.position]
            .iter()
            .filter_map(number)
            .collect()
    }

    /// Builds the disk after a cut. Cheapest in the order of [`cuts`](Self::cuts): costs a copy of
    /// what the disk holds.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn image(&mut self, cut: &Cut) -> Result<Image, Error> {
        self.advance(cut.durable(&self.log.events))?;
        self.images += 1;
        let path = self.scratch.path().join(format!("image-{}", self.images));
        let disk = copy_sparse(&self.durable, &path)?;
        for (event, range) in cut.survivors(&self.log.events) {
            self.log
                .replay(event, &range, &disk)
                .map_err(at("write", &path))?;
        }
        Ok(Image {
            path,
            filesystem: self.filesystem,
            scratch: Arc::clone(&self.scratch),
        })
    }

    /// Brings the durable disk to where the first `position` events left it.
    fn advance(&mut self, position: usize) -> Result<(), Error> {
        let path = self.scratch.path().join("durable");
        if position < self.applied {
            self.durable = copy_sparse(&self.base, &path)?;
            self.applied = 0;
        }
        for event in &self.log.events[self.applied..position] {
            let everything = 0..u64::MAX;
            self.log
                .replay(*event, &everything, &self.durable)
                .map_err(at("write", &path))?;
        }
        self.applied = position;
        Ok(())
    }
}

/// A disk after a power cut. Dropping it deletes its file.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    filesystem: Filesystem,
    scratch: Arc<TempDir>,
}

impl Image {
    /// The file that holds the disk.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts the disk for writing, as a boot does: the kernel replays the journal; a file system
    /// without one is repaired by its fsck(8) first.
    ///
    /// # Errors
    /// [`Error::Mount`] or [`Error::Program`] if the file system does not recover.
    pub fn mount(&self) -> Result<Mounted, Error> {
        self.filesystem.repair(&self.path)?;
        let target = self.path.with_extension("mnt");
        let mount = Mount::file(&self.path, self.filesystem, &target, |_| Ok(()))?;
        Ok(Mounted {
            mount,
            path: target,
            _scratch: Arc::clone(&self.scratch),
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // At the latest the directory around it takes it along.
        let _ = fs::remove_file(&self.path);
    }
}

/// A mounted image. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    mount: Mount,
    path: PathBuf,
    /// Deletes all that lies below it, and so must outlive the mount.
    _scratch: Arc<TempDir>,
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// [`Error::Mount`] if it is in use.
    pub fn unmount(self) -> Result<(), Error> {
        self.mount.unmount()
    }
}
