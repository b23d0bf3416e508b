//! From the blob to the bytes of the archive: reading, checking, decompressing, hashing. Each of
//! the functions is a thread.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest, Sha256};

use crate::apply::queue::Chunk;
use crate::apply::shared::Shared;
use crate::apply::write::runs;
use crate::apply::zstd::{Frames, TooWide};
use crate::apply::{Blob, Compression, Options};
use crate::error::{Bound, Error};
use crate::tar::BLOCK;
use crate::tar::header::Header;

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

/// The fetched blob, as a reader for the decoder.
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
    let failed = |cause| undecodable(cause, options, shared);
    let mut decoder = decoder(options, Feed::new(shared)).map_err(failed)?;
    let mut total = Total::default();
    loop {
        let Ok(mut block) = shared.blocks.take() else {
            return Ok(());
        };
        let length = fill(&mut decoder, &mut block.data).map_err(failed)?;
        if length == 0 {
            break;
        }
        total.add(&block.data[..length]);
        total.check(options, shared.consumed.load(Relaxed))?;
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

fn undecodable(cause: io::Error, options: &Options<'_>, shared: &Shared) -> Error {
    let too_wide = cause.get_ref().is_some_and(|cause| cause.is::<TooWide>());
    if too_wide {
        return Error::Beyond {
            bound: Bound::Window,
            limit: options.limits.most_window,
        };
    }
    let offset = shared.consumed.load(Relaxed);
    Error::Compressed { offset, cause }
}

/// Bytes of a decompressed stream.
#[derive(Debug, Default)]
struct Total {
    all: u64,
    /// Without long runs of zeros: files get holes in their place, so they cost no disk.
    counted: u64,
}

impl Total {
    fn add(&mut self, data: &[u8]) {
        self.all += data.len() as u64;
        self.counted += runs(data).map(|run| run.len() as u64).sum::<u64>();
    }

    /// Holds them to the limits. The ratio is that of the whole blob where its length is known:
    /// how it begins says little.
    fn check(&self, options: &Options<'_>, consumed: u64) -> Result<(), Error> {
        let over = |bound, limit| Err(Error::Beyond { bound, limit });
        let limits = &options.limits;
        if self.all > limits.most_bytes {
            return over(Bound::Bytes, limits.most_bytes);
        }
        let blob = options.blob.size.unwrap_or(consumed);
        if self.counted > FREE && self.counted / limits.most_ratio.max(1) > blob {
            return over(Bound::Ratio, limits.most_ratio);
        }
        Ok(())
    }
}

fn decoder<'a>(options: &'a Options<'_>, mut feed: Feed<'a>) -> io::Result<Box<dyn Read + 'a>> {
    let compression = match options.compression {
        Compression::Detect => detect(feed.fill_buf()?),
        // Media types that say so are wrong now and then. What is an archive stays one.
        Compression::None if !is_archive(feed.fill_buf()?) => detect(feed.fill_buf()?),
        known => known,
    };
    Ok(match compression {
        Compression::None | Compression::Detect => Box::new(feed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(feed)),
        Compression::Zstd => {
            let most_window = options.limits.most_window;
            Box::new(Frames::new(feed, most_window, options.progress)?)
        }
    })
}

/// True if a stream begins with a tar header whose checksum matches.
fn is_archive(start: &[u8]) -> bool {
    let block = start.first_chunk::<BLOCK>();
    block.is_some_and(|block| Header(*block).sum_matches())
}

/// Compression by the first bytes of a stream, as containerd detects it.
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
