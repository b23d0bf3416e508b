//! The copy of the records that a restore without a file takes, and what is newer than it on disk.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use layerd_drivers::{Driver, Found, SlotKind};
use layerd_mounts::{Slot, VolumeDirs};
use layerd_store::{Export, LayerId, Store, Timestamp};

use super::is_empty;
use crate::{Error, meta_folder};

/// The newest copy of lost records, compared with what is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestCopy {
    origin: Origin,
    taken: Timestamp,
    /// Layers with content, and volumes, that the copy does not know.
    newer: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Export,
    /// The damaged database itself.
    Database,
}

impl Origin {
    pub(super) fn of(copy: &Export, meta: &Path) -> Self {
        match copy.path == meta.join("db") {
            true => Self::Database,
            false => Self::Export,
        }
    }
}

/// Name and age of a copy: "the newest export, 3 h old".
pub(super) fn named(origin: Origin, taken: Timestamp) -> String {
    let name = match origin {
        Origin::Export => "the newest export",
        Origin::Database => "the records that the damaged database still holds",
    };
    let past = Timestamp::now().0.saturating_sub(taken.0);
    let seconds = u64::try_from(past).unwrap_or_default() / 1_000_000_000;
    let age = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    format!("{name}, {age} old")
}

impl fmt::Display for NewestCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&named(self.origin, self.taken))?;
        match self.newer {
            (0, 0) => f.write_str("; nothing on disk is newer"),
            (layers, volumes) => write!(
                f,
                "; {layers} layers (which go to lost/) and {volumes} volumes (which stay) on disk are newer"
            ),
        }
    }
}

/// Looks at what [`restore_records`](super::restore_records) without a file would take. `None` if no copy
/// is whole. Changes nothing. Costs as much as an opening, and a look into each layer without a record.
///
/// # Errors
/// [`Error::Store`] and [`Error::Driver`] if the disk cannot be read.
pub fn newest_copy(root: &Path, driver: &dyn Driver) -> Result<Option<NewestCopy>, Error> {
    let meta = meta_folder(root);
    if !meta.exists() {
        return Ok(None);
    }
    let Some(copy) = Store::newest_copy(&meta)? else {
        return Ok(None);
    };
    let known: BTreeSet<LayerId> = copy.records().map(|record| record.id).collect();
    let mut layers = 0;
    for entry in driver.list().map_err(Error::driver("list the layers"))? {
        if let Found::Slot(SlotKind::Layer, Slot(id)) = entry
            && !known.contains(&LayerId(id))
            && !is_empty(driver, LayerId(id))?
        {
            layers += 1;
        }
    }
    let known: BTreeSet<u64> = copy.volumes().map(|volume| volume.id.0).collect();
    let found = VolumeDirs::survey(root).map_err(Error::driver("list the volumes"))?;
    let volumes = found.live.iter().filter(|slot| !known.contains(&slot.0));
    Ok(Some(NewestCopy {
        origin: Origin::of(&copy, &meta),
        taken: copy.taken,
        newer: (layers, volumes.count()),
    }))
}
