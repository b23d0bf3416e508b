//! Reads an archive entry by entry, in one pass.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read};

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::tar::entry::{Entry, EntryKind};
use crate::tar::header::{self, Header};
use crate::tar::sparse;
use crate::tar::{BLOCK, padding};
use notes::Notes;

pub(crate) use notes::TOP;
use sum::Sum;
pub(crate) use sum::{MARK, SUM};

mod maps;
mod notes;
mod sum;

/// Bytes of one extended header.
const LARGEST_NOTES: u64 = 4 << 20;

/// Bytes of a GNU long name.
const LARGEST_NAME: u64 = 1 << 20;

/// Bytes asked of the stream at once.
const BUFFER: usize = 256 << 10;

/// A streaming reader. Reads ahead of what it returns, by at most 256 KiB.
pub struct Reader<R> {
    input: BufReader<R>,
    offset: u64,
    /// Bytes of the current entry's content that have not been read, and what fills its last block.
    left: u64,
    padding: usize,
    /// Bytes before the padding that are content of no file.
    skip: u64,
    defaults: Notes,
    sum: Sum,
    dialect: Dialect,
}

/// Interpretation of ambiguous archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Strict: ambiguous archives are refused.
    Archive,
    /// As containerd, which uses Go's archive/tar, reads a layer: global headers and access
    /// lists in text are skipped, the last of several extended headers counts, and a stream
    /// may end behind the content of any file, and behind extended headers without one.
    Layer,
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Reader");
        shown.field("offset", &self.offset);
        shown.field("left", &self.left);
        shown.finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// Reads from the start of an archive.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, input),
            offset: 0,
            left: 0,
            padding: 0,
            skip: 0,
            defaults: Notes::default(),
            sum: Sum::Unknown(Sha256::new()),
            dialect: Dialect::Archive,
        }
    }

    /// Reads a layer of an image, from its start, the way containerd does. `input` is cheap to read in small pieces: nothing is read ahead, but for the one
    /// byte behind the end mark.
    pub(crate) fn of_layer(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(1, input),
            offset: 0,
            left: 0,
            padding: 0,
            skip: 0,
            defaults: Notes::of_layer(),
            sum: Sum::None,
            dialect: Dialect::Layer,
        }
    }

    /// Bytes of the current file's content that have not been read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Returns the input, to go on behind the end mark.
    pub(crate) fn into_input(self) -> R {
        self.input.into_inner()
    }

    /// Bytes of the archive that were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// True if the archive has a checksum and it matched. Known after the last entry.
    pub fn is_verified(&self) -> bool {
        matches!(self.sum, Sum::Right)
    }

    /// The next file; what is left of the current one is passed over. `None` at the end mark.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::Damaged`] or [`Error::Stream`]. The
    /// reader must not be used after an error.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        self.pass_over()?;
        let mut notes = None;
        let mut names = (None, None);
        loop {
            let at = self.offset;
            let bad = |problem| Error::Malformed {
                offset: at,
                problem,
            };
            let before = self.sum_so_far();
            if self.is_over()? {
                return Ok(None);
            }
            let header = Header(self.block()?);
            if header.is_zero() {
                let alone = notes.is_some() || names != (None, None);
                if alone && self.dialect == Dialect::Archive {
                    return Err(bad("an extended header without a file"));
                }
                return self.end().map(|()| None);
            }
            if matches!(self.sum, Sum::Right) {
                return Err(bad("more files after the checksum"));
            }
            if !header.sum_matches() {
                return Err(bad("not a tar header: its sum is wrong"));
            }
            match header.kind() {
                b'g' if self.dialect == Dialect::Layer => {
                    drop(self.metadata(&header, at, LARGEST_NOTES)?);
                }
                b'g' => self.global(&header, at, before)?,
                b'x' | b'X' if notes.is_none() || self.dialect == Dialect::Layer => {
                    let data = self.metadata(&header, at, LARGEST_NOTES)?;
                    notes = Some(self.defaults.with(&data).map_err(bad)?);
                }
                b'x' | b'X' => return Err(bad("two extended headers for one file")),
                b'L' => names.0 = self.long_name(&header, at)?,
                b'K' => names.1 = self.long_name(&header, at)?,
                b'V' => drop(self.metadata(&header, at, LARGEST_NAME)?),
                _ => {
                    let notes = notes.unwrap_or_else(|| self.defaults.clone());
                    self.no_mark();
                    return self.file(&header, notes, names, at).map(Some);
                }
            }
        }
    }

    /// Reads content of the current file, as much as there is and fits; 0 at its end. What is
    /// read are the pieces of a sparse file, one after the other.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::Stream`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if want == 0 {
            return Ok(0);
        }
        let read = self.some(&mut buffer[..want])?;
        self.left -= read as u64;
        Ok(read)
    }

    /// Has `take` read content of the current file straight from the input: it is told how many
    /// bytes there are, at least one, and answers how many it took.
    ///
    /// # Errors
    /// [`Error::Truncated`] if it takes none; [`Error::Stream`].
    pub(crate) fn take_with<T>(
        &mut self,
        take: impl FnOnce(&mut R, usize) -> std::io::Result<(T, usize)>,
    ) -> Result<T, Error> {
        debug_assert!(
            self.dialect == Dialect::Layer,
            "no sum is made of what is taken"
        );
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        match take(self.input.get_mut(), most) {
            Ok((_, 0)) => Err(Error::Truncated {
                offset: self.offset,
            }),
            Ok((taken, length)) => {
                self.left -= length as u64;
                self.offset += length as u64;
                Ok(taken)
            }
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// True if the stream has ended where the dialect allows it.
    fn is_over(&mut self) -> Result<bool, Error> {
        if self.dialect == Dialect::Archive {
            return Ok(false);
        }
        loop {
            match self.input.fill_buf() {
                Ok(rest) => return Ok(rest.is_empty()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.failed(cause)),
            }
        }
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.input.read(buffer) {
                Ok(0) => {
                    return Err(Error::Truncated {
                        offset: self.offset,
                    });
                }
                Ok(read) => {
                    self.passed(&buffer[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.failed(cause)),
            }
        }
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        Error::Stream {
            attempt: "read",
            offset: self.offset,
            cause,
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        if let Sum::Unknown(sum) | Sum::Promised(sum) = &mut self.sum {
            sum.update(bytes);
        }
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < buffer.len() {
            done += self.some(&mut buffer[done..])?;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Error> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        Ok(block)
    }

    fn pass_over(&mut self) -> Result<(), Error> {
        let mut left = std::mem::take(&mut self.left) + std::mem::take(&mut self.skip);
        let mut buffer = [0; 8192];
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            left -= self.some(&mut buffer[..want])? as u64;
        }
        let padding = std::mem::take(&mut self.padding);
        self.fill_up(padding)
    }

    /// Passes over what fills the last block of content. Of a layer it may be missing.
    fn fill_up(&mut self, mut left: usize) -> Result<(), Error> {
        let mut rest = [0; BLOCK];
        while left > 0 {
            left -= match self.some(&mut rest[..left]) {
                Err(Error::Truncated { .. }) if self.dialect == Dialect::Layer => return Ok(()),
                read => read?,
            };
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        if let Sum::Promised(_) = self.sum {
            let problem = "its checksum is missing";
            return Err(Error::Damaged { problem });
        }
        // Some programs write one block of zeros where there should be two.
        if self.input.fill_buf().map_or(0, <[u8]>::len) > 0 {
            let at = self.offset;
            if !Header(self.block()?).is_zero() {
                let problem = "a file after the end mark";
                return Err(Error::Malformed {
                    offset: at,
                    problem,
                });
            }
        }
        Ok(())
    }

    fn metadata(&mut self, header: &Header, at: u64, limit: u64) -> Result<Vec<u8>, Error> {
        let bad = |problem| Error::Malformed {
            offset: at,
            problem,
        };
        let size = header
            .number(header::SIZE)
            .ok_or(bad("a size that is no number"))?;
        if size > limit {
            return Err(bad("an extended header that is too large"));
        }
        let mut data = vec![0; usize::try_from(size).map_err(|_| bad("too large"))?];
        self.exact(&mut data)?;
        self.fill_up(padding(size))?;
        Ok(data)
    }

    /// An empty one says nothing.
    fn long_name(&mut self, header: &Header, at: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut name = self.metadata(header, at, LARGEST_NAME)?;
        let end = name.iter().position(|byte| *byte == 0);
        name.truncate(end.unwrap_or(name.len()));
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    fn file(
        &mut self,
        header: &Header,
        notes: Notes,
        names: (Option<Vec<u8>>, Option<Vec<u8>>),
        at: u64,
    ) -> Result<Entry, Error> {
        let bad = |problem| Error::Malformed {
            offset: at,
            problem,
        };
        let mut entry = notes.entry(header, names).map_err(bad)?;
        let old_sparse = header.kind() == b'S';
        if matches!(header.kind(), 0 | b'0') || entry.kind == EntryKind::File {
            self.left = notes
                .stored(header)
                .ok_or(bad("a size that is no number"))?;
            self.padding = padding(self.left);
            if self.left.checked_add(BLOCK as u64).is_none() {
                return Err(bad("a size that no archive has"));
            }
        }
        if old_sparse {
            entry.size = header
                .number(header::GNU_REAL_SIZE)
                .ok_or(bad("no real size"))?;
            entry.pieces = Some(self.old_pieces(header, at)?);
        } else if entry.kind == EntryKind::File {
            entry.size = notes.real_size().unwrap_or(self.left);
            entry.pieces = match notes.pieces().map_err(bad)? {
                notes::Where::Nowhere => None,
                notes::Where::Here(pieces) => Some(pieces),
                notes::Where::InContent => Some(self.pieces_in_content(at)?),
            };
        }
        if entry.kind == EntryKind::File {
            entry.stored = self.left;
        } else {
            // What an old archive says of a directory is no file's content.
            self.skip = std::mem::take(&mut self.left);
        }
        let whole = [(0, entry.size)];
        let pieces = entry.pieces.as_deref().unwrap_or(&whole);
        if !sparse::is_sound(pieces, entry.size, entry.stored) {
            return Err(bad("sizes that contradict each other"));
        }
        Ok(entry)
    }
}
