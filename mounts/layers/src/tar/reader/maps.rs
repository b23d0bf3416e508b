//! The maps of sparse files that lie in the stream.

use std::io::Read;

use crate::error::Error;
use crate::tar::header::{self, Header};
use crate::tar::reader::Reader;
use crate::tar::sparse::{self, Pieces};
use crate::tar::{BLOCK, pax};

impl<R: Read> Reader<R> {
    /// The map in an old GNU header and the blocks that continue it.
    pub(super) fn old_pieces(&mut self, header: &Header, at: u64) -> Result<Pieces, Error> {
        let bad = || Error::Malformed {
            offset: at,
            problem: "a bad map of a sparse file",
        };
        let mut pieces = sparse::of_header(header).ok_or_else(bad)?;
        let mut more = header.0[header::GNU_MORE] != 0;
        while more {
            let block = Header(self.block()?);
            let (next, further) = sparse::of_extension(&block).ok_or_else(bad)?;
            pieces.extend(next);
            more = further;
            if pieces.len() > sparse::MOST_PIECES {
                return Err(bad());
            }
        }
        Ok(pieces)
    }

    /// The map at the start of the content: numbers, one a line, filled up to a whole block.
    pub(super) fn pieces_in_content(&mut self, at: u64) -> Result<Pieces, Error> {
        let bad = || Error::Malformed {
            offset: at,
            problem: "a bad map of a sparse file",
        };
        let mut numbers = Vec::new();
        let mut wanted = 1;
        let mut digits = Vec::with_capacity(20);
        while numbers.len() < wanted {
            self.left = self.left.checked_sub(BLOCK as u64).ok_or_else(bad)?;
            for byte in self.block()? {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(bad());
                    }
                    continue;
                }
                numbers.push(pax::decimal(&digits).ok_or_else(bad)?);
                digits.clear();
                if numbers.len() == 1 {
                    let pieces = usize::try_from(numbers[0]).map_err(|_| bad())?;
                    let fits = pieces <= sparse::MOST_PIECES;
                    wanted = if fits {
                        1 + 2 * pieces
                    } else {
                        return Err(bad());
                    };
                }
                if numbers.len() == wanted {
                    break; // zeros follow
                }
            }
        }
        let pairs = numbers[1..].chunks_exact(2);
        Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
    }
}
