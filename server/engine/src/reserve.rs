//! The reserve: a share of the bytes and inodes of a file system with data that nothing new may take.
//!
//! One statfs(2) a call that makes something decides; calls that give space back, finish what is there
//! or read are never refused. What clients write through mounts is not counted here: the reserve is what
//! keeps a node alive, and limits of volumes are what keep one writer from it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use layerd_mounts::Space;
use layerd_store::Usage;
use metrics::counter;
use tracing::{info, warn};

use crate::events::Topic;
use crate::reserved::{Level, Reserved};
use crate::{Error, Root};

/// Number of the largest users of the disk that a refusal names.
const NAMED: usize = 3;
/// Bytes after which a call under way looks at the disk again.
const LOOK_BYTES: u64 = 64 << 20;
/// Names after which it does.
const LOOK_FILES: u64 = 8192;

/// Part of the data directory; each may be a file system of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// The data directory itself.
    Layers,
    /// Its folder `volumes`.
    Volumes,
}

/// What is remembered of the reserve between calls.
#[derive(Debug)]
pub(crate) struct Reserve {
    percent: u64,
    /// Set if volumes are on a file system of their own.
    is_apart: bool,
    /// The last level of each area, by its place in [`Level::ALL`].
    levels: [AtomicU8; 2],
}

impl Reserve {
    /// Looks whether `volumes` below `root` is a file system of its own.
    pub(crate) fn open(root: &Path, percent: u64) -> Self {
        let device = |path: &Path| fs::metadata(path).ok().map(|folder| folder.dev());
        let devices = [device(root), device(&root.join("volumes"))];
        Self {
            percent,
            is_apart: matches!(devices, [Some(own), Some(volumes)] if own != volumes),
            levels: Default::default(),
        }
    }

    /// Place of an area among `levels`: that of the data directory unless it is apart.
    fn index(&self, area: Area) -> usize {
        usize::from(area == Area::Volumes && self.is_apart)
    }
}

impl Root {
    /// Refuses to make something new in an area whose reserve is reached. One statfs(2), or nothing
    /// where there is no reserve; a refusal costs a walk through memory as well. Where the disk cannot
    /// be looked at, the call goes on and meets that itself.
    ///
    /// # Errors
    /// [`Error::Reserve`].
    pub(crate) fn check_reserve(&self, area: Area) -> Result<(), Error> {
        match self.look_at_reserve(area) {
            Some(reserved) if reserved.level == Level::Reached => Err(self.refusal(reserved)),
            _ => Ok(()),
        }
    }

    /// The refusal of a call that found the reserve reached while it wrote.
    pub(crate) fn reserve_reached(&self, area: Area) -> Error {
        let (path, percent) = (self.area_path(area), self.reserve.percent);
        let looked = self.look_at_reserve(area);
        self.refusal(looked.unwrap_or_else(|| Reserved::new(&path, Space::default(), percent)))
    }

    fn refusal(&self, reserved: Reserved) -> Error {
        counter!("layerd_reserve_refusals_total").increment(1);
        Error::Reserve {
            holders: self.holders(),
            reserved: Box::new(reserved),
        }
    }

    fn area_path(&self, area: Area) -> PathBuf {
        match self.reserve.index(area) {
            0 => self.path.clone(),
            _ => self.path.join("volumes"),
        }
    }

    /// Looks at the file system of an area, and tells of a level that is not the last one. None if
    /// there is no reserve, or nothing can be told.
    pub(crate) fn look_at_reserve(&self, area: Area) -> Option<Reserved> {
        let reserve = &self.reserve;
        if reserve.percent == 0 {
            return None;
        }
        let index = reserve.index(area);
        let path = self.area_path(area);
        let space = Space::of(&path).ok()?;
        let reserved = Reserved::new(&path, space, reserve.percent);
        let place = Level::ALL.iter().position(|level| *level == reserved.level);
        let place = u8::try_from(place.unwrap_or_default()).unwrap_or_default();
        if reserve.levels[index].swap(place, Ordering::Relaxed) != place {
            self.tell_level(&reserved);
        }
        Some(reserved)
    }

    fn tell_level(&self, reserved: &Reserved) {
        match reserved.level {
            Level::Reached => warn!("the reserve is reached, nothing new is made: {reserved}"),
            Level::Near => info!("the reserve is near: {reserved}"),
            Level::Enough => info!("the reserve is free again: {reserved}"),
        }
        let what = reserved.level.name();
        self.events
            .tell(Topic::Reserve, what, &reserved.to_string());
    }

    /// Each file system with data, and its reserve. Costs a statfs(2) each.
    pub(crate) fn reserves(&self) -> Vec<Reserved> {
        let areas = match self.reserve.is_apart {
            true => &[Area::Layers, Area::Volumes][..],
            false => &[Area::Layers],
        };
        let looked = areas.iter().map(|area| self.look_at_reserve(*area));
        looked.flatten().collect()
    }

    /// The largest of what is known to hold space, in words. Reads memory only.
    fn holders(&self) -> String {
        let view = self.store.records();
        let used = |usage: Option<Usage>| usage.map_or(0, |usage| usage.bytes);
        let snapshots = view.iter().map(|record| {
            let usage = record.usage.or_else(|| self.last_usage.get(record.id));
            (used(usage), "snapshot", record.key.as_str())
        });
        let volumes = view.volumes().iter().map(|volume| {
            let usage = volume.usage.map(|(usage, _)| usage);
            (used(usage), "volume", volume.name.as_str())
        });
        let mut largest: Vec<(u64, &str, &str)> = Vec::with_capacity(NAMED + 1);
        for one in snapshots.chain(volumes).filter(|(bytes, ..)| *bytes > 0) {
            let at = largest.partition_point(|other| other.0 >= one.0);
            largest.insert(at, one);
            largest.truncate(NAMED);
        }
        let named = largest
            .iter()
            .map(|(bytes, kind, name)| format!("{kind} {name:?} ({bytes} bytes)"));
        let named: Vec<_> = named.collect();
        match named.is_empty() {
            true => "nothing was measured yet".to_owned(),
            false => format!("most is held by {}", named.join(", ")),
        }
    }
}

/// Looks at the reserve again from time to time while a call writes much.
#[derive(Debug)]
pub(crate) struct Watched<'r> {
    root: &'r Root,
    area: Area,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl<'r> Watched<'r> {
    /// Begins to count.
    pub(crate) fn new(root: &'r Root, area: Area) -> Self {
        Self {
            root,
            area,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Counts what was written; true if it came to the reserve with that. A statfs(2) each 64 MiB or
    /// 8192 names.
    pub(crate) fn reaches(&self, files: u64, bytes: u64) -> bool {
        let passes = |count: &AtomicU64, more: u64, step: u64| {
            let before = count.fetch_add(more, Ordering::Relaxed);
            before / step != (before + more) / step
        };
        let many_files = passes(&self.files, files, LOOK_FILES);
        let many_bytes = passes(&self.bytes, bytes, LOOK_BYTES);
        (many_files || many_bytes)
            && self
                .root
                .look_at_reserve(self.area)
                .is_some_and(|reserved| reserved.level == Level::Reached)
    }
}
