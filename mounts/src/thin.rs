//! Thin devices of the device mapper (Documentation/admin-guide/device-mapper/thin-provisioning.rst):
//! tables and states of pools and of devices, as text.

use std::str::FromStr;

use crate::sys::device_mapper::Target;

/// Bytes of a sector, in which the device mapper counts.
pub const SECTOR: u64 = 512;
/// Bytes of a block of the metadata of a pool.
pub const METADATA_BLOCK: u64 = 4096;
/// Most ids of devices that a pool has: 24 bits.
pub const MAX_ID: u64 = (1 << 24) - 1;

/// Table of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTable {
    /// Device of the metadata, as a path or as `MAJOR:MINOR`.
    pub metadata: String,
    /// Device of the data, likewise.
    pub data: String,
    /// Size of the data in sectors.
    pub sectors: u64,
    /// Size of a block of data in sectors.
    pub block: u64,
    /// Set if blocks are zeroed before they are used.
    pub zeroes: bool,
}

impl PoolTable {
    /// The line for a pool that fails writes when it is full. Blocks are zeroed before they are used, as
    /// those of a deleted layer may hold anything, entries of a journal with the same identity included.
    #[must_use]
    pub fn target(&self) -> Target {
        /// Free blocks below which the kernel sends an event, which nothing waits for.
        const LOW_WATER: u64 = 0;
        let Self {
            metadata,
            data,
            block,
            ..
        } = self;
        Target {
            start: 0,
            sectors: self.sectors,
            kind: "thin-pool".to_owned(),
            text: format!("{metadata} {data} {block} {LOW_WATER} 1 error_if_no_space"),
        }
    }

    /// Reads the table of a pool, as the kernel tells it.
    #[must_use]
    pub fn of(target: &Target) -> Option<Self> {
        let mut words = target.text.split(' ');
        let (metadata, data) = (words.next()?, words.next()?);
        let block = words.next()?.parse().ok()?;
        (target.kind == "thin-pool" && block > 0).then(|| Self {
            metadata: metadata.to_owned(),
            data: data.to_owned(),
            sectors: target.sectors,
            block,
            zeroes: !words.any(|word| word == "skip_block_zeroing"),
        })
    }
}

/// The line for a device of a pool.
#[must_use]
pub fn thin_target((major, minor): (u32, u32), id: u64, sectors: u64) -> Target {
    Target {
        start: 0,
        sectors,
        kind: "thin".to_owned(),
        text: format!("{major}:{minor} {id}"),
    }
}

/// Sectors that are mapped of a device, those that it shares with others included.
#[must_use]
pub fn mapped_sectors(status: &str) -> Option<u64> {
    status.split(' ').next()?.parse().ok()
}

/// Blocks that are used, of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Used ones.
    pub used: u64,
    /// All.
    pub total: u64,
}

impl Share {
    /// True if less than `percent` of all is free.
    #[must_use]
    pub fn leaves_less_than(self, percent: u64) -> bool {
        let free = u128::from(self.total.saturating_sub(self.used));
        free * 100 < u128::from(self.total) * u128::from(percent)
    }
}

impl FromStr for Share {
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, BadStatus> {
        let (used, total) = text.split_once('/').ok_or(BadStatus)?;
        let number = |text: &str| text.parse().map_err(|_| BadStatus);
        Ok(Self {
            used: number(used)?,
            total: number(total)?,
        })
    }
}

/// Service that a pool gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All.
    Writable,
    /// Only blocks that are there are written; devices can be deleted.
    OutOfDataSpace,
    /// Nothing is changed.
    ReadOnly,
}

/// State of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// A number that its user counts up.
    pub transaction: u64,
    /// Blocks of metadata, of [`METADATA_BLOCK`] bytes.
    pub metadata: Share,
    /// Blocks of data, of [`PoolTable::block`] sectors.
    pub data: Share,
    /// Service that it gives.
    pub mode: Mode,
    /// Set if blocks that are given back are given back to the device of the data too.
    pub passes_discards: bool,
    /// Set if writes that need room fail at once when there is none.
    pub fails_when_full: bool,
    /// Set if thin_check(8) has to look at the metadata before anything is written.
    pub needs_check: bool,
}

/// A status that is not a working pool's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the status of a pool that works")]
pub struct BadStatus;

impl FromStr for PoolStatus {
    type Err = BadStatus;

