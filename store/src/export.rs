//! Exports: a second copy of the records, in a file that needs no database to read.
//!
//! ```text
//! "layerd export 1\n"
//! rows:     table (1 byte), length of key (4, little-endian), length of value (4), key, value
//! trailer:  255, length of the Meta row (4), the Meta row, CRC-32 of everything before it (4)
//! ```
//!
//! Rows are the database's own, each with its checksum; the trailer holds their number and digest,
//! so a cut, garbled or mixed-up file is recognised. A file appears by rename, whole and durable,
//! as `export.<sequence>`; the two newest are kept.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::call_phase;
use crate::codec::{self, Assembly, Meta, Table, VALUE_MAX, row_hash};
use crate::error::Error;
use crate::file;
use crate::folder::io_error;
use crate::item::Item;
use crate::model::{NAME_MAX, Record, Timestamp};
use crate::records::Records;
use crate::shared::Shared;
use crate::volume::Volume;

const MAGIC: &[u8] = b"layerd export 1\n";
const TRAILER: u8 = 255;
const PREFIX: &str = "export.";
const GENERATIONS: usize = 2;
/// Time without a change after which an export begins.
const QUIET: Duration = Duration::from_secs(2);
/// Time after which an export begins although changes go on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after an export, in multiples of its duration.
const REST: u32 = 20;

/// Records of one export.
#[derive(Debug)]
pub struct Export {
    /// Its file.
    pub path: PathBuf,
    /// Modification time of the file.
    pub taken: Timestamp,
    pub(crate) items: Vec<Item>,
    pub(crate) meta: Meta,
}

impl Export {
    /// Reads and verifies an export of a name that a person gave, which may be that of a pipe.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Damaged`] if its checksums or counts do not match.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::read_from(File::open(path).map_err(io_error("open", path))?, path)
    }

    /// As [`read`](Self::read), for one in the store's folder. What has its name and is no file is damage.
    ///
    /// # Errors
    /// As there.
    pub fn read_own(path: &Path) -> Result<Self, Error> {
        if let Some(kind) = file::stranger(path) {
            return Err(Error::Damaged {
                path: path.to_owned(),
                what: format!("it is {kind}, and no file"),
            });
        }
        let opened = file::open(path, File::options().read(true));
        Self::read_from(opened.map_err(io_error("open", path))?, path)
    }

    fn read_from(file: File, path: &Path) -> Result<Self, Error> {
        let taken = file
            .metadata()
            .and_then(|data| data.modified())
            .map(Timestamp::from);
        let parsed = Reader::new(BufReader::new(file)).read_all();
        let (items, meta) = parsed.map_err(|what| Error::Damaged {
            path: path.to_owned(),
            what,
        })?;
        Ok(Self {
            path: path.to_owned(),
            taken: taken.map_err(io_error("read", path))?,
            items,
            meta,
        })
    }

    /// Number of its last commit.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.meta.sequence
    }

    /// All snapshots, removed ones included.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.items.iter().filter_map(|item| match item {
            Item::Snapshot(record) => Some(record.as_ref()),
            _ => None,
        })
    }

    /// All volumes, removed ones included.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.items.iter().filter_map(|item| match item {
            Item::Volume(volume) => Some(volume.as_ref()),
            _ => None,
        })
    }

    /// The newest whole export in a store's folder. Damaged ones are skipped with a warning.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn newest(folder: &Path) -> Result<Option<Self>, Error> {
        for (_, path) in list(folder)?.into_iter().rev() {
            match Self::read_own(&path) {
                Ok(export) => return Ok(Some(export)),
                Err(cause) => warn!(
                    error = &cause as &dyn std::error::Error,
                    "an export is of no use"
                ),
            }
        }
        Ok(None)
    }
}

/// Sequence number and time of the newest export in a store's folder that is not above `up_to`,
/// whole or not; `None` without one or if the folder cannot be read. Reads the folder only.
#[must_use]
pub fn newest_export(folder: &Path, up_to: u64) -> Option<(u64, Timestamp)> {
    let mut all = list(folder).ok()?;
    all.retain(|(sequence, _)| *sequence <= up_to);
    let (sequence, path) = all.pop()?;
    let written = fs::metadata(path).and_then(|data| data.modified()).ok()?;
    Some((sequence, Timestamp::from(written)))
}

