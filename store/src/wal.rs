//! The write-ahead log: commits that sled does not have yet, in the file [`NAME`].
//!
//! The whole file is written when it is created. Overwriting allocated blocks changes no size and no
//! extent, so one fdatasync(2) makes an entry durable without a commit of the file system's own
//! journal, and on a full disk. On btrfs that takes a file without copy-on-write; one made by an
//! older release is replaced when it is opened. The file has two halves: while one fills, the other
//! is checkpointed to sled, many commits at a time, and then overwritten.
//!
//! - An entry begins at a page of its own: no page is rewritten while it holds an acknowledged entry
//!   that sled does not have.
//! - Its checksum covers that of the entry before it in its half; the first one covers a random salt
//!   of the file. So remains of older entries, a partly written entry, and client's bytes that look
//!   like an entry all end the half.
//! - An entry that must not be durable before other files carries the length of the log with it, one
//!   byte more than before. A length is in the file system's journal, behind all earlier changes; so
//!   one fsync(2) makes all of them durable, and a file shorter than an entry demands ends the half.
//! - No page is ever zeros: those that were never used hold [`UNUSED`], so that a file that lost its
//!   content is not taken for one that had none.
//! - The last entries may not have been acknowledged. They count: their calls have no answer, and
//!   may have been carried out.

mod body;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use xxhash_rust::xxh3::Xxh3;

use crate::codec::RowKey;
use crate::file::{self, create_in_place, is_copied_on_write, replace_in_place};
use crate::folder;
use crate::sequence_file::SequenceFile;

pub(crate) use body::Body;

/// Rows to put (or, where there is no value, to delete) in one commit.
pub(crate) type Rows = BTreeMap<RowKey, Option<Vec<u8>>>;

/// File name in the database's folder.
pub(crate) const NAME: &str = folder::WAL;

const MAGIC: &[u8; 8] = b"layerdJ2";
/// Position in page 0 of the mark of a log in which pages that were never used hold [`UNUSED`].
const FILLED_AT: usize = MAGIC.len() + 16;
const FILLED: &[u8; 8] = b"noZeros1";
/// Repeated content of a page that was never used.
const UNUSED: &[u8; 32] = b"an unused page of layerd's log.\n";
const PAGE: usize = 4096;
/// Size of a half, in bytes.
const HALF: usize = 1024 * 1024;
/// Bytes of an entry's header: checksum, length of the body, number of the commit, length of the file.
const HEAD: usize = 16 + 4 + 8 + 8;

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// No id at or above this one was ever handed out.
    pub(crate) ids_below: u64,
    pub(crate) rows: Rows,
}

/// Reader of the log; may be used while it is written.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    file: Arc<File>,
    /// Input to the checksum of the first entry of a half.
    salt: u128,
    /// Set if no page of it is zeros.
    is_filled: bool,
}

/// Content of one half.
#[derive(Debug, Default)]
struct Half {
    entries: Vec<Entry>,
    /// Bytes of the half up to the end of the last valid entry.
    used: usize,
    /// Checksum of the last entry, and its number.
    sum: u128,
    last: u64,
    /// Set if an entry follows that demands a longer file.
    is_cut: bool,
    /// Trace of commits that are gone, if no crash leaves it.
    loss: Option<&'static str>,
}

