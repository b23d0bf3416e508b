//! The image file, written front to back with few calls.

use std::io::{Seek, SeekFrom, Write};

use super::error::Error;
use super::format::{BLOCK, BLOCK_LEN};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// Zeros that are worth a seek; shorter runs are written.
const SEEK: u64 = 64 << 10;

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// Buffered output that knows its position.
#[derive(Debug)]
pub(super) struct Output<W> {
    out: W,
    buffer: Vec<u8>,
    /// Position, buffered bytes included.
    at: u64,
}

impl<W: Write + Seek> Output<W> {
    /// Begins behind block 0, which is written at the end.
    pub(super) fn new(mut out: W) -> Result<Self, Error> {
        let begun = out.seek(SeekFrom::Start(BLOCK));
        begun.map_err(|cause| failed(0, cause))?;
        Ok(Self {
            out,
            buffer: Vec::with_capacity(BUFFER),
            at: BLOCK,
        })
    }

    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Address of the block at the position, which must be at the start of one.
    pub(super) fn block(&self) -> Result<u32, Error> {
        debug_assert!(self.at.is_multiple_of(BLOCK), "data begins at a block");
        let (value, limit) = (self.at / BLOCK, u64::from(u32::MAX) - 1); // u32::MAX is a hole
        u32::try_from(value)
            .ok()
            .filter(|block| u64::from(*block) <= limit)
            .ok_or(Error::TooLarge {
                field: "block address",
                value,
                limit,
            })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        if self.buffer.len() + data.len() > BUFFER {
            self.flush()?;
        }
        if data.len() >= BUFFER {
            let written = self.out.write_all(data);
            written.map_err(|cause| failed(self.at, cause))?;
        } else {
            self.buffer.extend_from_slice(data);
        }
        self.at += data.len() as u64;
        Ok(())
    }

    /// Writes zeros. Long runs become a hole of the image file; something must follow them.
    pub(super) fn zeros(&mut self, mut length: u64) -> Result<(), Error> {
        if length >= SEEK {
            self.flush()?;
            let limit = i64::MAX.cast_unsigned() - self.at;
            if length > limit {
                return Err(Error::TooLarge {
                    field: "length",
                    value: length,
                    limit,
                });
            }
            let moved = self.out.seek(SeekFrom::Start(self.at + length));
            self.at = moved.map_err(|cause| failed(self.at, cause))?;
            return Ok(());
        }
        while length > 0 {
            let step = length.min(BLOCK);
            self.write(&ZEROS[..usize::try_from(step).unwrap_or(BLOCK_LEN)])?;
            length -= step;
        }
        Ok(())
    }

    /// Fills the last block up.
    pub(super) fn pad(&mut self) -> Result<(), Error> {
        self.zeros(self.at.wrapping_neg() % BLOCK)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let at = self.at - self.buffer.len() as u64;
        let written = self.out.write_all(&self.buffer);
        written.map_err(|cause| failed(at, cause))?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes block 0 and gives the file back.
    pub(super) fn finish(mut self, first: &[u8]) -> Result<W, Error> {
        self.flush()?;
        let mut end = || {
            self.out.seek(SeekFrom::Start(0))?;
            self.out.write_all(first)?;
            self.out.flush()
        };
        end().map_err(|cause| failed(0, cause))?;
        Ok(self.out)
    }
}

fn failed(offset: u64, cause: std::io::Error) -> Error {
    let attempt = "write";
    Error::Io {
        attempt,
        offset,
        cause,
    }
}
