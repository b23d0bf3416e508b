//! Figures of a device, from which usage is told without a walk.
//!
//! They stand in symlinks in the entry of a layer, `l/<slot>/from` and `l/<slot>/frozen`: those of the
//! content that it started from, and its own at Commit. The second also says that it is committed.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;

use layerd_mounts::{Error, Slot, Usage};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::dirs::LayerDirs;

/// Name of the figures of what a layer started from.
pub(super) const FROM: &str = "from";
/// Name of the figures of a committed layer.
pub(super) const FROZEN: &str = "frozen";

/// Occupied room of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Sectors that the pool maps, shared ones included.
    pub(super) sectors: u64,
    /// Bytes that the file system says are used.
    pub(super) bytes: u64,
    /// Inodes that it says are used.
    pub(super) inodes: u64,
}

impl Figures {
    /// Room beyond that of `from`. A block that is written anew takes no further block in the file
    /// system, and may share one of the pool no longer, which the pool does not count: so the bytes are
    /// at least those, and the larger of both is nearer. The top directory, which each layer has, counts.
    pub(super) fn beyond(self, from: Self) -> Usage {
        let mapped = self.sectors.saturating_sub(from.sectors);
        let written = self.bytes.saturating_sub(from.bytes);
        Usage {
            bytes: mapped.saturating_mul(512).max(written),
            inodes: self.inodes.saturating_sub(from.inodes).saturating_add(1),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.sectors, self.bytes, self.inodes)
    }
}

/// A text that has no figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFigures;

impl FromStr for Figures {
    type Err = NoFigures;

    fn from_str(text: &str) -> Result<Self, NoFigures> {
        let numbers = text.split(' ').map(|word| word.parse().ok());
        let numbers: Option<Vec<u64>> = numbers.collect();
        match numbers.as_deref() {
            Some([sectors, bytes, inodes]) => Ok(Self {
                sectors: *sectors,
                bytes: *bytes,
                inodes: *inodes,
            }),
            _ => Err(NoFigures),
        }
    }
}

/// Figures that are noted of a layer; `None` if there are none, or nothing that can be read.
pub(super) fn noted(dirs: &LayerDirs, slot: Slot, name: &str) -> Result<Option<Figures>, Error> {
    let path = format!("{slot}/{name}");
    match readlinkat(&dirs.layers.fd, path.as_str()) {
        Ok(text) => Ok(text.to_str().and_then(|text| text.parse().ok())),
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(cause) => Err(Error::io("read", &dirs.layers.path.join(path), cause)),
    }
}

/// Notes figures of a layer, in place of others. Not durable.
pub(super) fn note(
    dirs: &LayerDirs,
    slot: Slot,
    name: &str,
    figures: Figures,
) -> Result<(), Error> {
    forget(dirs, slot, name)?;
    let path = format!("{slot}/{name}");
    let made = symlinkat(
        figures.to_string().as_str(),
        dirs.layers.fd.as_fd(),
        path.as_str(),
    );
    dirs.barrier.note();
    made.map_err(|cause| Error::io("create symlink", &dirs.layers.path.join(path), cause))
}

/// Deletes figures of a layer. None there is success.
pub(super) fn forget(dirs: &LayerDirs, slot: Slot, name: &str) -> Result<(), Error> {
    let path = format!("{slot}/{name}");
    match unlinkat(&dirs.layers.fd, path.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) => {
            dirs.barrier.note();
            Ok(())
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(cause) => Err(Error::io("delete", &dirs.layers.path.join(path), cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, NoFigures};

    fn figures(sectors: u64, bytes: u64, inodes: u64) -> Figures {
        Figures {
            sectors,
            bytes,
            inodes,
        }
    }

    #[test]
    fn figures_come_back() {
        let some = figures(1, u64::MAX, 3);
        assert_eq!(some.to_string().parse(), Ok(some));
        for text in ["", "1 2", "1 2 3 4", "1 2 x", "1 2 -3", "1  2 3"] {
            assert_eq!(text.parse::<Figures>(), Err(NoFigures), "{text:?}");
        }
    }

    #[test]
    fn usage_is_the_larger_growth() {
        let from = figures(100, 10_000, 12);
        let usage = |of: Figures| (of.beyond(from).bytes, of.beyond(from).inodes);
        assert_eq!(usage(from), (0, 1));
        assert_eq!(usage(figures(228, 10_000, 13)), (65_536, 2));
        assert_eq!(usage(figures(100, 18_192, 12)), (8_192, 1));
        assert_eq!(usage(figures(1, 1, 1)), (0, 1), "it may shrink");
    }
}
