//! State that callers, writer and exporter share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::model::{Key, LayerId};
use crate::published::Published;
use crate::records::Records;

/// Files on which records rely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Those of layers.
    Layers,
    /// Those of volumes, which may be on another file system.
    Volumes,
}

impl Files {
    pub(crate) const ALL: [Self; 2] = [Self::Layers, Self::Volumes];
}

/// Makes the files durable on which records written after it rely.
pub(crate) type Barrier =
    Box<dyn Fn(Files) -> Result<(), Arc<dyn std::error::Error + Send + Sync>> + Send>;

/// Options of [`Store::open`](crate::Store::open).
pub struct Options {
    /// Called before records that rely on files are written, once for all waiting calls. It must make
    /// these files durable.
    pub barrier: Barrier,
    /// Device number, as in stat(2), of the file system whose journal orders those files: any later
    /// change on it, once durable, makes them durable too. If the records are on it, the barrier is
    /// not called. `None` if there is no such file system.
    pub shared_journal_device: Option<u64>,
    /// Ids of all directories on disk, in any order. Ids are handed out above all of them, also
    /// if the records are older than the directories, as after a restored export.
    pub ids_on_disk: Vec<u64>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

/// State shared by callers, writer and exporter.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) records: ArcSwap<Records>,
    /// The next id to hand out.
    pub(crate) next_id: AtomicU64,
    /// First id that is not reserved on disk.
    pub(crate) ids_below: AtomicU64,
    /// Set if the last write failed.
    pub(crate) failed: AtomicBool,
    /// Set once the database hangs; only a new process helps.
    pub(crate) hung: AtomicBool,
    /// When the writer began what it writes now; none while it has nothing to write.
    pub(crate) writing: Mutex<Option<Instant>>,
    /// Signals publications to the exporter.
    pub(crate) published: Published,
    pub(crate) claims: Mutex<BTreeMap<Key, LayerId>>,
    pub(crate) clock: Clock,
}

impl Shared {
    /// Takes in `ids` the next one, and the first that is not reserved.
    pub(crate) fn new(records: Records, ids: (u64, u64), clock: Clock) -> Self {
        let published = Published::default();
        published.note(records.sequence());
        Self {
            records: ArcSwap::from_pointee(records),
            next_id: AtomicU64::new(ids.0),
            ids_below: AtomicU64::new(ids.1),
            failed: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            writing: Mutex::default(),
            published,
            claims: Mutex::default(),
            clock,
        }
    }

    pub(crate) fn has_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire)
    }

    /// Notes when the writer began what it writes; none when it has nothing to write.
    pub(crate) fn writing_since(&self, begun: Option<Instant>) {
        *self.writing.lock() = begun;
    }

    /// Makes newer records visible to readers.
    pub(crate) fn publish(&self, records: Records) {
        let sequence = records.sequence();
        self.records.store(Arc::new(records));
        self.published.note(sequence);
    }
}
