//! Comparison of a layer with its file digests.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::read::{Gone, Records, Said, verify};
use crate::dir_stack::open_below;
use crate::error::Error;
use crate::node::{self, Kind, Stat};
use crate::progress::Progress;

/// Bytes read at once.
const STEP: usize = 256 << 10;

/// Files that are kept in mind although their names were taken back, because a hard link to them
/// may have stayed.
const MOST_OLD: usize = 1 << 16;

/// Result of a comparison.
#[derive(Debug, Default)]
pub struct Checked {
    /// Names that were looked at.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Names of files that are not as they were.
    pub wrong: u64,
    /// The first of them, relative to the layer.
    pub named: Vec<(PathBuf, Wrong)>,
}

/// Difference between a file and its digest.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// There is nothing, or something else than a directory is on the way.
    #[error("is missing")]
    Missing,
    /// It is of another type.
    #[error("is {found}, not a file")]
    NoFile {
        /// As in "a symlink".
        found: &'static str,
    },
    /// It has another length.
    #[error("has {found} bytes, not {wanted}")]
    Size {
        /// Size when unpacked.
        wanted: u64,
        /// Size now.
        found: u64,
    },
    /// It has another content of the same length.
    #[error("has another content")]
    Content,
    /// It is not the file that it was a hard link to.
    #[error("is no hard link any more")]
    Apart,
    /// The disk does not give it.
    #[error("cannot be read: {cause}")]
    Unreadable {
        /// The kernel's answer.
        cause: io::Error,
    },
}

/// Compares a layer with its manifest. Changes nothing, not even access times. Reads every file that
/// is named, and follows no symlink. Costs four system calls a file beside the reading, and memory
/// for `most_named` files that are wrong. What the kernel has in memory is not read from the disk.
///
/// # Errors
/// [`Error::BadFileDigests`] if the manifest is not whole; [`Error::Stopped`] when `progress`, which
/// learns of names and of bytes read, says so; [`Error::Io`] if something fails that says nothing
/// about the file, such as a lack of memory.
pub fn check(
    layer: BorrowedFd<'_>,
    manifest: &File,
    most_named: usize,
    progress: &dyn Progress,
) -> Result<Checked, Error> {
    let end = verify(manifest)?;
    let mut checker = Checker {
        layer,
        gone: Gone::read(manifest, &end)?,
        old: HashMap::new(),
        most_named,
        progress,
        buffer: vec![0; STEP],
        checked: Checked::default(),
    };
    let mut records = Records::new(manifest, &end)?;
    loop {
        let number = records.number;
        let Some((path, said)) = records.next()? else {
            return Ok(checker.checked);
        };
        checker.record(number, path, said)?;
    }
}

/// Size and digest.
type Held = (u64, Option<u128>);

struct Checker<'a> {
    layer: BorrowedFd<'a>,
    gone: Gone,
    /// Size and digest of files whose names were removed later in the archive.
    old: HashMap<Vec<u8>, Held>,
    most_named: usize,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
    checked: Checked,
}

impl Checker<'_> {
    fn record(&mut self, number: u64, path: &[u8], said: Said) -> Result<(), Error> {
        if self.gone.is_gone(path, number) {
            if let Said::File { size, digest } = said
                && self.old.len() < MOST_OLD
            {
                self.old.insert(path.to_vec(), (size, digest));
            }
            return Ok(());
        }
        let path = Path::new(OsStr::from_bytes(path));
        match said {
            Said::File { size, digest } => self.file(path, (size, digest)),
            Said::Link { target } if !self.gone.is_gone(&target, number) => {
                let found = self.same(path, Path::new(OsStr::from_bytes(&target)))?;
                self.note(path, found);
                Ok(())
            }
            Said::Link { target } => match self.old.get(&target) {
                Some(held) => self.file(path, *held),
                None => Ok(()), // of a type that has no content, or one of too many
            },
            Said::Gone => Ok(()),
        }
    }

    fn file(&mut self, path: &Path, held: Held) -> Result<(), Error> {
        let found = self.compare(path, held)?;
        self.note(path, found);
        Ok(())
    }

    fn note(&mut self, path: &Path, found: Result<(), Wrong>) {
        self.checked.files += 1;
        self.progress.advanced(1, 0);
        let Err(wrong) = found else { return };
        self.checked.wrong += 1;
        if self.checked.named.len() < self.most_named {
            self.checked.named.push((path.to_owned(), wrong));
        }
    }

    fn compare(&mut self, path: &Path, (size, digest): Held) -> Result<Result<(), Wrong>, Error> {
        let (found, stat) = match self.find(path)? {
            Ok(found) => found,
            Err(wrong) => return Ok(Err(wrong)),
        };
        if stat.kind() != Kind::Regular {
            let found = stat.kind().noun();
            return Ok(Err(Wrong::NoFile { found }));
        }
        if stat.size != size {
            let (wanted, found) = (size, stat.size);
            return Ok(Err(Wrong::Size { wanted, found }));
        }
        let Some(wanted) = digest else {
            return Ok(Ok(()));
        };
        Ok(match self.digest(&found, path)? {
            Ok(digest) if digest == wanted => Ok(()),
            Ok(_) => Err(Wrong::Content),
            Err(wrong) => Err(wrong),
        })
    }

    /// Opens what is at a path as a place only: it may be a device by now.
    fn find(&self, path: &Path) -> Result<Result<(OwnedFd, Stat), Wrong>, Error> {
        if self.progress.cancelled() {
            return Err(Error::Stopped);
        }
        let found = open_below(self.layer, path, OFlags::PATH)
            .and_then(|found| node::stat(found.as_fd()).map(|stat| (found, stat)));
        classify(found, path)
    }

    fn digest(&mut self, found: &OwnedFd, path: &Path) -> Result<Result<u128, Wrong>, Error> {
        let file = match classify(node::reopen(found.as_fd()), path)? {
            Ok(file) => file,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let mut hash = Xxh3::new();
        loop {
            let count = match rustix::io::read(&file, &mut *self.buffer) {
                Ok(0) => return Ok(Ok(hash.digest128())),
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(cause) => return Ok(classify::<()>(Err(cause), path)?.map(|()| 0)),
            };
            hash.update(&self.buffer[..count]);
            self.checked.bytes += count as u64;
            self.progress.advanced(0, count as u64);
            if self.progress.cancelled() {
                return Err(Error::Stopped);
            }
        }
    }

    /// Checks that two names are still hard links of one file.
    fn same(&self, path: &Path, target: &Path) -> Result<Result<(), Wrong>, Error> {
        let (found, at_target) = (self.find(path)?, self.find(target)?);
        Ok(match (found, at_target) {
            (Err(wrong), _) => Err(wrong),
            // That is said of the other name.
            (Ok(_), Err(_)) => Ok(()),
            (Ok((_, one)), Ok((_, other))) if one.identity() == other.identity() => Ok(()),
            (Ok(_), Ok(_)) => Err(Wrong::Apart),
        })
    }
}

/// Tells what is wrong with a file from what hinders us.
fn classify<T>(outcome: Result<T, Errno>, path: &Path) -> Result<Result<T, Wrong>, Error> {
    match outcome {
        Ok(found) => Ok(Ok(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(Err(Wrong::Missing)),
        Err(cause @ (Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::ILSEQ)) => {
            let cause = cause.into();
            Ok(Err(Wrong::Unreadable { cause }))
        }
        Err(cause) => Err(Error::io("read", path, cause)),
    }
}
