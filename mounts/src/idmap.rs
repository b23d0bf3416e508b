//! Id mappings as they stand in labels: `container:host:length`, separated by commas.

use std::fmt;
use std::str::FromStr;

use crate::types::{IdMap, IdMaps};

/// Ranges that the kernel takes in one mapping.
pub const MAX_RANGES: usize = 340;

/// Why a mapping is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMap {
    /// No range at all.
    #[error("the mapping is empty; expected container:host:length[,container:host:length...]")]
    Empty,
    /// More ranges than the kernel takes.
    #[error("{ranges} ranges; the kernel takes {MAX_RANGES}")]
    TooMany {
        /// Number of ranges.
        ranges: usize,
    },
    /// Not three numbers.
    #[error(
        "range {at} (`{range}`) is not container:host:length, three decimal numbers below 2^32"
    )]
    Malformed {
        /// Which range, counted from 1.
        at: usize,
        /// The range.
        range: String,
    },
    /// A range without ids.
    #[error("range {at} (`{range}`) has length 0")]
    NoLength {
        /// Which range, counted from 1.
        at: usize,
        /// The range.
        range: IdMap,
    },
    /// A range that goes beyond the last id, 4294967294.
    #[error("range {at} (`{range}`) ends beyond id 4294967294 on the {side} side")]
    Beyond {
        /// Which range, counted from 1.
        at: usize,
        /// The range.
        range: IdMap,
        /// `container` or `host`.
        side: &'static str,
    },
    /// Two ranges that share an id.
    #[error("range {at} (`{range}`) overlaps range `{other}` on the {side} side")]
    Overlap {
        /// Which range, counted from 1.
        at: usize,
        /// The range.
        range: IdMap,
        /// The other range.
        other: IdMap,
        /// `container` or `host`.
        side: &'static str,
    },
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.length)
    }
}

impl IdMaps {
    /// Parses and checks a pair of mappings by the kernel's rules.
    ///
    /// # Errors
    /// [`BadMap`] names the range and the rule, user ids first.
    pub fn parse(uid: &str, gid: &str) -> Result<Self, BadMap> {
        Ok(Self {
            uid: parse(uid)?,
            gid: parse(gid)?,
        })
    }

    /// Owner and group on the host of what belongs to root in the container; `None` if one of
    /// them is not mapped.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((root_of(&self.uid)?, root_of(&self.gid)?))
    }
}

/// Parses and checks one mapping. Cost: the square of the number of ranges, at most 340.
///
/// # Errors
/// [`BadMap`] names the first offending range and the rule.
pub fn parse(text: &str) -> Result<Vec<IdMap>, BadMap> {
    if text.is_empty() {
        return Err(BadMap::Empty);
    }
    let count = text.split(',').count();
    if count > MAX_RANGES {
        return Err(BadMap::TooMany { ranges: count });
    }
    let mut ranges = Vec::with_capacity(count);
    for (index, text) in text.split(',').enumerate() {
        let range = parse_range(index + 1, text)?;
        check_range(index + 1, range, &ranges)?;
        ranges.push(range);
    }
    Ok(ranges)
}

/// Where container id 0 lies on the host; `None` if it is not mapped.
#[must_use]
pub fn root_of(ranges: &[IdMap]) -> Option<u32> {
    let first = ranges.iter().find(|range| range.container == 0)?;
    Some(first.host)
}

fn parse_range(at: usize, text: &str) -> Result<IdMap, BadMap> {
    let malformed = || BadMap::Malformed {
        at,
        range: text.chars().take(64).collect(), // a label is up to 4096 bytes of anything
    };
    let mut fields = text.split(':');
    let mut next = || fields.next().and_then(number);
    let range = match (next(), next(), next()) {
        (Some(container), Some(host), Some(length)) => IdMap {
            container,
            host,
            length,
        },
        _ => return Err(malformed()),
    };
    match fields.next() {
        None => Ok(range),
        Some(_) => Err(malformed()),
    }
}

/// `u32::from_str` takes a plus sign, the kernel does not.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| u32::from_str(text).ok()).flatten()
}

fn check_range(at: usize, range: IdMap, before: &[IdMap]) -> Result<(), BadMap> {
    if range.length == 0 {
        return Err(BadMap::NoLength { at, range });
    }
    for (side, start) in SIDES {
        if start(&range).checked_add(range.length).is_none() {
            return Err(BadMap::Beyond { at, range, side });
        }
        let mut others = before.iter();
        if let Some(other) = others.find(|other| overlap(&range, other, start)) {
            return Err(BadMap::Overlap {
                at,
                range,
                other: *other,
                side,
            });
        }
    }
    Ok(())
}

