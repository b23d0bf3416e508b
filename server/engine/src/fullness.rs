//! Fullness of volumes and layers: an event when one passes 80 or 95 % of its limit, and figures for metrics.

use std::collections::BTreeMap;

use layerd_mounts::Space;
use layerd_store::Usage;
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use crate::events::{Events, Topic};

/// Percent by which usage must fall below a mark before it is below it again: a writer at a mark makes
/// no event at each look.
const SLACK: u64 = 5;

/// The highest mark that was passed.
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

/// The marks that were told, of the volumes or the layers of a root.
#[derive(Debug)]
pub(crate) struct Marks<Id>(Mutex<BTreeMap<Id, Mark>>);

impl<Id> Default for Marks<Id> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Id: Copy + Ord> Marks<Id> {
    /// Tells of each that passed a mark of the bytes or inodes of its limit since the last look, or fell 5 %
    /// below one. `limited` are all that have a limit, with their names; `space` answers the room in one, and
    /// `None` for one that keeps its mark, as its file system is not mounted.
    pub(crate) fn look<'n>(
        &self,
        (events, topic): (&Events, Topic),
        limited: impl Iterator<Item = (Id, &'n str)>,
        space: impl Fn(Id) -> Result<Option<Space>, layerd_mounts::Error>,
    ) {
        let mut marks = self.0.lock();
        let mut seen = BTreeMap::new();
        for (id, name) in limited {
            let before = marks.get(&id).copied().unwrap_or_default();
            let mark = match space(id) {
                Ok(space) => space.map_or(before, |space| before.next(percent(&space))),
                Err(cause) => {
                    let topic = topic.name();
                    debug!(
                        error = &cause as &dyn std::error::Error,
                        topic, name, "look how full it is"
                    );
                    before
                }
            };
            seen.insert(id, mark);
            if mark == before {
                continue;
            }
            let (topic_name, what) = (topic.name(), mark.name());
            match mark {
                Mark::NinetyFive => warn!(topic = topic_name, name, "95 % of a limit are used"),
                _ => info!(
                    topic = topic_name,
                    name, what, "a mark of a limit was passed"
                ),
            }
            events.tell(topic, what, name);
        }
        *marks = seen;
    }
}

/// Usage of a volume or a writable layer, and its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fullness {
    /// Name of the volume, or key of the snapshot.
    pub name: String,
    /// Usage as the kernel counts it under a limit, else as it was measured last; `None` if it never was.
    pub used: Option<Usage>,
    /// Bytes and inodes that it is held to. A number of inodes that is not fixed is 0.
    pub limit: Option<Usage>,
}

impl Fullness {
    /// Of one with this room in the file system that enforces its limit, if there is one and it is mounted.
    pub(crate) fn new(name: &str, space: Option<Space>, measured: Option<Usage>) -> Self {
        Self {
            name: name.to_owned(),
            used: space.map(|space| used(&space)).or(measured),
            limit: space.map(|space| Usage {
                bytes: space.bytes,
                inodes: space.inodes,
            }),
        }
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
