//! The reading of a manifest. It was checked against its digest before, but nothing here rests on
//! that.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::{END, FILE, GONE, LINK, MAGIC, SPARSE};
use crate::dir_stack::LONGEST_PATH;
use crate::error::Error;

/// Content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    File { size: u64, digest: Option<u128> },
    Link { target: Vec<u8> },
    Gone,
}

/// The records, one after the other.
pub(super) struct Records<'f> {
    body: io::Take<BufReader<&'f File>>,
    path: Vec<u8>,
    /// Records read.
    pub(super) number: u64,
    records: u64,
}

/// The trailer.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    body: u64,
    records: u64,
    pub(super) gone: u64,
}

/// Reads a whole manifest and compares it with its own digest.
pub(super) fn verify(file: &File) -> Result<End, Error> {
    let length = file.metadata().map_err(failed)?.len();
    let body = length.checked_sub(END as u64);
    let Some(body) = body.filter(|body| *body >= MAGIC.len() as u64) else {
        return bad("it is not whole");
    };
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 64 << 10]);
    let mut input = from_start(file)?.take(body + 16);
    loop {
        match input.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let mut end = [0; END];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut end, body).map_err(failed)?;
    let (counts, digest) = end.split_at(16);
    if hash.digest128().to_le_bytes() != digest {
        return bad("it does not have its own digest");
    }
    let (records, gone) = counts.split_at(8);
    Ok(End {
        body,
        records: fixed(records),
        gone: fixed(gone),
    })
}

fn fixed(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn from_start(mut file: &File) -> Result<&File, Error> {
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

impl<'f> Records<'f> {
    /// The records of a manifest that was verified.
    pub(super) fn new(file: &'f File, end: &End) -> Result<Self, Error> {
        let mut body = BufReader::with_capacity(64 << 10, from_start(file)?).take(end.body);
        let mut magic = [0; 8];
        body.read_exact(&mut magic).map_err(failed)?;
        if magic != *MAGIC {
            return bad("it is of another kind");
        }
        Ok(Self {
            body,
            path: Vec::new(),
            number: 0,
            records: end.records,
        })
    }

    /// The next record and its path, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<(&[u8], Said)>, Error> {
        if self.body.fill_buf().map_err(failed)?.is_empty() {
            let whole = self.number == self.records;
            return if whole {
                Ok(None)
            } else {
                bad("records are missing")
            };
        }
        let tag = self.byte()?;
        self.path()?;
        let said = match tag {
            FILE | SPARSE => Said::File {
                size: self.long()?,
                digest: (tag == FILE).then(|| self.digest()).transpose()?,
            },
            LINK => {
                let mut target = vec![0; self.length(LONGEST_PATH)?];
                self.body.read_exact(&mut target).map_err(failed)?;
                Said::Link { target }
            }
            GONE => Said::Gone,
            _ => return bad("a record is of an unknown kind"),
        };
        self.number += 1;
        Ok(Some((&self.path, said)))
    }

    fn path(&mut self) -> Result<(), Error> {
        let shared = self.length(self.path.len())?;
        let more = self.length(LONGEST_PATH - shared)?;
        self.path.resize(shared + more, 0);
        self.body
            .read_exact(&mut self.path[shared..])
            .map_err(failed)
    }

    fn digest(&mut self) -> Result<u128, Error> {
        let mut digest = [0; 16];
        self.body.read_exact(&mut digest).map_err(failed)?;
        Ok(u128::from_le_bytes(digest))
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let mut byte = [0];
        self.body.read_exact(&mut byte).map_err(failed)?;
        Ok(byte[0])
    }

    fn long(&mut self) -> Result<u64, Error> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        bad("a number in it is too large")
    }

    fn length(&mut self, most: usize) -> Result<usize, Error> {
        let length = usize::try_from(self.long()?).unwrap_or(usize::MAX);
        if length > most {
            return bad("a path in it is too long");
        }
        Ok(length)
    }
}

/// Removed paths, with the number of the last record that removed each.
#[derive(Debug, Default)]
pub(super) struct Gone(HashMap<Vec<u8>, u64>);

impl Gone {
    pub(super) fn read(file: &File, end: &End) -> Result<Self, Error> {
        let mut gone = HashMap::new();
        if end.gone > 0 {
            let mut records = Records::new(file, end)?;
            loop {
                let number = records.number;
                match records.next()? {
                    Some((path, Said::Gone)) => drop(gone.insert(path.to_vec(), number)),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        Ok(Self(gone))
    }

    /// True if a record after `number` removed `path` or a directory above it.
    pub(super) fn is_gone(&self, path: &[u8], number: u64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = ends.map(|(end, _)| end).chain([path.len()]);
        above.any(|end| self.0.get(&path[..end]).is_some_and(|last| *last > number))
    }
}

fn failed(cause: io::Error) -> Error {
    if cause.kind() == io::ErrorKind::UnexpectedEof {
        let problem = "it ends too early";
        return Error::BadFileDigests { problem };
    }
    Error::io("read", Path::new("manifest"), cause)
}

fn bad<T>(problem: &'static str) -> Result<T, Error> {
    Err(Error::BadFileDigests { problem })
}
