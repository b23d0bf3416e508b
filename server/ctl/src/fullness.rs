//! Usage of the limits of snapshots and volumes.

use std::collections::HashMap;

use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

use crate::client::Client;
use crate::error::Error;
use crate::human;
use crate::table::{Cell, Colour};

/// Usage of a limit, as the kernel counts it. The field names are the documented ones of `-o json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Fullness {
    pub(crate) used_bytes: u64,
    pub(crate) limit_bytes: u64,
    pub(crate) used_inodes: u64,
    /// None where they have no fixed number.
    pub(crate) limit_inodes: Option<u64>,
}

impl Fullness {
    /// Of one that has a limit, and whose file system is mounted.
    pub(crate) fn of(one: &wire::Fullness) -> Option<Self> {
        Some(Self {
            used_bytes: one.used_bytes?,
            limit_bytes: one.limit_bytes?,
            used_inodes: one.used_inodes?,
            limit_inodes: one.limit_inodes,
        })
    }

    /// The fuller of bytes and inodes.
    pub(crate) fn percent(&self) -> u64 {
        let of = |used: u64, all: u64| {
            let percent = u128::from(used) * 100 / u128::from(all.max(1));
            u64::try_from(percent).unwrap_or(100)
        };
        let inodes = self.limit_inodes.map(|all| of(self.used_inodes, all));
        of(self.used_bytes, self.limit_bytes).max(inodes.unwrap_or(0))
    }

    /// For people: both numbers, and the share.
    pub(crate) fn text(&self) -> String {
        let inodes = self.limit_inodes.map_or_else(String::new, |all| {
            format!(", {} of {all} inodes", self.used_inodes)
        });
        format!(
            "{} of {}{inodes} ({} %)",
            human::size(self.used_bytes),
            human::size(self.limit_bytes),
            self.percent()
        )
    }
}

/// The share of a limit, coloured from the marks on that are events; a dash without a limit.
pub(crate) fn cell(fullness: Option<Fullness>) -> Cell {
    let Some(fullness) = fullness else {
        return Cell::right("-");
    };
    let percent = fullness.percent();
    Cell::right(format!("{percent}%")).coloured(match percent {
        95.. => Colour::Red,
        80.. => Colour::Yellow,
        _ => Colour::Plain,
    })
}

/// Usage of limits by key or name.
#[derive(Debug, Default)]
pub(crate) struct Limits(HashMap<String, Fullness>);

impl Limits {
    /// Of all snapshots that have a limit. One call, which walks nothing.
    pub(crate) async fn of_snapshots(client: &mut Client) -> Result<Self, Error> {
        Self::ask(client, "snapshot").await
    }

    /// Of all volumes that have a limit. Costs the same.
    pub(crate) async fn of_volumes(client: &mut Client) -> Result<Self, Error> {
        Self::ask(client, "volume").await
    }

    async fn ask(client: &mut Client, kind: &str) -> Result<Self, Error> {
        let all = client.fullness().await?.into_iter();
        let limited = all.filter(|one| one.kind == kind).filter_map(|one| {
            let fullness = Fullness::of(&one)?;
            Some((one.name, fullness))
        });
        Ok(Self(limited.collect()))
    }

    /// None for one without a limit.
    pub(crate) fn get(&self, name: &str) -> Option<Fullness> {
        self.0.get(name).copied()
    }

    /// True if one of these has a limit.
    pub(crate) fn any<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> bool {
        names.any(|name| self.0.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_of_bytes_and_inodes_is_the_share() {
        let mut fullness = Fullness {
            used_bytes: 8 << 20,
            limit_bytes: 16 << 20,
            used_inodes: 81,
            limit_inodes: Some(100),
        };
        assert_eq!(
            fullness.text(),
            "8.00MiB of 16.0MiB, 81 of 100 inodes (81 %)"
        );
        fullness.limit_inodes = None;
        assert_eq!(fullness.text(), "8.00MiB of 16.0MiB (50 %)");
        fullness.limit_bytes = 0;
        assert!(fullness.percent() > 100, "no division by zero");
    }
}
