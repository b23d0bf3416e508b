//! How close a file system is to the share of it that is to stay free.

use std::fmt;
use std::path::{Path, PathBuf};

use layerd_mounts::Space;

/// How much of a file system is free, next to what is to stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// More than enough, or there is no reserve.
    Enough,
    /// Less than half as much again as the reserve.
    Near,
    /// Less than the reserve: nothing new is made.
    Reached,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Enough, Self::Near, Self::Reached];

    /// Its name for clients.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Near => "near",
            Self::Reached => "reached",
        }
    }
}

/// A file system with data, and its reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Folder of the data directory that is on it.
    pub path: PathBuf,
    /// What there is and what is free.
    pub space: Space,
    /// Share that stays free, in percent.
    pub percent: u64,
    /// How close the reserve is.
    pub level: Level,
}

impl Reserved {
    pub(crate) fn new(path: &Path, space: Space, percent: u64) -> Self {
        Self {
            path: path.to_owned(),
            level: level(&space, percent),
            space,
            percent,
        }
    }

    /// True if the reserve is near or reached, so that the trash is not kept for its time.
    pub(crate) fn is_near(&self) -> bool {
        self.level > Level::Enough
    }

    /// Bytes that stay free.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        share(self.space.bytes, self.percent)
    }

    /// Inodes that stay free; 0 where the file system has no fixed number of them.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        share(self.space.inodes, self.percent)
    }

    /// Bytes that may still be taken.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.space.bytes_free.saturating_sub(self.bytes())
    }

    /// The scarcer of the two, in words.
    pub(crate) fn shortage(&self) -> String {
        let space = &self.space;
        let of = |what, free: u64, all, kept| {
            format!(
                "{free} of {all} {what} are free, and limits.keep_free_percent = {} keeps {kept} of them free",
                self.percent
            )
        };
        let [bytes, inodes] = [
            u128::from(space.bytes_free) * u128::from(space.inodes),
            u128::from(space.inodes_free) * u128::from(space.bytes),
        ];
        if bytes <= inodes || space.inodes == 0 {
            of("bytes", space.bytes_free, space.bytes, self.bytes())
        } else {
            of("inodes", space.inodes_free, space.inodes, self.inodes())
        }
    }
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.shortage())
    }
}

fn share(all: u64, percent: u64) -> u64 {
    let part = u128::from(all) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// True if less than so many hundredths of a percent are free. A file system that does not count
/// something lacks none of it.
fn is_below(free: u64, all: u64, hundredths: u64) -> bool {
    u128::from(free) * 10_000 < u128::from(all) * u128::from(hundredths)
}

fn level(space: &Space, percent: u64) -> Level {
    let is_short = |hundredths| {
        is_below(space.bytes_free, space.bytes, hundredths)
            || is_below(space.inodes_free, space.inodes, hundredths)
    };
    match percent {
        0 => Level::Enough,
        _ if is_short(percent * 100) => Level::Reached,
        // At least one percent before, so that a small reserve has an alarm in time too.
        _ if is_short((percent * 150).max(percent * 100 + 100)) => Level::Near,
        _ => Level::Enough,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(bytes_free: u64, inodes_free: u64) -> Space {
        Space {
            bytes: 1000,
            bytes_free,
            inodes: 500,
            inodes_free,
        }
    }

    #[test]
    fn a_level_is_that_of_the_scarcer() {
        for (percent, bytes, inodes, wanted) in [
            (0, 0, 0, Level::Enough),
            (1, 20, 500, Level::Enough),
            (1, 19, 500, Level::Near),
            (1, 10, 500, Level::Near),
            (1, 9, 500, Level::Reached),
            (10, 150, 75, Level::Enough),
            (10, 149, 75, Level::Near),
            (10, 150, 74, Level::Near),
            (10, 1000, 49, Level::Reached),
            (100, 999, 500, Level::Reached),
        ] {
            let found = level(&space(bytes, inodes), percent);
            assert_eq!(found, wanted, "{percent} % of {bytes} and {inodes}");
        }
    }

    #[test]
    fn the_trash_is_kept_while_there_is_enough() {
        let is_near = |bytes| Reserved::new(Path::new("/d"), space(bytes, 500), 10).is_near();
        assert_eq!([150, 149, 99].map(is_near), [false, true, true]);
    }

    #[test]
    fn what_is_not_counted_is_not_short() {
        let btrfs = Space {
            inodes: 0,
            inodes_free: 0,
            ..space(900, 0)
        };
        assert_eq!(level(&btrfs, 10), Level::Enough);
    }

    #[test]
    fn a_shortage_names_figures_and_setting() {
        let of = |bytes, inodes| Reserved::new(Path::new("/d"), space(bytes, inodes), 10);
        assert_eq!(
            of(99, 500).to_string(),
            "/d: 99 of 1000 bytes are free, and limits.keep_free_percent = 10 keeps 100 of them free"
        );
        assert_eq!(
            of(500, 49).to_string(),
            "/d: 49 of 500 inodes are free, and limits.keep_free_percent = 10 keeps 50 of them free"
        );
        assert_eq!(of(99, 500).bytes_left(), 0);
        assert_eq!(of(500, 500).bytes_left(), 400);
    }

    #[test]
    fn figures_of_any_size_are_computed() {
        let all = u64::MAX;
        let huge = Space {
            bytes: all,
            bytes_free: all,
            inodes: all,
            inodes_free: all,
        };
        assert_eq!(level(&huge, 50), Level::Enough);
        assert_eq!(share(all, 100), all);
    }
}
