//! Fullness of volumes: an event when one passes 80 or 95 % of its limit, and figures for metrics.

use std::collections::BTreeMap;

use layerd_mounts::Space;
use layerd_store::{Usage, VolumeId, VolumeName};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::sizes::limit_of;
use super::slot;
use crate::Volumes;
use crate::events::Topic;

/// Percent by which a volume must fall below a mark before it is below it again: a writer at a mark makes
/// no event at each look.
const SLACK: u64 = 5;

/// The highest mark that a volume has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    #[default]
    Below,
    Eighty,
    NinetyFive,
}

impl Mark {
    fn at(percent: u64) -> Self {
        match percent {
            95.. => Self::NinetyFive,
            80.. => Self::Eighty,
            _ => Self::Below,
        }
    }

    fn next(self, percent: u64) -> Self {
        Self::at(percent).max(Self::at(percent + SLACK).min(self))
    }

    /// Word of its event.
    fn name(self) -> &'static str {
        match self {
            Self::Below => "below_80_percent",
            Self::Eighty => "80_percent_full",
            Self::NinetyFive => "95_percent_full",
        }
    }
}

/// The marks that were told.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<BTreeMap<VolumeId, Mark>>);

/// Usage of a volume, and its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fullness {
    /// Its name.
    pub name: VolumeName,
    /// Usage as the kernel counts it under a limit, else as it was measured last; `None` if it never was.
    pub used: Option<Usage>,
    /// Bytes and inodes that it is held to. A number of inodes that is not fixed is 0.
    pub limit: Option<Usage>,
}

impl Volumes {
    /// Tells of each volume that passed 80 or 95 % of the bytes or inodes of its limit since the last look,
    /// or fell 5 % below. Costs a few looks for each volume with a limit. One whose image is not mounted, as
    /// while it is checked or enlarged, keeps its mark and is not mounted for it.
    pub fn look_at_fullness(&self) {
        let records = self.root.store.records();
        let limited = records.volumes().iter();
        let limited = limited.filter(|volume| limit_of(volume).is_some());
        let mut marks = self.marks.0.lock();
        let mut seen = BTreeMap::new();
        for volume in limited {
            let before = marks.get(&volume.id).copied().unwrap_or_default();
            let name = &volume.name;
            let mark = match self.dirs.space_if_mounted(slot(volume.id)) {
                Ok(space) => space.map_or(before, |space| before.next(percent(&space))),
                Err(cause) => {
                    debug!(error = &cause as &dyn std::error::Error, %name, "look how full a volume is");
                    before
                }
            };
            seen.insert(volume.id, mark);
            if mark == before {
                continue;
            }
            let what = mark.name();
            match mark {
                Mark::NinetyFive => warn!(%name, "a volume is 95 % full"),
                _ => info!(%name, what, "a volume passed a mark of its limit"),
            }
            self.root.events.tell(Topic::Volume, what, name.as_str());
        }
        *marks = seen;
    }

    /// Fullness of the oldest volumes, at most so many. Costs a few looks for each with a limit, and mounts
    /// nothing: an image that is not mounted shows as a volume without a limit.
    pub fn fullness(&self, most: usize) -> Vec<Fullness> {
        let records = self.root.store.records();
        let volumes = records.volumes().iter().take(most);
        let fullness = volumes.map(|volume| {
            let space = limit_of(volume).and_then(|_| {
                let space = self.dirs.space_if_mounted(slot(volume.id));
                space.ok().flatten()
            });
            Fullness {
                name: volume.name.clone(),
                used: space
                    .map(|space| used(&space))
                    .or(volume.usage.map(|(usage, _)| usage)),
                limit: space.map(|space| Usage {
                    bytes: space.bytes,
                    inodes: space.inodes,
                }),
            }
        });
        fullness.collect()
    }
}

fn used(space: &Space) -> Usage {
    Usage {
        bytes: space.bytes.saturating_sub(space.bytes_free),
        inodes: space.inodes.saturating_sub(space.inodes_free),
    }
}

/// The fuller of bytes and inodes.
fn percent(space: &Space) -> u64 {
    let of = |used: u64, all: u64| {
        let percent = u128::from(used) * 100 / u128::from(all.max(1));
        u64::try_from(percent).unwrap_or(100)
    };
    let used = used(space);
    of(used.bytes, space.bytes).max(of(used.inodes, space.inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_passed_once_and_left_with_slack() {
        let mut mark = Mark::default();
        let mut at = |percent| {
            mark = mark.next(percent);
            mark
        };
        assert_eq!(at(79), Mark::Below);
        assert_eq!(at(80), Mark::Eighty);
        assert_eq!(at(76), Mark::Eighty);
        assert_eq!(at(95), Mark::NinetyFive);
        assert_eq!(at(91), Mark::NinetyFive);
        assert_eq!(at(89), Mark::Eighty);
        assert_eq!(at(100), Mark::NinetyFive);
        assert_eq!(at(74), Mark::Below);
        assert_eq!(at(99), Mark::NinetyFive);
    }

    #[test]
    fn the_fuller_of_bytes_and_inodes_counts() {
        let space = Space {
            bytes: 1000,
            bytes_free: 500,
            inodes: 10,
            inodes_free: 1,
        };
        assert_eq!(percent(&space), 90);
        let uncounted = Space {
            inodes: 0,
            inodes_free: 0,
            ..space
        };
        assert_eq!(percent(&uncounted), 50);
        assert_eq!(percent(&Space::default()), 0);
    }
}
