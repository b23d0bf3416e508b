//! Puts a file system on a disk that logs, and takes it down again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuser::{BackgroundSession, MountOption};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::device::{Filesystem, Mount, check, copy_sparse, unmount};
use super::image::Recording;
use super::log::{Event, Log};
use super::serve::{Disk, NAME, Server, Shared};
use super::{Error, at};

/// A mounted file system whose disk logs every write and flush. Dropping it unmounts it.
#[derive(Debug)]
pub struct Recorder {
    // In the order in which they must go.
    mount: Mount,
    session: Session,
    disk: Shared,
    start: usize,
    filesystem: Filesystem,
    base: File,
    scratch: TempDir,
}

/// Writes marks into the log. Can be cloned and sent to other threads.
#[derive(Debug, Clone)]
pub struct Marker(Shared);

impl Marker {
    /// Notes `number` behind all that the disk was asked for so far. A test marks an operation
    /// once it is acknowledged: it must then be found in every image cut behind the mark.
    pub fn mark(&self, number: u64) {
        self.0.lock().log.events.push(Event::Mark(number));
    }
}

impl Recorder {
    /// Makes and mounts a file system on a disk of `size` bytes. Disk, log and images are sparse
    /// files in memory (/dev/shm) or, where that is missing, in the directory for temporary files.
    ///
    /// # Errors
    /// Any [`Error`]; nothing stays mounted.
    pub fn start(filesystem: Filesystem, size: u64) -> Result<Self, Error> {
        let memory = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        Self::start_in(
            filesystem,
            size,
            if memory.is_dir() { memory } else { &temporary },
        )
    }

    /// As [`start`](Self::start), with the files below `directory`, which should be on tmpfs.
    ///
    /// # Errors
    /// Any [`Error`]; nothing stays mounted.
    pub fn start_in(filesystem: Filesystem, size: u64, directory: &Path) -> Result<Self, Error> {
        let scratch = tempfile::Builder::new()
            .prefix("crash-disk-")
            .tempdir_in(directory)
            .map_err(at("create a directory in", directory))?;
        let base = make(filesystem, size, &scratch.path().join("base"))?;
        let disk = Shared(Arc::new(Mutex::new(Disk {
            content: copy_sparse(&base, &scratch.path().join("content"))?,
            log: Log::new(create(&scratch.path().join("log"))?),
        })));
        let server = Server {
            disk: disk.clone(),
            size,
        };
        let session = Session::start(server, &scratch.path().join("fuse"))?;
        let target = scratch.path().join("mnt");
        let mount = Mount::file(&session.path.join(NAME), filesystem, &target, check)?;
        let start = disk.lock().log.events.len();
        Ok(Self {
            mount,
            session,
            disk,
            start,
            filesystem,
            base,
            scratch,
        })
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("mnt")
    }

    /// A handle to mark the log with.
    #[must_use]
    pub fn marker(&self) -> Marker {
        Marker(self.disk.clone())
    }

    /// Lets the power go no earlier than now: what was done so far is preparation.
    pub fn begin(&mut self) {
        self.start = self.disk.lock().log.events.len();
    }

    /// Number of writes and of flushes since the disk was mounted.
    #[must_use]
    pub fn seen(&self) -> (usize, usize) {
        let disk = self.disk.lock();
        let flushes = disk
            .log
            .events
            .iter()
            .filter(|event| **event == Event::Flush);
        let writes = disk
            .log
            .events
            .iter()
            .filter(|event| matches!(event, Event::Write { .. } | Event::Zero { .. }));
        (writes.count(), flushes.count())
    }

    /// Ends the recording at this moment and unmounts. What used the file system must be gone;
    /// what unmounting writes is not part of the recording.
    ///
    /// # Errors
    /// [`Error::Mount`] if the file system is still in use.
    pub fn finish(self) -> Result<Recording, Error> {
        let end = self.disk.lock().log.events.len();
        self.mount.unmount()?;
        drop(self.session);
        let empty = create(&self.scratch.path().join("unused"))?;
        let mut log = std::mem::replace(&mut self.disk.lock().log, Log::new(empty));
        log.events.truncate(end);
        Recording::new(self.filesystem, log, self.start, self.base, self.scratch)
    }
}

/// The FUSE mount and its server.
#[derive(Debug)]
struct Session {
    path: PathBuf,
    server: Option<BackgroundSession>,
}

impl Session {
    fn start(server: Server, path: &Path) -> Result<Self, Error> {
        fs::create_dir(path).map_err(at("create", path))?;
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("crash-disk".to_owned())];
        let server =
            fuser::spawn_mount(server, path, &config).map_err(at("mount FUSE on", path))?;
        Ok(Self {
            path: path.to_owned(),
            server: Some(server),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        // The loop device may let go of its file a little after the unmount above it.
        if unmount(&self.path).is_ok() {
            // The server ends with its mount; how, no longer matters.
            let _ = server.umount_and_join();
        } else {
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
    }
}

fn make(filesystem: Filesystem, size: u64, path: &Path) -> Result<File, Error> {
    let file = create(path)?;
    file.set_len(size).map_err(at("resize", path))?;
    filesystem.make(path)?;
    Ok(file)
}

fn create(path: &Path) -> Result<File, Error> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(at("create", path))
}