/// Exports in a store's folder with their sequence numbers, oldest first.
pub(crate) fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let path = entry.map_err(io_error("read", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest whole export above a number. Broken ones above it are logged: nothing replaces them.
pub(crate) fn newer_whole(folder: &Path, than: u64) -> Result<Option<(u64, PathBuf)>, Error> {
    let newer = list(folder)?.into_iter().rev();
    for (sequence, path) in newer.take_while(|(sequence, _)| *sequence > than) {
        match Export::read_own(&path) {
            Ok(export) if export.meta.sequence > than => return Ok(Some((sequence, path))),
            Ok(_) => {}
            Err(cause) => warn!(
                error = &cause as &dyn std::error::Error,
                "an export is of no use"
            ),
        }
    }
    Ok(None)
}

/// Writes all of `records` to `target`, which appears whole and durable or not at all.
pub(crate) fn write(target: &Path, records: &Records, ids_below: u64) -> Result<(), Error> {
    file::replace(target, |file| write_to(file, records, ids_below).map(drop))
        .map_err(io_error("write the export", target))
}

/// Writes all records to `sink` and returns it.
pub(crate) fn write_to<W: Write>(sink: W, records: &Records, ids_below: u64) -> io::Result<W> {
    let mut out = Summed {
        inner: BufWriter::new(sink),
        crc: crc32fast::Hasher::new(),
    };
    let (mut meta, mut digest) = (Meta::default(), 0u128);
    out.write_all(MAGIC)?;
    for item in records.items() {
        for ((table, key), value) in codec::rows(&item) {
            digest = digest.wrapping_add(row_hash(table, &key, &value));
            meta.rows += 1;
            out.write_all(&[table as u8])?;
            out.write_all(&length(&key))?;
            out.write_all(&length(&value))?;
            out.write_all(&key)?;
            out.write_all(&value)?;
        }
    }
    meta.sequence = records.sequence();
    meta.ids_below = ids_below;
    meta.set_digest(digest);
    let row = meta.to_row();
    out.write_all(&[TRAILER])?;
    out.write_all(&length(&row))?;
    out.write_all(&row)?;
    let crc = out.crc.finalize();
    out.inner.write_all(&crc.to_le_bytes())?;
    out.inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len())
        .expect("rows are a few KiB")
        .to_le_bytes()
}

struct Summed<W: Write> {
    inner: BufWriter<W>,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.crc.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Reader<R> {
    inner: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Reader<R> {
    fn new(inner: R) -> Self {
        let crc = crc32fast::Hasher::new();
        Self { inner, crc }
    }

    fn read_all(mut self) -> Result<(Vec<Item>, Meta), String> {
        if self.bytes(MAGIC.len())? != MAGIC {
            return Err("it is no export, or one of an unknown format".into());
        }
        let mut assembly = Assembly::default();
        let (mut rows, mut digest) = (0u64, 0u128);
        loop {
            let [tag] = self.array()?;
            if tag == TRAILER {
                break;
            }
            let table = *Table::ALL
                .get(usize::from(tag))
                .ok_or("a table is unknown")?;
            let (key, value) = (self.length(NAME_MAX)?, self.length(VALUE_MAX)?);
            let (key, value) = (self.bytes(key)?, self.bytes(value)?);
            rows += 1;
            digest = digest.wrapping_add(row_hash(table, &key, &value));
            assembly
                .add(table, &key, &value)
                .map_err(|bad| bad.to_string())?;
        }
        let meta = self.trailer()?;
        if (meta.rows, meta.digest()) != (rows, digest) {
            return Err("its rows are not those that were written".into());
        }
        let items = assembly.finish().map_err(|bad| bad.to_string())?;
        Ok((items, meta))
    }

    fn trailer(&mut self) -> Result<Meta, String> {
        let size = self.length(VALUE_MAX)?;
        let row = self.bytes(size)?;
        let crc = self.crc.clone().finalize();
        if u32::from_le_bytes(self.array()?) != crc {
            return Err("the checksum of the file is wrong".into());
        }
        Ok(Meta::from_row(&row)?)
    }

    fn length(&mut self, most: usize) -> Result<usize, String> {
        let size = u32::from_le_bytes(self.array()?) as usize;
        if size > most {
            Err("a length is impossible".into())
        } else {
            Ok(size)
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        let read = self.inner.read_exact(bytes);
        read.map_err(|cause| format!("it ends early: {cause}"))?;
        self.crc.update(bytes);
        Ok(())
    }
}

/// Background thread that writes an export after each quiet period and at the end.
#[derive(Debug)]
pub(crate) struct Exporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    pub(crate) fn start(folder: &Path, shared: Arc<Shared>) -> io::Result<Self> {
        let work = Work {
            folder: folder.to_owned(),
            shared: shared.clone(),
            exported: None,
        };
        let thread = thread::Builder::new()
            .name("store-exporter".into())
            .spawn(move || work.run())?;
        let thread = Some(thread);
        Ok(Self { shared, thread })
    }
}

/// Writes the last export, so it must be dropped after the writer.
impl Drop for Exporter {
    fn drop(&mut self) {
        call_phase::enter("exporting the records");
        self.shared.published.end();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            warn!("the thread that exports the records panicked");
        }
    }
}

/// Least time between an export that took `took` and the next one.
fn rest_after(took: Duration) -> Duration {
    took * REST
}

struct Work {
    folder: PathBuf,
    shared: Arc<Shared>,
    /// Sequence of the newest export.
    exported: Option<u64>,
}

impl Work {
    fn run(mut self) {
        self.exported = self.newest_whole();
        while self
            .shared
            .published
            .wait_beyond(self.exported.unwrap_or(0))
        {
            self.wait_for_quiet();
            let began = Instant::now();
            self.export();
            self.shared.published.rest(rest_after(began.elapsed()));
        }
        if self.exported != Some(self.shared.records.load().sequence()) {
            self.export();
        }
    }

    fn wait_for_quiet(&self) {
        let began = Instant::now();
        loop {
            let seen = self.shared.records.load().sequence();
            self.shared.published.rest(QUIET);
            let quiet = self.shared.records.load().sequence() == seen;
            if quiet || began.elapsed() > PATIENCE || self.shared.published.has_ended() {
                return;
            }
        }
    }

    /// Number of the newest export that is whole and no newer than the records. One with a higher
    /// number is of another history of them, or no export at all, and keeps none from being written.
    fn newest_whole(&self) -> Option<u64> {
        let last = self.shared.records.load().sequence();
        let all = list(&self.folder).ok()?.into_iter().rev();
        let mut whole =
            all.filter(|(sequence, path)| *sequence <= last && Export::read_own(path).is_ok());
        whole.next().map(|(sequence, _)| sequence)
    }

    /// Writes an export. A failure is logged and leaves the older ones; the next change is the next try.
    fn export(&mut self) {
        let records = self.shared.records.load_full();
        let ids_below = self.shared.ids_below.load(Ordering::Acquire);
        let sequence = records.sequence();
        let target = self.folder.join(format!("{PREFIX}{sequence}"));
        self.exported = Some(sequence);
        match write(&target, &records, ids_below).and_then(|()| self.drop_old(sequence)) {
            Ok(()) => debug!(sequence, "exported the records"),
            Err(cause) => warn!(
                error = &cause as &dyn std::error::Error,
                "the records were not exported"
            ),
        }
    }

    /// Deletes all but the newest of the exports up to a number. Those above it are left to a person:
    /// they may hold what the records lack.
    fn drop_old(&self, newest: u64) -> Result<(), Error> {
        let mut all = list(&self.folder)?;
        all.retain(|(sequence, _)| *sequence <= newest);
        let old = all.len().saturating_sub(GENERATIONS);
        for (_, path) in &all[..old] {
            fs::remove_file(path).map_err(io_error("remove", path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::rest_after;

    #[test]
    fn exports_take_a_twentieth_of_the_time() {
        let took = Duration::from_millis(50);
        assert_eq!(rest_after(took), Duration::from_secs(1));
    }
}
