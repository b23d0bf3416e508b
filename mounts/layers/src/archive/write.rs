//! The stream that an archive is written to, and the headers of its entries.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::node::{Identity, Kind, Stat, Xattrs};
use crate::progress::Progress;
use crate::tar::header::{self, Header};
use crate::tar::reader::{MARK, SUM, TOP};
use crate::tar::{BLOCK, hex, padding, pax};

/// Bytes handed to the stream at once.
const BUFFER: usize = 256 << 10;

/// Counts and sums what passes.
pub(crate) struct Out<W: Write> {
    inner: BufWriter<W>,
    sum: Sha256,
    bytes: u64,
    /// Buffer for content of a file.
    buffer: Vec<u8>,
}

/// Where files that have several names were written.
#[derive(Debug, Default)]
pub(crate) struct Links {
    first: HashMap<Identity, Vec<u8>>,
}

impl Links {
    /// The path under which this very file was written; if it was not, it is now, as `path`.
    pub(crate) fn first(&mut self, path: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if stat.links < 2 || stat.kind() == Kind::Directory {
            return None;
        }
        let first = self.first.get(&stat.identity()).cloned();
        if first.is_none() {
            self.first.insert(stat.identity(), path.to_owned());
        }
        first
    }
}

/// Data of one file's header.
pub(crate) struct Described<'a> {
    /// With a slash at its end if it is a directory.
    pub(crate) path: &'a [u8],
    pub(crate) stat: &'a Stat,
    pub(crate) xattrs: &'a Xattrs,
    /// Target of a symlink.
    pub(crate) target: &'a [u8],
    /// Path of the first name of the same file.
    pub(crate) first: Option<&'a [u8]>,
    /// Bytes of content that follow.
    pub(crate) stored: u64,
    /// Set if the content is the map of a sparse file and its parts.
    pub(crate) sparse: bool,
    pub(crate) access_times: bool,
    /// Marks the entry as that of the root directory, see [`TOP`].
    pub(crate) top: bool,
}

impl<W: Write> Out<W> {
    /// Begins an archive as any program writes it.
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner: BufWriter::with_capacity(BUFFER, inner),
            sum: Sha256::new(),
            bytes: 0,
            buffer: vec![0; BUFFER],
        }
    }

    /// Begins one with layerd's mark, for [`finish_signed`](Self::finish_signed).
    pub(super) fn marked(inner: W) -> Result<Self, Error> {
        let mut out = Self::new(inner);
        out.comment(MARK)?;
        Ok(out)
    }

    /// Ends it with its own sum; its length and the sum of all.
    pub(super) fn finish_signed(mut self) -> Result<(u64, [u8; 32]), Error> {
        let sum = hex(self.sum.clone());
        self.comment(&format!("{SUM}{sum}"))?;
        let (_, bytes, sum) = self.finish()?;
        Ok((bytes, sum))
    }

    /// Ends it, flushed; the stream, the archive's length and its sum.
    pub(crate) fn finish(mut self) -> Result<(W, u64, [u8; 32]), Error> {
        self.put(&[0; 2 * BLOCK])?;
        let flushed = self.inner.flush();
        flushed.map_err(|cause| self.failed(cause))?;
        let bytes = self.bytes;
        let failed = |cause| Error::Stream {
            attempt: "write",
            offset: bytes,
            cause,
        };
        let inner = self.inner.into_inner();
        let inner = inner.map_err(|unwritten| failed(unwritten.into_error()))?;
        Ok((inner, bytes, self.sum.finalize().into()))
    }

    pub(crate) fn put(&mut self, data: &[u8]) -> Result<(), Error> {
        self.sum.update(data);
        let written = self.inner.write_all(data);
        written.map_err(|cause| self.failed(cause))?;
        self.bytes += data.len() as u64;
        Ok(())
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        Error::Stream {
            attempt: "write",
            offset: self.bytes,
            cause,
        }
    }

    pub(crate) fn zeros(&mut self, mut count: u64) -> Result<(), Error> {
        let zeros = [0; 4096];
        while count > 0 {
            let some = usize::try_from(count).map_or(zeros.len(), |count| count.min(zeros.len()));
            self.put(&zeros[..some])?;
            count -= some as u64;
        }
        Ok(())
    }

    /// Fills the last block of `length` bytes of content.
    pub(crate) fn pad(&mut self, length: u64) -> Result<(), Error> {
        self.zeros(padding(length) as u64)
    }

    /// Writes a part of a file. True if the file is shorter than it was: the header has promised
    /// these bytes, so there are zeros in their place.
    pub(crate) fn piece(
        &mut self,
        file: BorrowedFd<'_>,
        path: &Path,
        (mut offset, mut length): (u64, u64),
        progress: &dyn Progress,
    ) -> Result<bool, Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while length > 0 {
            if progress.cancelled() {
                return Err(Error::Stopped);
            }
            let want = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
            let read = match rustix::io::pread(file, &mut buffer[..want], offset) {
                Err(Errno::INTR) => continue,
                other => other.map_err(|cause| Error::io("read", path, cause))?,
            };
            if read == 0 {
                break;
            }
            self.put(&buffer[..read])?;
            progress.advanced(0, read as u64);
            offset += read as u64;
            length -= read as u64;
        }
        self.buffer = buffer;
        self.zeros(length)?;
        Ok(length > 0)
    }

    fn comment(&mut self, text: &str) -> Result<(), Error> {
        let mut records = Vec::new();
        pax::push(&mut records, b"comment", text.as_bytes());
        self.records(b'g', b"pax_global_header", &records)
    }

    fn records(&mut self, kind: u8, name: &[u8], records: &[u8]) -> Result<(), Error> {
        let mut header = Header::new(kind);
        header.put(header::NAME, name);
        for (field, number) in [(header::MODE, 0o644), (header::UID, 0), (header::GID, 0)] {
            header.put_number(field, number);
        }
        header.put_number(header::SIZE, records.len() as u64);
        header.put_number(header::MTIME, 0);
        self.put(&header.sealed())?;
        self.put(records)?;
        self.pad(records.len() as u64)
    }

    /// Writes all headers of a file.
    pub(crate) fn describe(&mut self, file: &Described<'_>) -> Result<(), Error> {
        let mut header = Header::new(file.kind());
        let mut records = Vec::new();
        file.names(&mut header, &mut records);
        file.numbers(&mut header, &mut records);
        file.times(&mut header, &mut records);
        for (name, value) in file.xattrs {
            let key = [b"SCHILY.xattr.", &*pax::escape(name.to_bytes())].concat();
            pax::push(&mut records, &key, value);
        }
        if file.top {
            pax::push(&mut records, TOP, b"1");
        }
        if !records.is_empty() {
            self.records(b'x', b"PaxHeaders/file", &records)?;
        }
        self.put(&header.sealed())
    }
}

