//! Shared state of the three wings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_mounts::Space;
use layerd_store::Store;

use crate::backlog::Backlog;
use crate::events::{Events, Topic};
use crate::last_usage::LastUsage;
use crate::reserve::{Area, Reserve};
use crate::trash::{self, Look, Trash};
use crate::{Error, Options, meta_folder};

/// Parts that all wings of an engine use: records, events, the trash, and the mark that the daemon stops.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) store: Arc<Store>,
    pub(crate) events: Events,
    pub(crate) backlog: Backlog,
    pub(crate) trash: Trash,
    pub(crate) reserve: Reserve,
    /// What the usage scanner found in writable layers.
    pub(crate) last_usage: Arc<LastUsage>,
    pub(crate) options: Options,
    /// The data directory.
    pub(crate) path: PathBuf,
}

impl Root {
    /// Reads the state of the trash in `<path>/meta`.
    pub(crate) fn open(path: &Path, store: Store, options: Options) -> Result<Self, Error> {
        let meta = meta_folder(path);
        trash::hold_if_older(&meta, &store)?;
        let trash = Trash::open(
            &meta,
            options.trash.clone(),
            &store.records(),
            store.steady_now(),
        );
        Ok(Self {
            store: Arc::new(store),
            events: Events::default(),
            backlog: Backlog::default(),
            trash,
            reserve: Reserve::open(path, options.keep_free_percent),
            last_usage: Arc::default(),
            options,
            path: path.to_owned(),
        })
    }

    /// Releases the guard; what is in the trash goes when its time is up.
    pub(crate) fn release_trash(&self) {
        self.tell_release(self.trash.release(Vec::new()));
    }

    /// The same if nothing is left in the trash that could go, neither layers nor volumes.
    pub(crate) fn release_empty_trash(&self) {
        let view = self.store.records();
        if view.removed().next().is_none() && view.volumes().removed().next().is_none() {
            self.release_trash();
        }
    }

    pub(crate) fn tell_release(&self, was_held: bool) {
        if was_held {
            self.events
                .tell(Topic::Trash, "released", "the mass-removal guard");
        }
    }

    /// Inputs, as of now, to the decision about deletions.
    pub(crate) fn trash_look(&self, space_wanted: bool) -> Look {
        Look {
            now: self.store.steady_now(),
            live: self.store.records().len(),
            space_wanted,
        }
    }

    pub(crate) fn is_space_wanted(&self) -> bool {
        // Where this cannot be told, the time decides.
        let Ok(disk) = Space::of(&self.path) else {
            return false;
        };
        is_scarce(&disk, self.trash.min_free_percent())
            || self
                .look_at_reserve(Area::Layers)
                .is_some_and(|reserved| reserved.is_near())
    }
}

/// True if less than so many percent of the bytes of a file system are free, in whole percent.
fn is_scarce(disk: &Space, percent: u64) -> bool {
    let free = u128::from(disk.bytes_free) * 100 / u128::from(disk.bytes.max(1));
    free < u128::from(percent)
}

#[cfg(test)]
mod tests {
    use layerd_mounts::Space;

    use super::is_scarce;

    #[test]
    fn space_is_scarce_below_the_percentage() {
        let disk = |bytes_free| Space {
            bytes: 1000,
            bytes_free,
            ..Space::default()
        };
        for (free, percent, wanted) in [
            (100, 10, false),
            (99, 10, true),
            (1000, 100, false),
            (0, 0, false),
            (0, 1, true),
        ] {
            assert_eq!(is_scarce(&disk(free), percent), wanted, "{free} of 1000");
        }
        assert!(
            is_scarce(&Space::default(), 1),
            "a file system without bytes"
        );
    }
}
