//! The making of a manifest, beside the unpacking of a layer.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;

use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::Xxh3;

use super::{FILE, GONE, LINK, MAGIC, SPARSE};
use crate::apply::DigestSink;
use crate::durable::Durable;
use crate::error::Error;
use crate::sys::{self, WriteBack};

/// Bytes of names that may be taken back.
const MOST_GONE: usize = 1 << 20;

/// Writes what it is told to a file. Takes 128 KiB of memory, whatever the layer. A failure is
/// kept for [`finish`](Self::finish), so that a layer is not lost for want of its manifest.
pub struct Writer(Mutex<State>);

struct State {
    out: BufWriter<File>,
    hash: Box<Xxh3>,
    /// Path of the last record.
    last: Vec<u8>,
    record: Vec<u8>,
    records: u64,
    gone: u64,
    gone_bytes: usize,
    failed: Option<io::Error>,
}

impl Writer {
    /// Takes a file that is empty.
    #[must_use]
    pub fn new(file: File) -> Self {
        let mut state = State {
            out: BufWriter::with_capacity(128 << 10, file),
            hash: Box::new(Xxh3::new()),
            last: Vec::new(),
            record: MAGIC.to_vec(),
            records: 0,
            gone: 0,
            gone_bytes: 0,
            failed: None,
        };
        state.put();
        Self(Mutex::new(state))
    }

    /// Ends the manifest of a layer that is whole, and answers how many records it has. It is then
    /// as durable as files of a layer that is unpacked so; its name is the caller's concern.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is of no use then.
    pub fn finish(self, durable: Durable) -> Result<u64, Error> {
        let state = self.0.into_inner();
        let records = state.records;
        let failed = |cause| Error::io("write", Path::new("manifest"), cause);
        let file = state.end().map_err(failed)?;
        if durable == Durable::Content {
            sys::write_back(file.as_fd(), WriteBack::Finish)
                .map_err(|cause| failed(io::Error::from(cause)))?;
        }
        Ok(records)
    }

    /// The state is of use only if no holder panicked: then the layer is not whole either.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl DigestSink for Writer {
    fn file(&self, path: &[u8], size: u64, digest: Option<u128>) {
        let mut state = self.state();
        state.begin(if digest.is_some() { FILE } else { SPARSE }, path);
        state.number(size);
        if let Some(digest) = digest {
            state.record.extend_from_slice(&digest.to_le_bytes());
        }
        state.put();
    }

    fn link(&self, path: &[u8], target: &[u8]) {
        let mut state = self.state();
        state.begin(LINK, path);
        state.number(target.len() as u64);
        state.record.extend_from_slice(target);
        state.put();
    }

    fn gone(&self, path: &[u8]) {
        let mut state = self.state();
        state.gone += 1;
        state.gone_bytes += path.len();
        if state.gone_bytes > MOST_GONE {
            let why = io::Error::other("the layer replaces too much of what it brings");
            state.failed.get_or_insert(why);
        }
        state.begin(GONE, path);
        state.put();
    }
}

impl State {
    fn begin(&mut self, tag: u8, path: &[u8]) {
        let pairs = self.last.iter().zip(path);
        let shared = pairs.take_while(|(before, now)| before == now).count();
        self.records += 1;
        self.record.push(tag);
        self.number(shared as u64);
        self.number((path.len() - shared) as u64);
        self.record.extend_from_slice(&path[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    fn number(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                self.record.push(low & 0x7f);
                return;
            }
            self.record.push(low | 0x80);
        }
    }

    /// Writes what is gathered.
    fn put(&mut self) {
        self.hash.update(&self.record);
        if self.failed.is_none() {
            self.failed = self.out.write_all(&self.record).err();
        }
        self.record.clear();
    }

    fn end(mut self) -> io::Result<File> {
        self.record.extend_from_slice(&self.records.to_le_bytes());
        self.record.extend_from_slice(&self.gone.to_le_bytes());
        self.put();
        let digest = self.hash.digest128().to_le_bytes();
        self.record.extend_from_slice(&digest);
        self.put();
        match self.failed {
            Some(cause) => Err(cause),
            None => self
                .out
                .into_inner()
                .map_err(io::IntoInnerError::into_error),
        }
    }
}
