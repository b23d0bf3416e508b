//! The number of the last commit, outside the database.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The number of the last commit, in a file of its own.
///
/// It is written after each commit without waiting for the disk, so it never runs ahead of the
/// database: after a clean stop or a killed process it is exact, after a power cut it may lag by
/// what the kernel had not written back.
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) file: File,
    pub(crate) last: Option<u64>,
}

impl Witness {
    /// A file that is cut or garbled says nothing; it is not what the data depends on.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
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
