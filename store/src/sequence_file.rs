//! The sequence file: the number of the last commit, outside the database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::folder::{create_in_place, is_copied_on_write};

/// Bytes of the file: btrfs stores a shorter one inline, which is not overwritten in place.
const SIZE: usize = 4096;

/// The open sequence file.
///
/// It is written after each commit without waiting for the disk, so it never runs ahead of the
/// database: after a clean stop or a kill it is exact, after a power cut it may lag by the pages
/// that the kernel had not written back.
#[derive(Debug)]
pub(crate) struct SequenceFile {
    pub(crate) file: File,
    pub(crate) last: Option<u64>,
}

impl SequenceFile {
    /// Opens or creates the file. A short or garbled one gives no number, which is no error: it only
    /// guards the database.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => create(path, &[])?,
            file => in_place(path, file?),
        };
        let mut bytes = [0; 12];
        let read = file.read_exact_at(&mut bytes, 0);
        let (number, crc) = bytes.split_at(8);
        let whole = read.is_ok() && crc == crc32fast::hash(number).to_le_bytes();
        let last = whole.then(|| u64::from_le_bytes(number.try_into().unwrap_or_default()));
        Ok(Self { file, last })
    }

    pub(crate) fn note(&self, sequence: u64) -> io::Result<()> {
        let number = sequence.to_le_bytes();
        let crc = crc32fast::hash(&number).to_le_bytes();
        self.file.write_all_at(&[&number[..], &crc].concat(), 0)
    }
}

/// Replaces a file with copy-on-write, which could not be written on a full disk, if there is space.
fn in_place(path: &Path, file: File) -> File {
    if !is_copied_on_write(&file).unwrap_or(false) {
        return file;
    }
    let temporary = path.with_extension("new");
    let replaced = fs::read(path).and_then(|bytes| {
        let _ = fs::remove_file(&temporary);
        let new = create(&temporary, &bytes)?;
        fs::rename(&temporary, path).map(|()| new)
    });
    replaced.unwrap_or(file)
}

/// Creates the file; its content is durable, its name is not.
fn create(path: &Path, begin: &[u8]) -> io::Result<File> {
    let mut bytes = [0; SIZE];
    let length = begin.len().min(SIZE);
    bytes[..length].copy_from_slice(&begin[..length]);
    let file = create_in_place(path)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    Ok(file)
}
