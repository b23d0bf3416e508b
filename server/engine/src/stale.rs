//! Names that a power cut left of directories that were being made.
//!
//! Without a journal a new name may be on the disk before the inode that it names, which then is what
//! it was before: a file that was deleted, say. So an entry of `l/`, `c/`, `aufs/diff/` or `w/` that has the name of a
//! layer and is no directory was never acknowledged as one, if no record has that layer; and no work
//! directory is ever needed, as start makes them anew. Seen on an ext4 without a journal.

use std::fs;
use std::path::Path;

use layerd_drivers::{Found, Slot};
use layerd_store::{LayerId, Records};
use tracing::{info, warn};

use crate::Engine;

impl Engine {
    /// Deletes such names; answers what else was found.
    pub(crate) fn drop_stale(&self, found: &[Found]) -> Vec<Found> {
        let view = self.root.store.records();
        let is_issued = |id: u64| self.root.store.is_issued(id);
        let is_stale = |path: &Path| is_stale(&view, &is_issued, path);
        let stays = |entry: &&Found| match entry {
            Found::UnknownEntry(path) if is_stale(path) => match fs::remove_file(path) {
                Ok(()) => {
                    info!(path = %path.display(), "a name that an interrupted call left was deleted");
                    false
                }
                Err(cause) => {
                    let error = &cause as &dyn std::error::Error;
                    warn!(error, path = %path.display(), "delete what an interrupted call left");
                    true
                }
            },
            _ => true,
        };
        found.iter().filter(stays).cloned().collect()
    }
}

fn is_stale(view: &Records, is_issued: &dyn Fn(u64) -> bool, path: &Path) -> bool {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let folder = path.parent().and_then(name).unwrap_or_default();
    let Some(Ok(Slot(id))) = name(path).map(|name| name.parse()) else {
        return false;
    };
    let has_record = || {
        let id = LayerId(id);
        view.get(id).is_some() || view.get_removed(id).is_some()
    };
    let is_unneeded = match folder.as_str() {
        // Of the driver aufs it is aufs/diff.
        "l" | "c" | "diff" => is_issued(id) && !has_record(),
        "w" => is_issued(id),
        _ => false,
    };
    is_unneeded && fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())
}
