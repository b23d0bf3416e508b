//! From the blob to the bytes of the archive: reading, checking, decompressing, hashing. Each of
//! the functions is a thread.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest, Sha256};

use crate::apply::queue::Chunk;
use crate::apply::run::Shared;
use crate::apply::{Blob, Compression, Options};
use crate::error::Error;

/// Bytes of a decompressed stream that are free of the limit of the ratio.
const FREE: u64 = 16 << 20;

/// Reads the blob to its end and checks that it is what it should be.
pub(super) fn fetch(mut source: impl Read, blob: &Blob, shared: &Shared) -> Result<(), Error> {
    let mut sum = blob.sha256.map(|_| Sha256::new());
    let mut offset = 0;
    loop {
        let Ok(mut block) = shared.raw_blocks.take() else {
            return Ok(());
        };
        let length = fill(&mut source, &mut block.data).map_err(|cause| Error::Stream {
            attempt: "read",
            offset,
            cause,
        })?;
        if length == 0 {
            break;
        }
        if let Some(sum) = &mut sum {
            sum.update(&block.data[..length]);
        }
        offset += length as u64;
        too_long(blob, offset)?;
        if shared.raw.push(Chunk::new(block, length)).is_err() {
            return Ok(());
        }
    }
    check(blob, offset, sum)?;
    shared.raw.close();
    Ok(())
}

fn too_long(blob: &Blob, found: u64) -> Result<(), Error> {
    match blob.size {
        Some(wanted) if found > wanted => Err(Error::Length { wanted, found }),
        _ => Ok(()),
    }
}

fn check(blob: &Blob, found: u64, sum: Option<Sha256>) -> Result<(), Error> {
    if let Some(wanted) = blob.size.filter(|wanted| *wanted != found) {
        return Err(Error::Length { wanted, found });
    }
    let Some((wanted, sum)) = blob.sha256.zip(sum) else {
        return Ok(());
    };
    let found: [u8; 32] = sum.finalize().into();
    if found == wanted {
        return Ok(());
    }
    let hex = |sum: [u8; 32]| sum.iter().map(|byte| format!("{byte:02x}")).collect();
    Err(Error::Digest {
        wanted: hex(wanted),
        found: hex(found),
    })
}

/// Reads until the buffer is full or the stream ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// What was fetched, for a decoder to read.
pub(super) struct Feed<'a> {
    shared: &'a Shared,
    chunk: Option<Chunk>,
}

impl<'a> Feed<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            chunk: None,
        }
    }
}

impl BufRead for Feed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.as_deref().is_none_or(<[u8]>::is_empty) {
            self.chunk = self.shared.raw.pop();
        }
        Ok(self.chunk.as_deref().unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        if let Some(chunk) = &mut self.chunk {
            chunk.split(amount);
        }
        self.shared.consumed.fetch_add(amount as u64, Relaxed);
    }
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// Decompresses what was fetched.
pub(super) fn inflate(options: &Options<'_>, shared: &Shared) -> Result<(), Error> {
    let failed = |cause| Error::Compressed {
        offset: shared.consumed.load(Relaxed),
        cause,
    };
    let mut decoder = decoder(options.compression, Feed::new(shared)).map_err(failed)?;
    let mut total = 0;
    loop {
        let Ok(mut block) = shared.blocks.take() else {
            return Ok(());
        };
        let length = fill(&mut decoder, &mut block.data).map_err(failed)?;
        if length == 0 {
            break;
        }
        total += length as u64;
        limits(options, total, shared.consumed.load(Relaxed))?;
        if options.progress.cancelled() {
            return Err(Error::Stopped);
        }
        options.progress.advanced(0, length as u64);
        let chunk = Chunk::new(block, length);
        if shared.hashed.push(chunk.clone()).is_err() || shared.plain.push(chunk).is_err() {
            return Ok(());
        }
    }
    shared.hashed.close();
    shared.plain.close();
    Ok(())
}

fn limits(options: &Options<'_>, total: u64, consumed: u64) -> Result<(), Error> {
    let over = |what, limit| Err(Error::Limit { what, limit });
    let limits = &options.limits;
    if total > limits.most_bytes {
        return over("bytes", limits.most_bytes);
    }
    if total > FREE && total / limits.most_ratio.max(1) > consumed {
        return over("bytes for each byte of the blob", limits.most_ratio);
    }
    Ok(())
}

fn decoder<'a>(compression: Compression, mut feed: Feed<'a>) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(feed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(feed)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(feed)?),
        Compression::Detect => {
            let found = detect(feed.fill_buf()?);
            return decoder(found, feed);
        }
    })
}

/// How a stream that begins like this is compressed. As containerd sees it.
fn detect(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Makes the digest of the decompressed stream, and counts its bytes.
pub(super) fn hash(shared: &Shared) -> ([u8; 32], u64) {
    let (mut sum, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = shared.hashed.pop() {
        sum.update(&*chunk);
        size += chunk.len() as u64;
    }
    (sum.finalize().into(), size)
}

/// The decompressed stream, for the parser to read.
pub(super) struct Plain<'a> {
    shared: &'a Shared,
    chunk: Option<Chunk>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            chunk: None,
        }
    }

    /// The next bytes, `most` of them at most, without copying them. Fewer only where a buffer
    /// ends, none at the end of the stream.
    pub(super) fn next(&mut self, most: usize) -> Option<Chunk> {
        if self.chunk.as_deref().is_none_or(<[u8]>::is_empty) {
            self.chunk = self.shared.plain.pop();
        }
        self.chunk.as_mut().map(|chunk| chunk.split(most))
    }

    /// Passes over what is left.
    pub(super) fn drain(mut self) {
        while self.next(usize::MAX).is_some() {}
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(chunk) = self.next(buffer.len()) else {
            return Ok(0);
        };
        buffer[..chunk.len()].copy_from_slice(&chunk);
        Ok(chunk.len())
    }
}
