//! Output of an archive: compression, checksum and count of bytes.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::diff::DiffCompression;

/// As programs choose by default: more costs time and gains little.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Compresses, counts and sums.
pub(super) enum Compressor<'a> {
    None(Counted<'a>),
    Gzip(GzEncoder<Counted<'a>>),
    Zstd(zstd::Encoder<'static, Counted<'a>>),
}

/// Counts and sums what reaches the stream.
pub(super) struct Counted<'a> {
    out: &'a mut dyn Write,
    sum: Option<Sha256>,
    bytes: u64,
}

impl<'a> Compressor<'a> {
    pub(super) fn new(compression: DiffCompression, out: &'a mut dyn Write) -> io::Result<Self> {
        let mut counted = Counted {
            out,
            sum: Some(Sha256::new()),
            bytes: 0,
        };
        Ok(match compression {
            DiffCompression::None => {
                counted.sum = None; // the archive's own is the same
                Self::None(counted)
            }
            DiffCompression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Self::Gzip(GzEncoder::new(counted, level))
            }
            DiffCompression::Zstd => Self::Zstd(zstd::Encoder::new(counted, ZSTD_LEVEL)?),
        })
    }

    /// Ends the stream, flushed; its length, and its sum if it is not that of what came in.
    pub(super) fn finish(self) -> io::Result<(u64, Option<[u8; 32]>)> {
        let mut counted = match self {
            Self::None(counted) => counted,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        counted.flush()?;
        Ok((counted.bytes, counted.sum.map(|sum| sum.finalize().into())))
    }
}

impl Write for Compressor<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(inner) => inner.write(data),
            Self::Gzip(inner) => inner.write(data),
            Self::Zstd(inner) => inner.write(data),
        }
    }

    /// Nothing: a compressor that is made to flush packs worse. The end does it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        if let Some(sum) = &mut self.sum {
            sum.update(&data[..written]);
        }
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
