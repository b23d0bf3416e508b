//! The lock of a store: one process to a root, with a record of the last one's orderly end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::error::Error;
use crate::file::open_or_create;
use crate::folder::io_error;

/// The lock file, held. It names its holder while the store is open and is empty after an orderly
/// end.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Flock<File>,
    unclean: bool,
}

impl Lock {
    /// Takes the lock.
    pub(crate) fn take(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("lock");
        let mut file = open_or_create(&path).map_err(io_error("open", &path))?;
        let mut holder = String::new();
        // The text is for people; the lock holds without it.
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim().to_owned();
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((_, nix::Error::EWOULDBLOCK)) => return Err(Error::Locked { path, holder }),
            Err((_, errno)) => return Err(io_error("lock", &path)(errno.into())),
        };
        Ok(Self {
            file,
            unclean: !holder.is_empty(),
        })
    }

    /// Writes the process id to the lock file. On a full disk the failure is logged, since the store
    /// must open all the same.
    pub(crate) fn note_holder(&self) {
        let text = format!("process {}\n", std::process::id());
        let noted = self.file.set_len(0);
        let noted = noted.and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        if let Err(cause) = noted.and_then(|()| self.file.sync_data()) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "note the holder of the lock"
            );
        }
    }

    /// True if the last holder was killed, or the power was cut.
    pub(crate) fn was_unclean(&self) -> bool {
        self.unclean
    }

    /// Records an orderly end: everything is written.
    pub(crate) fn ended_cleanly(&self) {
        if let Err(cause) = self.file.set_len(0).and_then(|()| self.file.sync_data()) {
            warn!(
                error = &cause as &dyn std::error::Error,
                "note the orderly end"
            );
        }
    }
}
