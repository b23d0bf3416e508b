//! Usage and condition of volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_engine::{Engine, VolumeEntry, limit_of, size_asked};
use layerd_mounts::Space;
use layerd_proto::csi::v1::volume_usage::Unit;
use layerd_proto::csi::v1::{VolumeCondition, VolumeUsage};
use layerd_store::{AttachState, Timestamp, Usage, VolumeId};
use parking_lot::{Mutex, MutexGuard};
use tonic::Status;

use super::capacity::signed;
use super::failed;

/// kubelet asks every minute; a figure that is younger is not taken anew.
const FRESH: Duration = Duration::from_secs(45);
/// A volume is not measured more often than this many times the time that measuring it took.
const REST: u32 = 20;

/// Duration and end of the last measurement of each volume.
#[derive(Debug, Clone, Default)]
pub(super) struct Walks(Arc<Mutex<BTreeMap<VolumeId, Walk>>>);

#[derive(Debug, Clone, Copy)]
struct Walk {
    /// True while one is under way.
    running: bool,
    ended: Instant,
    took: Duration,
}

impl Walks {
    /// Begins a measurement; false if it is too early for one.
    fn begin(&self, id: VolumeId) -> bool {
        let mut walks = self.lock();
        let may = walks
            .get(&id)
            .is_none_or(|walk| !walk.running && walk.ended.elapsed() > walk.took * REST);
        if may {
            let walk = Walk {
                running: true,
                ended: Instant::now(),
                took: Duration::ZERO,
            };
            walks.insert(id, walk);
        }
        may
    }

    fn end(&self, id: VolumeId, begun: Instant) {
        let walk = Walk {
            running: false,
            ended: Instant::now(),
            took: begun.elapsed(),
        };
        self.lock().insert(id, walk);
    }

    /// Forgets a volume that is no longer published.
    pub(super) fn forget(&self, id: VolumeId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Walk>> {
        self.0.lock()
    }

    /// Usage of a volume as of its last measurement; takes a new one if that is a while
    /// ago. One look at each file then.
    pub(super) fn usage(&self, engine: &Engine, entry: &VolumeEntry) -> Result<Usage, Status> {
        let volume = &entry.volume;
        let is_fresh = |taken: Timestamp| {
            let age = Timestamp::now().0.saturating_sub(taken.0);
            u128::try_from(age).is_ok_and(|age| age < FRESH.as_nanos())
        };
        match volume.usage {
            Some((usage, taken)) if is_fresh(taken) => return Ok(usage),
            Some((usage, _)) if !self.begin(volume.id) => return Ok(usage),
            Some(_) => {}
            None if !self.begin(volume.id) => {
                let text = format!(
                    "volume {} is being measured for the first time",
                    volume.name
                );
                return Err(Status::unavailable(text));
            }
            None => {}
        }
        let begun = Instant::now();
        let measured = engine.volumes.volume_usage(&volume.name, true);
        self.end(volume.id, begun);
        measured.map(|(usage, _)| usage).map_err(failed)
    }
}

/// Bytes and inodes of a volume: as many as it was asked for, or as the disk can still take, whichever
/// is less.
pub(super) fn figures(
    engine: &Engine,
    entry: &VolumeEntry,
    used: Usage,
) -> Result<Vec<VolumeUsage>, Status> {
    if let Some(inside) = engine.volumes.space_in(entry.volume.id).map_err(failed)? {
        return Ok(of_limited(&inside));
    }
    let space = engine.volumes.space().map_err(failed)?;
    let size = size_asked(&entry.volume);
    let total = size.unwrap_or(used.bytes.saturating_add(space.bytes_free));
    let available = space.bytes_free.min(total.saturating_sub(used.bytes));
    // Without a fixed number of inodes there is none to tell.
    let inodes = match space.inodes {
        0 => 0,
        _ => used.inodes.saturating_add(space.inodes_free),
    };
    Ok(vec![
        VolumeUsage {
            available: signed(available),
            total: signed(total),
            used: signed(used.bytes),
            unit: Unit::Bytes.into(),
        },
        VolumeUsage {
            available: signed(space.inodes_free),
            total: signed(inodes),
            used: signed(used.inodes),
            unit: Unit::Inodes.into(),
        },
    ])
}

/// Bytes and inodes of a volume that is held to a size, as its file system counts them.
fn of_limited(inside: &Space) -> Vec<VolumeUsage> {
    let of = |unit: Unit, total: u64, free: u64| VolumeUsage {
        available: signed(free),
        total: signed(total),
        used: signed(total.saturating_sub(free)),
        unit: unit.into(),
    };
    vec![
        of(Unit::Bytes, inside.bytes, inside.bytes_free),
        of(Unit::Inodes, inside.inodes, inside.inodes_free),
    ]
}

/// Troubles of volumes at one moment.
#[derive(Debug)]
pub(super) struct Conditions {
    /// Volumes whose mount is gone, and where it was.
    unmounted: BTreeMap<VolumeId, String>,
    has_failed: bool,
    is_full: bool,
}

impl Conditions {
    /// Looks at the mount table and the disk.
    pub(super) fn look(engine: &Engine) -> Result<Self, Status> {
        let mut unmounted = BTreeMap::new();
        for entry in engine.attachments.attachments(None, None).map_err(failed)? {
            let attachment = &entry.attachment;
            let (Some(volume), Some(target)) = (attachment.volume, &attachment.target) else {
                continue;
            };
            if entry.state == AttachState::Waiting
                && !engine
                    .attachments
                    .is_published(attachment)
                    .map_err(failed)?
            {
                unmounted.insert(volume, target.clone());
            }
        }
        Ok(Self {
            unmounted,
            has_failed: engine.has_failed(),
            is_full: engine.volumes.space().map_err(failed)?.bytes_free == 0,
        })
    }

    /// The condition of a volume, by what was measured last.
    pub(super) fn of(&self, entry: &VolumeEntry) -> VolumeCondition {
        let used = entry.volume.usage.map(|(usage, _)| usage);
        self.of_used(entry, used.unwrap_or_default())
    }

    /// The condition of a volume that holds so much.
    pub(super) fn of_used(&self, entry: &VolumeEntry, used: Usage) -> VolumeCondition {
        let trouble = self.trouble(entry, used.bytes);
        VolumeCondition {
            abnormal: trouble.is_some(),
            message: trouble.unwrap_or_else(|| "in order".to_owned()),
        }
    }

    fn trouble(&self, entry: &VolumeEntry, used: u64) -> Option<String> {
        if self.has_failed {
            return Some(
                "layerd's database failed: nothing can be changed until it works".to_owned(),
            );
        }
        if let Some(target) = self.unmounted.get(&entry.volume.id) {
            return Some(format!(
                "it is recorded as published at {target}, and not mounted there"
            ));
        }
        if self.is_full {
            return Some("the disk of the volumes is full".to_owned());
        }
        let size = size_asked(&entry.volume).filter(|_| limit_of(&entry.volume).is_none())?;
        (used > size).then(|| {
            format!("it holds {used} bytes, more than the {size} asked for, which nothing enforces")
        })
    }
}