    /// `Fail` and `Error`, which the kernel says of a pool that it gave up, are bad.
    fn from_str(text: &str) -> Result<Self, BadStatus> {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let mut next = || words.next().ok_or(BadStatus);
        let transaction = next()?.parse().map_err(|_| BadStatus)?;
        let (metadata, data) = (next()?.parse()?, next()?.parse()?);
        next()?; // root of the metadata that is held for readers
        let rest: Vec<&str> = words.collect();
        let mode = match *rest.first().ok_or(BadStatus)? {
            "rw" => Mode::Writable,
            "out_of_data_space" => Mode::OutOfDataSpace,
            "ro" => Mode::ReadOnly,
            _ => return Err(BadStatus),
        };
        let has = |word| rest.contains(&word);
        Ok(Self {
            transaction,
            metadata,
            data,
            mode,
            passes_discards: has("discard_passdown"),
            fails_when_full: has("error_if_no_space"),
            needs_check: has("needs_check"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_tells_its_state() {
        let text = "5 83/4096 1024/16384 - rw discard_passdown queue_if_no_space - 1024 ";
        let status: PoolStatus = text.parse().expect("a status");
        let wanted = PoolStatus {
            transaction: 5,
            metadata: Share {
                used: 83,
                total: 4096,
            },
            data: Share {
                used: 1024,
                total: 16384,
            },
            mode: Mode::Writable,
            passes_discards: true,
            fails_when_full: false,
            needs_check: false,
        };
        assert_eq!(status, wanted);
        let text = "0 4096/4096 1/1 12 ro no_discard_passdown error_if_no_space needs_check 1024";
        let status: PoolStatus = text.parse().expect("a status");
        assert_eq!(status.mode, Mode::ReadOnly);
        assert!(status.fails_when_full && status.needs_check && !status.passes_discards);
        let text = "0 1/2 2/2 - out_of_data_space ignore_discard error_if_no_space - 1";
        let status: PoolStatus = text.parse().expect("a status");
        assert_eq!(status.mode, Mode::OutOfDataSpace);
    }

    #[test]
    fn other_states_are_none() {
        for text in [
            "",
            "Fail",
            "Error",
            "5",
            "5 1/2 3/4",
            "5 1/2 3/4 -",
            "5 1/2 3/4 - on",
            "-1 1/2 3/4 - rw",
            "5 1 3/4 - rw",
            "5 1/2 3/x - rw",
            "99999999999999999999 1/2 3/4 - rw",
        ] {
            assert_eq!(text.parse::<PoolStatus>(), Err(BadStatus), "{text:?}");
        }
    }

    #[test]
    fn mapped_sectors_are_read() {
        assert_eq!(mapped_sectors("2048 4095"), Some(2048));
        assert_eq!(mapped_sectors("0 -"), Some(0));
        for text in ["Fail", "Error", "", "-"] {
            assert_eq!(mapped_sectors(text), None, "{text:?}");
        }
    }

    #[test]
    fn tables_are_written_and_read() {
        let table = PoolTable {
            metadata: "7:0".to_owned(),
            data: "7:1".to_owned(),
            sectors: 1 << 21,
            block: 128,
            zeroes: true,
        };
        let target = table.target();
        assert_eq!(target.text, "7:0 7:1 128 0 1 error_if_no_space");
        assert_eq!(PoolTable::of(&target), Some(table));
        let text = "7:0 7:1 128 0 2 skip_block_zeroing error_if_no_space".to_owned();
        let read = PoolTable::of(&Target { text, ..target });
        assert!(!read.expect("a table").zeroes);
        let other = |kind: &str, text: &str| Target {
            start: 0,
            sectors: 1,
            kind: kind.to_owned(),
            text: text.to_owned(),
        };
        for bad in [
            other("linear", "7:0 7:1 128 0"),
            other("thin-pool", "7:0 7:1"),
            other("thin-pool", "7:0 7:1 0 0"),
            other("thin-pool", ""),
        ] {
            assert_eq!(PoolTable::of(&bad), None, "{bad:?}");
        }
        assert_eq!(thin_target((253, 0), 7, 8).text, "253:0 7");
    }

    #[test]
    fn a_share_is_compared_without_overflow() {
        let share = |used, total| Share { used, total };
        assert!(!share(90, 100).leaves_less_than(10));
        assert!(share(91, 100).leaves_less_than(10));
        assert!(!share(u64::MAX, u64::MAX).leaves_less_than(0));
        assert!(share(u64::MAX, u64::MAX).leaves_less_than(1));
        assert!(share(5, 3).leaves_less_than(1), "more than all");
    }
}
