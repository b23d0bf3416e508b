//! The log of what a file system sent to its disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// One event, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// `length` bytes at `offset` were written; they stand in the log's data at `stored`.
    Write {
        offset: u64,
        length: u64,
        stored: u64,
    },
    /// `length` bytes at `offset` became zero.
    Zero { offset: u64, length: u64 },
    /// The disk's cache was emptied.
    Flush,
    /// The test noted something.
    Mark(u64),
}

/// Events, and beside them the written bytes in a file.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
    data: File,
    length: u64,
}

impl Log {
    /// An empty log that keeps written bytes in `data`.
    pub(crate) fn new(data: File) -> Self {
        Self {
            events: Vec::new(),
            data,
            length: 0,
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, self.length)?;
        let length = bytes.len() as u64;
        self.events.push(Event::Write {
            offset,
            length,
            stored: self.length,
        });
        self.length += length;
        Ok(())
    }

    /// Repeats the part of an event that lies in `range` of the disk on `disk`.
    pub(crate) fn replay(&self, event: Event, range: &Range<u64>, disk: &File) -> io::Result<()> {
        let (offset, length) = match event {
            Event::Write { offset, length, .. } | Event::Zero { offset, length } => {
                (offset, length)
            }
            Event::Flush | Event::Mark(_) => return Ok(()),
        };
        let start = offset.max(range.start);
        let end = (offset + length).min(range.end);
        if start >= end {
            return Ok(());
        }
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        if let Event::Write { stored, .. } = event {
            self.data
                .read_exact_at(&mut bytes, stored + (start - offset))?;
        }
        disk.write_all_at(&bytes, start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_an_event_is_replayed() {
        let mut log = Log::new(tempfile::tempfile().unwrap());
        log.write(100, b"skipped").unwrap();
        log.write(10, b"abcdef").unwrap();
        log.events.push(Event::Zero {
            offset: 12,
            length: 2,
        });
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(b"................", 0).unwrap();
        log.replay(log.events[1], &(11..14), &disk).unwrap();
        log.replay(log.events[2], &(13..u64::MAX), &disk).unwrap();
        let mut seen = [0; 16];
        disk.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"...........bc\0..");
    }
}
