//! The sequence file: the number of the last commit, outside the database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::file::{self, create_in_place, is_copied_on_write, replace_in_place};

/// Bytes of the file: btrfs stores a shorter one inline, which is not overwritten in place.
const SIZE: usize = 4096;

/// The open sequence file.
///
/// It is written after each commit without waiting for the disk, so it never runs ahead of the
/// database: after a clean stop or a kill it is exact, after a power cut it may lag by the pages
/// that the kernel had not written back.
#[derive(Debug)]
pub(crate) struct SequenceFile {
    path: PathBuf,
    /// None if it is missing.
    file: Option<File>,
    /// The number that it had when it was opened; `None` if it was missing, short or garbled.
    pub(crate) last: Option<u64>,
}

impl SequenceFile {
    /// Opens the file, if there is one. It has a number, durably, before the database's first commit
    /// ([`ensure`](Self::ensure)); so one without a number was lost.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(kind) = file::stranger(path) {
            // As one without a number, and nothing is read or written through it.
            let shown = path.display();
            warn!(path = %shown, kind, "what stands in place of the file is no file");
            return Ok(Self {
                path: path.to_owned(),
                last: None,
                file: None,
            });
        }
        let file = match file::open(path, File::options().read(true).write(true)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            file => Some(in_place(path, file?)),
        };
        Ok(Self {
            path: path.to_owned(),
            last: file.as_ref().and_then(number_in),
            file,
        })
    }

    /// Gives a missing or garbled file a number, durably, and leaves one with a number as it is.
    pub(crate) fn ensure(&mut self, sequence: u64) -> io::Result<()> {
        if self.last.is_some() {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(create(&self.path)?);
        }
        self.note(sequence)?;
        self.sync()?;
        self.last = Some(sequence);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()
    }

    pub(crate) fn note(&self, sequence: u64) -> io::Result<()> {
        let number = sequence.to_le_bytes();
        let crc = crc32fast::hash(&number).to_le_bytes();
        self.file()?.write_all_at(&[&number[..], &crc].concat(), 0)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file()?.sync_all()
    }

    fn file(&self) -> io::Result<&File> {
        self.file
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn number_in(file: &File) -> Option<u64> {
    let mut bytes = [0; 12];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (number, crc) = bytes.split_at(8);
    let is_whole = crc == crc32fast::hash(number).to_le_bytes();
    is_whole.then(|| u64::from_le_bytes(number.try_into().unwrap_or_default()))
}

/// Replaces a file with copy-on-write, which could not be written on a full disk, if there is space.
fn in_place(path: &Path, file: File) -> File {
    if !is_copied_on_write(&file).unwrap_or(false) {
        return file;
    }
    let replaced = fs::read(path)
        .and_then(|bytes| replace_in_place(path, |new| new.write_all_at(&padded(&bytes), 0)));
    replaced.unwrap_or(file)
}

/// Creates the file, in place of what is no file; its content is durable, its name is not.
fn create(path: &Path) -> io::Result<File> {
    file::remove(path)?;
    let file = create_in_place(path)?;
    file.write_all_at(&padded(&[]), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Content of the file that begins with `begin`.
fn padded(begin: &[u8]) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let length = begin.len().min(SIZE);
    bytes[..length].copy_from_slice(&begin[..length]);
    bytes
}