impl Reader {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let file = file::open(&folder.join(NAME), options.read(true).write(true))?;
        let mut head = [0; FILLED_AT + FILLED.len()];
        file.read_exact_at(&mut head, 0)?;
        let Some((salt, mark)) = head.strip_prefix(MAGIC).map(|rest| rest.split_at(16)) else {
            return Err(invalid(
                "it is no write-ahead log, or one of an unknown format",
            ));
        };
        Ok(Self {
            salt: u128::from_le_bytes(salt.try_into().unwrap_or_default()),
            is_filled: mark == FILLED,
            file: Arc::new(file),
        })
    }

    /// Number that tells this log from others.
    pub(crate) fn id(&self) -> u64 {
        let bytes = self.salt.to_le_bytes();
        u64::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 8]))
    }

    /// Marks the pages of a log of an older release that were never used, durably.
    fn fill(&self) -> io::Result<()> {
        if self.is_filled {
            return Ok(());
        }
        let unused = UNUSED.repeat(PAGE / UNUSED.len());
        for half in 0..2 {
            let mut bytes = vec![0; HALF];
            self.file.read_exact_at(&mut bytes, offset(half, 0))?;
            for (page, content) in bytes.chunks(PAGE).enumerate() {
                if is_zeros(content) {
                    let at = offset(half, page * PAGE);
                    self.file.write_all_at(&unused, at)?;
                }
            }
        }
        self.file.sync_data()?;
        self.file.write_all_at(FILLED, FILLED_AT as u64)?;
        self.file.sync_data()
    }

    /// The commits after number `checkpointed`, in order and without a gap.
    pub(crate) fn after(&self, checkpointed: u64) -> io::Result<Vec<Entry>> {
        gapless(
            [self.half(0, checkpointed)?, self.half(1, checkpointed)?],
            checkpointed,
        )
    }

    /// Reads a half; of its entries those after number `checkpointed`.
    fn half(&self, half: usize, checkpointed: u64) -> io::Result<Half> {
        let mut bytes = vec![0; HALF];
        let length = self.file.metadata()?.len();
        let there = length.saturating_sub(offset(half, 0)).min(HALF as u64);
        let there = usize::try_from(there).unwrap_or(HALF);
        self.file
            .read_exact_at(&mut bytes[..there], offset(half, 0))?;
        let mut found = Half {
            sum: self.salt,
            loss: self.loss_in(&bytes, there),
            ..Half::default()
        };
        while let Some((entry, sum)) = parse(&bytes[found.used..], found.sum) {
            let size = (HEAD + entry.body.len()).next_multiple_of(PAGE);
            if entry.length > length {
                found.is_cut = true;
                let next = bytes.get(found.used + size..).unwrap_or_default();
                if parse(next, sum).is_some() {
                    found.loss = Some("the write-ahead log is shorter than acknowledged commits");
                }
                break;
            }
            found.used += size;
            found.sum = sum;
            found.last = entry.sequence;
            if entry.sequence <= checkpointed {
                continue;
            }
            let body = Body::decode(entry.body).ok();
            let Some(read) = body.and_then(|body| body.into_entry(entry.sequence)) else {
                return Err(invalid("an entry with a right checksum cannot be read"));
            };
            found.entries.push(read);
        }
        Ok(found)
    }

    /// Trace of a loss in a half of which so many bytes are `there`.
    fn loss_in(&self, half: &[u8], there: usize) -> Option<&'static str> {
        if there < HALF {
            return Some("the write-ahead log is cut short");
        }
        let is_lost = self.is_filled && half.chunks(PAGE).any(is_zeros);
        is_lost.then_some("the write-ahead log has pages of zeros, which were never written")
    }

    /// Makes the entries read so far durable again: after a failed write-back that was reported to an
    /// earlier process, the pages are clean in memory although they are not on the disk.
    fn write_again(&self, half: usize, used: usize) -> io::Result<()> {
        let mut bytes = vec![0; used];
        self.file.read_exact_at(&mut bytes, offset(half, 0))?;
        self.file.write_all_at(&bytes, offset(half, 0))?;
        self.file.sync_all()
    }
}

fn gapless(halves: [Half; 2], checkpointed: u64) -> io::Result<Vec<Entry>> {
    let [mut entries, more] = halves.map(|half| half.entries);
    entries.extend(more);
    entries.sort_by_key(|entry| entry.sequence);
    for (entry, wanted) in entries.iter().zip(checkpointed + 1..) {
        if entry.sequence != wanted {
            return Err(invalid(&format!(
                "commit {wanted} is missing in the write-ahead log"
            )));
        }
    }
    Ok(entries)
}

/// An entry as stored in the file.
struct Raw<'b> {
    sequence: u64,
    /// Least length of the file with which the entry counts.
    length: u64,
    body: &'b [u8],
}

/// The entry with which `bytes` begin, and its checksum; `None` if it does not continue the chain
/// after checksum `before`.
fn parse(bytes: &[u8], before: u128) -> Option<(Raw<'_>, u128)> {
    let (sum, rest) = bytes.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    let sum = u128::from_le_bytes(*sum);
    let raw = Raw {
        sequence: u64::from_le_bytes(*sequence),
        length: u64::from_le_bytes(*length),
        body,
    };
    (raw.checksum(before) == sum).then_some((raw, sum))
}