type Start = fn(&IdMap) -> u32;

const SIDES: [(&str, Start); 2] = [
    ("container", |range| range.container),
    ("host", |range| range.host),
];

fn overlap(one: &IdMap, other: &IdMap, start: Start) -> bool {
    // Neither sum overflows: `one` passed that check just before, `other` in its own turn.
    start(one) < start(other) + other.length && start(other) < start(one) + one.length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{BadMap, MAX_RANGES, parse};
    use crate::types::{IdMap, IdMaps};

    #[test]
    fn good_mappings() {
        let range = |container, host, length| IdMap {
            container,
            host,
            length,
        };
        assert_eq!(parse("0:100000:65536"), Ok(vec![range(0, 100_000, 65_536)]));
        assert_eq!(parse("0:0:4294967295"), Ok(vec![range(0, 0, u32::MAX)]));
        assert_eq!(
            parse("1:100000:9,0:7:1"),
            Ok(vec![range(1, 100_000, 9), range(0, 7, 1)])
        );
        assert_eq!(
            parse("5:105:5,0:100:5,10:110:5"),
            Ok(vec![range(5, 105, 5), range(0, 100, 5), range(10, 110, 5)]),
            "ranges that touch share no id"
        );
    }

    #[test]
    fn refusals_name_the_range_and_the_rule() {
        let table = [
            ("", "the mapping is empty"),
            ("0:1", "range 1 (`0:1`) is not"),
            ("0:1:2:3", "range 1 (`0:1:2:3`) is not"),
            ("0:1:2,", "range 2 (``) is not"),
            ("0:+1:2", "range 1 (`0:+1:2`) is not"),
            ("0:-1:2", "range 1 (`0:-1:2`) is not"),
            ("0: 1:2", "range 1 (`0: 1:2`) is not"),
            ("0:1:2 ", "range 1 (`0:1:2 `) is not"),
            ("0::2", "range 1 (`0::2`) is not"),
            ("0:x:2", "range 1 (`0:x:2`) is not"),
            ("0:4294967296:1", "range 1 (`0:4294967296:1`) is not"),
            ("0:1:0", "range 1 (`0:1:0`) has length 0"),
            (
                "1:0:4294967295",
                "ends beyond id 4294967294 on the container side",
            ),
            (
                "0:4294967295:1",
                "ends beyond id 4294967294 on the host side",
            ),
            (
                "0:100:10,9:200:1",
                "range 2 (`9:200:1`) overlaps range `0:100:10` on the container side",
            ),
            (
                "0:100:10,10:109:5",
                "range 2 (`10:109:5`) overlaps range `0:100:10` on the host side",
            ),
            (
                "5:100:10,0:200:6",
                "range 2 (`0:200:6`) overlaps range `5:100:10` on the container side",
            ),
            (
                "0:105:10,10:100:6",
                "range 2 (`10:100:6`) overlaps range `0:105:10` on the host side",
            ),
        ];
        for (text, expected) in table {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn takes_as_many_ranges_as_the_kernel() {
        let ranges = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|n| format!("{n}:{n}:1")).collect();
            ranges.join(",")
        };
        assert_eq!(parse(&ranges(MAX_RANGES)).map(|r| r.len()), Ok(MAX_RANGES));
        assert_eq!(
            parse(&ranges(MAX_RANGES + 1)),
            Err(BadMap::TooMany {
                ranges: MAX_RANGES + 1
            })
        );
    }

    #[test]
    fn root_is_where_container_zero_lies() {
        let maps = IdMaps::parse("1:5:9,0:100000:1", "0:200000:65536").expect("good maps");
        assert_eq!(maps.root(), Some((100_000, 200_000)));
        let maps = IdMaps::parse("1:5:9", "0:200000:65536").expect("good maps");
        assert_eq!(maps.root(), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_what_it_takes(text in "[0-9:,+ x]{0,40}") {
            if let Ok(ranges) = parse(&text) {
                let written: Vec<String> = ranges.iter().map(IdMap::to_string).collect();
                assert_eq!(parse(&written.join(",")), Ok(ranges));
            }
        }
    }
}
