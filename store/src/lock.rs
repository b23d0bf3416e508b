//! The lock of a store: one process to a root, with a record of the last one's orderly end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use tracing::warn;

use crate::error::Error;
use crate::file::{self, open_or_create};
use crate::folder::{check_folder, io_error};

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
        check_folder(folder).map_err(io_error("open", folder))?;
        let path = folder.join("lock");
        clear_stranger(folder, &path)?;
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

/// Takes away what stands in place of the lock file and is no file, such as a symlink or a FIFO, which a
/// power cut without a journal may leave. One process at a time, or it would take the file of another that
/// holds the lock by then.
fn clear_stranger(folder: &Path, path: &Path) -> Result<(), Error> {
    if file::stranger(path).is_none() {
        return Ok(());
    }
    let opened = File::open(folder).map_err(io_error("open", folder))?;
    let one_at_a_time = Flock::lock(opened, FlockArg::LockExclusive);
    let _held = one_at_a_time.map_err(|(_, errno)| io_error("lock", folder)(errno.into()))?;
    let Some(kind) = file::stranger(path) else {
        return Ok(());
    };
    warn!(path = %path.display(), kind, "what stands in place of the lock is no file, and is removed");
    // Made before the next process may look.
    open_or_create(path)
        .map(drop)
        .map_err(io_error("open", path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::thread;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn many_that_find_no_file_in_its_place_end_up_with_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, lock) = (folder.path(), folder.path().join("lock"));
        let other = folder.join("other");
        fs::write(&other, "another's").unwrap();
        for round in 0..40 {
            match round % 3 {
                0 => nix::unistd::mkfifo(&lock, Mode::S_IRUSR).unwrap(),
                1 => symlink(&other, &lock).unwrap(),
                _ => fs::create_dir(&lock).unwrap(),
            }
            let taken = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| Lock::take(folder))).collect();
                let all = all.into_iter().map(|one| one.join().unwrap());
                all.collect::<Vec<_>>()
            });
            let held = taken.iter().filter(|one| one.is_ok()).count();
            assert_eq!(held, 1, "round {round}: {taken:?}");
            drop(taken);
            fs::remove_file(&lock).unwrap();
        }
        assert_eq!(fs::read(&other).unwrap(), b"another's");
    }

    #[test]
    fn a_directory_that_holds_something_is_left_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("lock/file");
        fs::create_dir(folder.path().join("lock")).unwrap();
        fs::write(&inside, "kept").unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains("/lock"), "{error}");
        assert!(inside.exists());
    }
}