impl Raw<'_> {
    fn checksum(&self, before: u128) -> u128 {
        let mut hasher = Xxh3::new();
        hasher.update(&before.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(&self.length.to_le_bytes());
        hasher.update(self.body);
        hasher.digest128()
    }
}

/// Offset in the file of offset `at` in a half. The first page holds [`MAGIC`] and the salt.
fn offset(half: usize, at: usize) -> u64 {
    (PAGE + half * HALF + at) as u64
}

fn is_zeros(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The write-ahead log of one database, open for writing.
#[derive(Debug)]
pub(crate) struct Wal {
    reader: Reader,
    sequence_file: SequenceFile,
    /// The half that fills, and the offset of its next entry.
    half: usize,
    at: usize,
    /// Checksum of its last entry.
    sum: u128,
    /// Number of the last commit, in the log or in sled.
    last: u64,
    /// Number of the last commit in the other half.
    last_of_other_half: u64,
    length: u64,
    device: u64,
    loss: Option<&'static str>,
    /// Number of the last commit in the file when it was opened; 0 if there was none.
    found: u64,
    ends: [End; 2],
}

/// End of a half as it was found.
#[derive(Debug, Clone, Copy)]
struct End {
    used: usize,
    /// Set if the half has commits that sled lacks.
    is_newer: bool,
    is_cut: bool,
}

/// Writes an empty log to an empty file.
fn write_empty(file: &File) -> io::Result<()> {
    let mut head = vec![0; PAGE];
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    let salt = &mut head[MAGIC.len()..][..16];
    File::open("/dev/urandom")?.read_exact(salt)?;
    head[FILLED_AT..][..FILLED.len()].copy_from_slice(FILLED);
    file.write_all_at(&head, 0)?;
    let unused = UNUSED.repeat(HALF / UNUSED.len());
    file.write_all_at(&unused, offset(0, 0))?;
    file.write_all_at(&unused, offset(1, 0))
}

impl Wal {
    /// Creates an empty log in a folder. Durable when the caller has synced file and folder.
    pub(crate) fn create(folder: &Path) -> io::Result<()> {
        write_empty(&create_in_place(&folder.join(NAME))?)
    }

    /// Adds a log to a database of a release without one: whole and durable, or not at all.
    pub(crate) fn add(folder: &Path) -> io::Result<()> {
        replace_in_place(&folder.join(NAME), write_empty).map(drop)
    }

    /// Replaces the log in a folder by a copy without copy-on-write, if it is on btrfs and has it. Needs
    /// space for both. Durable on return.
    pub(crate) fn ensure_in_place(folder: &Path) -> io::Result<()> {
        let path = folder.join(NAME);
        if !is_copied_on_write(file::open(&path, File::options().read(true))?)? {
            return Ok(());
        }
        let log = fs::read(&path)?;
        replace_in_place(&path, |file| file.write_all_at(&log, 0)).map(drop)
    }

    /// Opens the one in a folder and changes nothing, to go on after its last entry once it was verified
    /// ([`begin`](Self::begin)), and answers the commits after number
    /// `checkpointed`, the last that sled has.
    pub(crate) fn open(folder: &Path, checkpointed: u64) -> io::Result<(Self, Vec<Entry>)> {
        let reader = Reader::open(folder)?;
        let halves = [reader.half(0, checkpointed)?, reader.half(1, checkpointed)?];
        let file = reader.file.metadata()?;
        let half = usize::from(halves[1].last > halves[0].last);
        let wal = Self {
            sequence_file: SequenceFile::open(&folder.with_file_name("sequence"))?,
            half,
            at: halves[half].used,
            sum: halves[half].sum,
            last: halves[half].last.max(checkpointed),
            last_of_other_half: halves[1 - half].last,
            length: file.len(),
            device: file.dev(),
            loss: halves[0].loss.or(halves[1].loss),
            found: halves[0].last.max(halves[1].last),
            ends: [0, 1].map(|half: usize| End {
                used: halves[half].used,
                is_newer: halves[half].last > checkpointed,
                is_cut: halves[half].is_cut,
            }),
            reader,
        };
        Ok((wal, gapless(halves, checkpointed)?))
    }

    /// Number of the last commit in the sequence file; `None` if that is garbled or new.
    pub(crate) fn noted(&self) -> Option<u64> {
        self.sequence_file.last
    }

    /// Number that tells this log from others.
    pub(crate) fn id(&self) -> u64 {
        self.reader.id()
    }

    /// Number of the last commit in the file when it was opened, whether sled has it or not; 0 for none.
    pub(crate) fn found(&self) -> u64 {
        self.found
    }

    /// Trace of lost commits, if the log has one that no crash leaves.
    pub(crate) fn loss(&self) -> Option<&'static str> {
        self.loss
    }

    /// Readies a log whose content was verified: entries are made durable again, one that does not count
    /// is erased, the sequence file has a number, and in a log of an older
    /// release the pages that were never used are marked. Durable on return.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        for (half, end) in self.ends.iter().enumerate() {
            if end.is_newer {
                self.reader.write_again(half, end.used)?;
            }
            if end.is_cut {
                // Some day the file reaches that length, and the entry must not count then.
                let at = offset(half, end.used);
                self.reader.file.write_all_at(&[0; HEAD], at)?;
                self.reader.file.sync_data()?;
            }
        }
        self.sequence_file.ensure(self.last)?;
        self.reader.fill()
    }

    /// Number of the last commit.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Number of the last commit in the other half: sled must have it before
    /// [`switch_half`](Self::switch_half).
    pub(crate) fn last_of_other_half(&self) -> u64 {
        self.last_of_other_half
    }

    pub(crate) fn has_room(&self, body: &Body) -> bool {
        self.at + body.size() <= HALF
    }

    /// True if less than a quarter of the half is free, so that a large batch may not fit.
    pub(crate) fn is_half_nearly_full(&self) -> bool {
        self.at + HALF / 4 > HALF
    }

    /// Device number, as in stat(2), of its file system.
    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// Writes the next commit and waits until it is durable: one fdatasync(2), or with `after_files` one
    /// fsync(2), which makes all earlier changes of the file system durable before it. There must be
    /// room for it. After an error the content of the file is unknown, and it must not be used again.
    pub(crate) fn append(&mut self, body: &Body, after_files: bool) -> io::Result<()> {
        if after_files {
            self.grow()?;
        }
        let encoded = body.encode_to_vec();
        let raw = Raw {
            sequence: self.last + 1,
            length: self.length,
            body: &encoded,
        };
        let sum = raw.checksum(self.sum);
        let size = u32::try_from(encoded.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(body.size());
        bytes.extend(sum.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(raw.sequence.to_le_bytes());
        bytes.extend(raw.length.to_le_bytes());
        bytes.extend(&encoded);
        let sequence = raw.sequence;
        let file = &self.reader.file;
        file.write_all_at(&bytes, offset(self.half, self.at))?;
        if after_files {
            file.sync_all()?;
        } else {
            file.sync_data()?;
        }
        self.at += body.size();
        self.sum = sum;
        self.note(sequence)
    }

    /// Makes all changes of the file system until now durable.
    pub(crate) fn pass_barrier(&mut self) -> io::Result<()> {
        self.grow()?;
        self.reader.file.sync_all()
    }

    fn grow(&mut self) -> io::Result<()> {
        self.length += 1;
        self.reader.file.set_len(self.length)
    }

    /// Goes on in the other half, all of which must be in sled.
    pub(crate) fn switch_half(&mut self) {
        self.half = 1 - self.half;
        self.at = 0;
        self.sum = self.reader.salt;
        self.last_of_other_half = self.last;
    }

    /// Writes the number of a durable commit to the sequence file.
    pub(crate) fn note(&mut self, sequence: u64) -> io::Result<()> {
        self.last = sequence;
        self.sequence_file.note(sequence)
    }

    /// Makes the sequence file durable, so that the next opening can detect a lost tail.
    pub(crate) fn seal(&self) -> io::Result<()> {
        self.sequence_file.sync()
    }
}

#[cfg(test)]
mod tests;
