//! Steps and checks of an opening.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::codec::Meta;
use crate::error::Error;
use crate::folder::io_error;
use crate::wal::Wal;

/// Limit for sled's threads to let go of a closed database.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// Opening of a database that may lack its last commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    Refused,
    /// Read up to the last commit that is there.
    Allowed,
}

/// Cause of a failed opening.
#[derive(Debug)]
pub(super) enum OpenError {
    /// A full disk, missing permission or exhausted resource; the database itself is sound.
    Environment(io::Error),
    /// The content differs from the content that was written.
    Damaged(String),
}

impl From<io::Error> for OpenError {
    fn from(cause: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let open_files = [libc::EMFILE, libc::ENFILE].map(Some);
        match cause.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::ReadOnlyFilesystem => {
                Self::Environment(cause)
            }
            // sled's threads still hold it, for want of an answer of the disk.
            Kind::PermissionDenied | Kind::OutOfMemory | Kind::WouldBlock => {
                Self::Environment(cause)
            }
            _ if open_files.contains(&cause.raw_os_error()) => Self::Environment(cause),
            _ => Self::Damaged(cause.to_string()),
        }
    }
}

impl From<String> for OpenError {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

impl OpenError {
    pub(super) fn of(self, path: PathBuf) -> Error {
        match self {
            Self::Environment(cause) => io_error("open the database", &path)(cause),
            Self::Damaged(what) => Error::Damaged { path, what },
        }
    }
}

/// Trace of commits that a database has lost; `None` if its state is one that a crash leaves.
pub(super) fn lost_commits(meta: &Meta, wal: &Wal) -> Option<String> {
    let (found, in_log) = (wal.last(), wal.found());
    if let Some(loss) = wal.loss() {
        return Some(loss.to_owned());
    }
    if in_log < meta.log_last {
        let had = meta.log_last;
        return Some(format!(
            "its write-ahead log ends with commit {in_log}, and had commit {had}"
        ));
    }
    match wal.noted() {
        Some(noted) if found < noted => Some(format!(
            "it ends with commit {found}, but commit {noted} was acknowledged"
        )),
        None if meta.has_sequence_file => {
            Some("the number of the last commit, in the file sequence, is missing".to_owned())
        }
        _ => None,
    }
}

pub(super) fn remove_half_made_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until sled's threads let go of a closed database, which cannot be opened before. The store's
/// own lock keeps other processes out.
pub(super) fn wait_until_released(log: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let file = match File::open(log) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => return Ok(()),
            Err((_, Errno::EWOULDBLOCK)) if start.elapsed() < RELEASE_LIMIT => {
                thread::sleep(Duration::from_millis(5));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}
