//! Content of regular files on its way into the image.

use std::io::{Seek, Write};

use super::error::Error;
use super::format::{BLOCK, BLOCK_BITS};
use super::output::Output;
use super::tree::{Body, Run};

/// Binary logarithm of the blocks in the smallest chunk, of 64 KiB.
const CHUNK_BITS: u8 = 4;

/// The largest that the format has.
const LARGEST_CHUNK_BITS: u8 = 31;

/// Chunks of one file up to 512 PiB: each takes 4 bytes of metadata, hole or not.
const MOST_CHUNKS: u64 = 1 << 16;

/// State of one file. `at` is what came so far; all positions are within the file.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) size: u64,
    at: u64,
    /// Where the part begins that may lie beside the inode, and that part.
    tail_from: u64,
    tail: Vec<u8>,
    bits: u8,
    /// Chunks that are complete, or written in part. What is in none is a hole, up to `at`.
    runs: Vec<Run>,
    has_holes: bool,
    /// Zeros at the start of the current chunk that were not written, and whether more of it was.
    pending: u64,
    begun: bool,
}

impl Content {
    pub(super) fn new(size: u64, inline: u16, position: u64) -> Result<Self, Error> {
        debug_assert!(position.is_multiple_of(BLOCK), "files begin at a block");
        let limit = i64::MAX.cast_unsigned();
        if size > limit {
            return Err(Error::TooLarge {
                field: "length of a file",
                value: size,
                limit,
            });
        }
        let over = size % BLOCK;
        let inlined = if over <= inline.into() { over } else { 0 };
        let is_enough = |bits: &u8| (size >> (*bits + BLOCK_BITS)) < MOST_CHUNKS;
        let mut bits = CHUNK_BITS..=LARGEST_CHUNK_BITS;
        Ok(Self {
            size,
            at: 0,
            tail_from: size - inlined,
            tail: Vec::new(),
            bits: bits.find(is_enough).unwrap_or(LARGEST_CHUNK_BITS),
            runs: Vec::new(),
            has_holes: false,
            pending: 0,
            begun: false,
        })
    }

    fn chunk(&self) -> u64 {
        1 << (self.bits + BLOCK_BITS)
    }

    fn take(&mut self, length: u64) -> Result<(), Error> {
        if length <= self.size - self.at {
            return Ok(());
        }
        Err(Error::Length {
            wanted: self.size,
            found: self.at,
        })
    }

    pub(super) fn write<W: Write + Seek>(
        &mut self,
        out: &mut Output<W>,
        mut data: &[u8],
    ) -> Result<(), Error> {
        self.take(data.len() as u64)?;
        while !data.is_empty() {
            if self.at >= self.tail_from {
                self.tail.extend_from_slice(data);
                self.at += data.len() as u64;
                return Ok(());
            }
            let (piece, rest) = data.split_at(self.room(data.len() as u64));
            self.piece(out, piece)?;
            data = rest;
        }
        Ok(())
    }

    /// Bytes up to the end of the chunk or the start of the tail, `most` at most.
    fn room(&self, most: u64) -> usize {
        let chunk_end = self.at - self.at % self.chunk() + self.chunk();
        let room = chunk_end.min(self.tail_from) - self.at;
        usize::try_from(room.min(most)).unwrap_or(usize::MAX)
    }

    /// Bytes of one chunk.
    fn piece<W: Write + Seek>(&mut self, out: &mut Output<W>, piece: &[u8]) -> Result<(), Error> {
        if !self.begun && self.size >= self.chunk() && is_zero(piece) {
            self.pending += piece.len() as u64;
        } else {
            self.begin(out)?;
            out.write(piece)?;
        }
        self.advance(piece.len() as u64);
        Ok(())
    }

    pub(super) fn hole<W: Write + Seek>(
        &mut self,
        out: &mut Output<W>,
        mut length: u64,
    ) -> Result<(), Error> {
        self.take(length)?;
        while length > 0 {
            if self.at >= self.tail_from {
                // The tail is shorter than a block.
                let more = usize::try_from(length).unwrap_or(0);
                self.tail.resize(self.tail.len() + more, 0);
                self.at += length;
                return Ok(());
            }
            let step = self.room(length) as u64;
            if self.begun {
                out.zeros(step)?;
            } else {
                self.pending += step;
            }
            self.advance(step);
            length -= step;
        }
        Ok(())
    }

    /// Makes the current chunk one with content.
    fn begin<W: Write + Seek>(&mut self, out: &mut Output<W>) -> Result<(), Error> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let block = out.block()?;
        let number = self.at / self.chunk();
        let first = u32::try_from(number).map_err(|_| Error::TooLarge {
            field: "number of a chunk",
            value: number,
            limit: u32::MAX.into(),
        })?;
        match self.runs.last_mut() {
            Some(run)
                if run.first + run.count == first
                    && u64::from(block - run.block) == u64::from(run.count) << self.bits =>
            {
                run.count += 1;
            }
            _ => self.runs.push(Run {
                first,
                count: 1,
                block,
            }),
        }
        out.zeros(std::mem::take(&mut self.pending))
    }

    /// Goes on to the next chunk where one ends.
    fn advance(&mut self, length: u64) {
        self.at += length;
        if self.at.is_multiple_of(self.chunk()) {
            self.has_holes |= !self.begun;
            (self.begun, self.pending) = (false, 0);
        }
    }

    pub(super) fn finish<W: Write + Seek>(mut self, out: &mut Output<W>) -> Result<Body, Error> {
        if self.at < self.size {
            return Err(Error::Length {
                wanted: self.size,
                found: self.at,
            });
        }
        if self.has_holes || self.pending > 0 {
            return self.chunks(out);
        }
        out.pad()?;
        let block = self.runs.first().map_or(0, |run| run.block);
        let tail = self.tail.into();
        Ok(Body::Flat { block, tail })
    }

    /// Files with holes have no tail beside the inode.
    fn chunks<W: Write + Seek>(&mut self, out: &mut Output<W>) -> Result<Body, Error> {
        let tail = std::mem::take(&mut self.tail);
        self.at = self.tail_from;
        if !tail.is_empty() {
            self.piece(out, &tail)?;
        }
        out.pad()?;
        self.coarsen();
        Ok(Body::Chunks {
            bits: self.bits,
            runs: std::mem::take(&mut self.runs).into(),
        })
    }

    /// Doubles the chunks as long as all that is in the file lies within whole ones.
    fn coarsen(&mut self) {
        let end = |run: &Run| run.first + run.count;
        while self.bits < LARGEST_CHUNK_BITS && self.size > self.chunk() {
            let chunks = self.size.div_ceil(self.chunk());
            let fits = |run: &Run| {
                run.first.is_multiple_of(2)
                    && (end(run).is_multiple_of(2) || u64::from(end(run)) == chunks)
            };
            if !self.runs.iter().all(fits) {
                return;
            }
            for run in &mut self.runs {
                (run.first, run.count) = (run.first / 2, run.count.div_ceil(2));
            }
            self.bits += 1;
        }
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Most pieces end the search in their first block.
    let mut blocks = data.chunks(64);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