impl Described<'_> {
    fn kind(&self) -> u8 {
        if self.first.is_some() {
            return b'1';
        }
        match self.stat.kind() {
            Kind::Regular | Kind::Socket => b'0',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    fn names(&self, header: &mut Header, records: &mut Vec<u8>) {
        let link = self.first.unwrap_or(self.target);
        if !is_plain(self.path) && std::str::from_utf8(self.path).is_err()
            || std::str::from_utf8(link).is_err()
        {
            pax::push(records, b"hdrcharset", b"BINARY");
        }
        header.put(header::NAME, self.path);
        if self.sparse {
            for (key, value) in [
                (&b"major"[..], &b"1"[..]),
                (b"minor", b"0"),
                (b"name", self.path),
            ] {
                pax::push(records, &[b"GNU.sparse.", key].concat(), value);
            }
            let size = self.stat.size.to_string();
            pax::push(records, b"GNU.sparse.realsize", size.as_bytes());
            header.put(header::NAME, &[0; 100]);
            header.put(header::NAME, b"./GNUSparseFile.0/file");
        } else if !is_plain(self.path) {
            pax::push(records, b"path", self.path);
        }
        header.put(header::LINK, link);
        if !is_plain(link) {
            pax::push(records, b"linkpath", link);
        }
    }

    fn numbers(&self, header: &mut Header, records: &mut Vec<u8>) {
        header.put_number(header::MODE, self.stat.permissions().into());
        let numbers = [
            (header::UID, &b"uid"[..], u64::from(self.stat.uid)),
            (header::GID, b"gid", self.stat.gid.into()),
            (header::SIZE, b"size", self.stored),
        ];
        for (field, key, number) in numbers {
            if !header.put_number(field, number) {
                pax::push(records, key, number.to_string().as_bytes());
            }
        }
        if matches!(self.kind(), b'3' | b'4') {
            // The kernel gives them 12 and 20 bits, the fields have 21.
            header.put_number(header::MAJOR, self.stat.number.0.into());
            header.put_number(header::MINOR, self.stat.number.1.into());
        }
    }

    fn times(&self, header: &mut Header, records: &mut Vec<u8>) {
        let modified = self.stat.modified;
        let seconds = u64::try_from(modified.tv_sec).ok();
        let fits = header.put_number(header::MTIME, seconds.unwrap_or(u64::MAX));
        if !fits || modified.tv_nsec != 0 {
            pax::push(records, b"mtime", pax::time_text(modified).as_bytes());
        }
        if self.access_times {
            pax::push(
                records,
                b"atime",
                pax::time_text(self.stat.accessed).as_bytes(),
            );
        }
    }
}

/// True if a name fits the field and is ASCII.
fn is_plain(name: &[u8]) -> bool {
    name.len() <= header::NAME.1 && name.is_ascii()
}
