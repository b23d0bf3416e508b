//! Moments at which the power could go, and what is then left of the writes under way.

use std::ops::Range;

use super::log::Event;

/// Fate of the writes after the last completed flush: a disk may keep any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// None of them reached the disk.
    Nothing,
    /// All did.
    All,
    /// The first few did.
    Prefix,
    /// A random half did.
    Half,
    /// A random half of their pieces did. A piece ends at each multiple of so many bytes: 4096
    /// for the disks that file systems expect, 512 for the worst.
    Torn(u64),
}

impl Later {
    /// Everything that a disk with sectors of 4 KiB may do.
    pub const ALL: [Self; 5] = [
        Self::Nothing,
        Self::All,
        Self::Prefix,
        Self::Half,
        Self::Torn(4096),
    ];
}

/// One power cut. Printed in a failure, it can be built again from the same recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of events of the log before the cut.
    pub(crate) position: usize,
    pub(crate) later: Later,
    pub(crate) seed: u64,
}

impl Cut {
    /// Fate of the writes after the last flush.
    #[must_use]
    pub fn later(&self) -> Later {
        self.later
    }

    /// Number of events before the end of the last completed flush.
    pub(crate) fn durable(&self, events: &[Event]) -> usize {
        let flush = events[..self.position]
            .iter()
            .rposition(|event| *event == Event::Flush);
        flush.map_or(0, |index| index + 1)
    }

    /// The parts of later events that survive, in order.
    pub(crate) fn survivors(&self, events: &[Event]) -> Vec<(Event, Range<u64>)> {
        let later = &events[self.durable(events)..self.position];
        let mut chance = Chance(self.seed);
        let whole = |event: &Event| (*event, 0..u64::MAX);
        match self.later {
            Later::Nothing => vec![],
            Later::All => later.iter().map(whole).collect(),
            Later::Prefix => {
                let length = chance.below(later.len() + 1);
                later[..length].iter().map(whole).collect()
            }
            Later::Half => later.iter().filter(|_| chance.toss()).map(whole).collect(),
            Later::Torn(unit) => later
                .iter()
                .flat_map(|event| pieces(*event, unit))
                .filter(|_| chance.toss())
                .collect(),
        }
    }
}

/// The pieces of an event between multiples of `unit`.
fn pieces(event: Event, unit: u64) -> Vec<(Event, Range<u64>)> {
    let (Event::Write { offset, length, .. } | Event::Zero { offset, length }) = event else {
        return vec![];
    };
    let first = offset / unit;
    let end = (offset + length).div_ceil(unit);
    (first..end)
        .map(|piece| (event, piece * unit..(piece + 1) * unit))
        .collect()
}

/// Picks `count` cuts after the first `start` events, ordered by position: every second one right
/// after a mark, where a loss is most likely to show, as far as there are marks.
pub(crate) fn sample(
    events: &[Event],
    start: usize,
    seed: u64,
    count: usize,
    later: &[Later],
) -> Vec<Cut> {
    let mut chance = Chance(seed);
    let marks: Vec<usize> = (start..events.len())
        .filter(|index| matches!(events[*index], Event::Mark(_)))
        .collect();
    let mut cuts: Vec<Cut> = (0..count)
        .zip(later.iter().cycle())
        .map(|(_, later)| Cut {
            position: if !marks.is_empty() && chance.toss() {
                marks[chance.below(marks.len())] + 1
            } else {
                start + chance.below(events.len() - start + 1)
            },
            later: *later,
            seed: chance.next(),
        })
        .collect();
    cuts.sort_by_key(|cut| cut.position);
    cuts
}

/// A repeatable source of chance (splitmix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn toss(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Less than `limit`, which is not zero.
    fn below(&mut self, limit: usize) -> usize {
        let number = self.next() % (limit as u64);
        usize::try_from(number).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn write(offset: u64, length: u64) -> Event {
        Event::Write {
            offset,
            length,
            stored: 0,
        }
    }

    const EVENTS: [Event; 6] = [
        write(0, 512),
        Event::Flush,
        Event::Mark(1),
        write(512, 512),
        write(1024, 8192),
        Event::Flush,
    ];

    fn cut(position: usize, later: Later) -> Cut {
        Cut {
            position,
            later,
            seed: 1,
        }
    }

    #[test]
    fn flushed_writes_are_no_longer_at_risk() {
        assert_eq!(cut(1, Later::All).durable(&EVENTS), 0);
        assert_eq!(cut(2, Later::All).durable(&EVENTS), 2);
        assert_eq!(cut(5, Later::All).durable(&EVENTS), 2);
        assert_eq!(cut(6, Later::All).durable(&EVENTS), 6);
        assert_eq!(cut(6, Later::All).survivors(&EVENTS), []);
    }

    #[test]
    fn nothing_and_all_are_the_ends() {
        assert_eq!(cut(5, Later::Nothing).survivors(&EVENTS), []);
        let all = cut(5, Later::All).survivors(&EVENTS);
        assert_eq!(
            all.iter().map(|(event, _)| *event).collect::<Vec<_>>(),
            EVENTS[2..5]
        );
    }

    #[test]
    fn pieces_end_at_multiples() {
        let ranges: Vec<_> = pieces(EVENTS[4], 4096)
            .into_iter()
            .map(|(_, range)| range)
            .collect();
        assert_eq!(ranges, [0..4096, 4096..8192, 8192..12288]);
        assert_eq!(pieces(Event::Flush, 4096), []);
    }

    #[test]
    fn chance_covers_every_case_and_repeats() {
        let lengths = |later| {
            let mut seen: Vec<usize> = (0..200)
                .map(|seed| {
                    Cut {
                        position: 5,
                        later,
                        seed,
                    }
                    .survivors(&EVENTS)
                    .len()
                })
                .collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(lengths(Later::Prefix), [0, 1, 2, 3]);
        assert_eq!(lengths(Later::Half), [0, 1, 2, 3]);
        assert_eq!(lengths(Later::Torn(4096)), [0, 1, 2, 3, 4]);
        let again = |seed| sample(&EVENTS, 0, seed, 20, &Later::ALL);
        assert_eq!(again(3), again(3));
        assert_ne!(again(3), again(4));
    }

    #[test]
    fn samples_stay_behind_the_start() {
        let cuts = sample(&EVENTS, 2, 9, 100, &Later::ALL);
        assert!(cuts.iter().all(|cut| (2..=6).contains(&cut.position)));
        assert!(cuts.is_sorted_by_key(|cut| cut.position));
        assert_eq!(
            cuts.iter().filter(|cut| cut.later == Later::Half).count(),
            20
        );
    }
}
