//! The trash, and who may be deleted from it.
//!
//! A removed layer is in the trash for a while: its record says so, and its directories stay where
//! they are; likewise a deleted volume. `trash/guard.rs` decides what may go.

mod guard;

pub use guard::{Discarded, TrashOptions};
pub(crate) use guard::{Look, Trash, hold_if_older, hold_older};

use crate::Engine;
use crate::events::Topic;

impl Engine {
    /// Why the trash is not deleted, if that is so.
    #[must_use]
    pub fn guard(&self) -> Option<String> {
        self.root.trash.guard()
    }

    /// True if nothing is deleted because the records are those of a backup, older than the directories.
    #[must_use]
    pub fn has_older_records(&self) -> bool {
        self.root.trash.is_held_for_older()
    }

    /// Releases the guard and lets everything that is in the trash now be deleted, whatever its age.
    pub fn empty_trash(&self) {
        let view = self.root.store.records();
        let layers = view
            .removed()
            .filter_map(|record| Some((Discarded::Layer(record.id), record.removed?)));
        let volumes = view.volumes().removed();
        let volumes =
            volumes.filter_map(|volume| Some((Discarded::Volume(volume.id), volume.removed?)));
        self.root
            .tell_release(self.root.trash.empty(layers.chain(volumes).collect()));
        self.root.events.tell(Topic::Trash, "emptied", "on demand");
    }

    /// Releases the guard; what is in the trash goes when its time is up.
    pub fn release_guard(&self) {
        self.root.release_trash();
    }
}
