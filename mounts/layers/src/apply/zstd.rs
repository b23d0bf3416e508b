//! Zstandard, frame by frame, with a bound on the memory that a frame asks for.
//!
//! A decoder keeps a window of what it has written, as large as the frame says. Windows above
//! [`LARGE`] are rare, so only one layer of the process at a time has one.

use std::io::{self, BufRead, ErrorKind, Read};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use zstd::stream::raw::{DParameter, Decoder, Operation};

use crate::progress::Progress;

/// Bytes of a window up to which frames of any number of layers are decoded at once.
const LARGE: u64 = 128 << 20;

/// The largest window that the format can express in 31 bits; ours is the limit that counts.
const MOST_LOG: u32 = 31;

/// Bytes of the longest frame header.
const HEADER: u64 = 18;

/// Interval at which a layer waiting for a large window checks for cancellation.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A frame whose window is larger than allowed, as the cause of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("a Zstandard frame with a window of {window} bytes")]
pub(super) struct TooWide {
    pub(super) window: u64,
}

/// Decodes all frames of a stream; skippable ones are passed over.
pub(super) struct Frames<'a, R> {
    decoder: Decoder<'static>,
    source: R,
    /// Bytes of the source that were read to look at a header, and how many of them are decoded.
    head: Vec<u8>,
    decoded: usize,
    within: bool,
    turn: Option<Turn>,
    most_window: u64,
    progress: &'a dyn Progress,
}

impl<'a, R: BufRead> Frames<'a, R> {
    pub(super) fn new(source: R, most_window: u64, progress: &'a dyn Progress) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MOST_LOG))?;
        Ok(Self {
            decoder,
            source,
            head: Vec::new(),
            decoded: 0,
            within: false,
            turn: None,
            most_window,
            progress,
        })
    }

    /// Looks at the header of the next frame; false at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        self.head.drain(..self.decoded);
        self.decoded = 0;
        let missing = HEADER.saturating_sub(self.head.len() as u64);
        (&mut self.source)
            .take(missing)
            .read_to_end(&mut self.head)?;
        if self.head.is_empty() {
            return Ok(false);
        }
        let window = window(&self.head).unwrap_or(0); // the decoder says what is wrong
        if window > self.most_window {
            return Err(io::Error::other(TooWide { window }));
        }
        if window > LARGE {
            self.turn = Some(Turn::wait(self.progress)?);
        }
        self.within = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            let from_head = self.decoded < self.head.len();
            let input = match from_head {
                true => &self.head[self.decoded..],
                false => self.source.fill_buf()?,
            };
            let has_ended = input.is_empty();
            let status = self.decoder.run_on_buffers(input, out)?;
            match from_head {
                true => self.decoded += status.bytes_read,
                false => self.source.consume(status.bytes_read),
            }
            if status.remaining == 0 {
                self.decoder.reinit()?;
                self.within = false;
                self.turn = None;
            }
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if has_ended && self.within {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "incomplete frame"));
            }
        }
    }
}

/// Bytes of the window that a frame needs; `None` if this is no header of a frame with content.
/// See RFC 8878, 3.1.1.1.
fn window(head: &[u8]) -> Option<u64> {
    let rest = head.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (descriptor, rest) = rest.split_first()?;
    let is_single = descriptor & 0x20 != 0;
    if !is_single {
        let byte = *rest.first()?;
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = rest.get(dictionary..dictionary + size)?;
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(field);
    let more = if size == 2 { 256 } else { 0 };
    Some(u64::from_le_bytes(bytes).saturating_add(more))
}

static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

/// The right to a large window; given back when dropped.
struct Turn;

impl Turn {
    fn wait(progress: &dyn Progress) -> io::Result<Self> {
        let mut taken = TAKEN.lock();
        while *taken {
            if progress.cancelled() {
                return Err(io::Error::other("not wanted any more"));
            }
            GIVEN_BACK.wait_for(&mut taken, ASK_AGAIN);
        }
        *taken = true;
        Ok(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock() = false;
        GIVEN_BACK.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn windows_are_read_from_frame_headers() {
        let frame = |rest: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd][..], rest].concat();
        let table: [(&[u8], Option<u64>); 8] = [
            (&[0x00, 0x00], Some(1 << 10)),
            (&[0x04, 19 << 3], Some(1 << 29)),
            (&[0x00, 17 << 3 | 4], Some((1 << 27) + (1 << 26))),
            (&[0x20, 200], Some(200)),
            (&[0x61, 7, 0x10, 0x27], Some(10_256)),
            (&[0xa3, 1, 2, 3, 4, 0, 0, 0, 0x40], Some(1 << 30)),
            (&[0xe0, 0, 0, 0, 0, 1, 0, 0, 0], Some(1 << 32)),
            (&[0xe0, 0, 0], None),
        ];
        for (rest, expected) in table {
            assert_eq!(window(&frame(rest)), expected, "{rest:x?}");
        }
        assert_eq!(window(b"\x50\x2a\x4d\x18\x01\0\0\0x"), None);
    }
}
