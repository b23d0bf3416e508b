//! Facts for health checks from outside.

use std::time::Duration;

use layerd_store::{Record, Room, Timestamp, has_reserve, newest_export};

use crate::{Engine, meta_folder};

/// The state of what a root rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Set if the process before this one was killed, or the power was cut.
    pub ended_uncleanly: bool,
    /// When the newest export of the records was written.
    pub exported: Option<Timestamp>,
    /// Set if records were changed since.
    pub export_is_behind: bool,
    /// Below this nothing new is taken.
    pub low: Room,
    /// Above this it is taken again.
    pub enough: Room,
    /// Set if space is reserved for removals on a full disk.
    pub has_reserve: bool,
    /// Time for which a change of records has been waiting for the disk.
    pub writing_for: Duration,
    /// The latest time in a record; later than now if the clock went back.
    pub newest: Option<Timestamp>,
}

impl Engine {
    /// Looks at what the root rests on. Costs a walk through memory and a look at the folder of the
    /// records, which waits for the disk.
    #[must_use]
    pub fn health(&self) -> Health {
        let meta = meta_folder(&self.root.path);
        let view = self.root.store.records();
        let exported = newest_export(&meta, view.sequence());
        Health {
            ended_uncleanly: self.root.store.was_unclean(),
            exported: exported.map(|(_, time)| time),
            export_is_behind: exported.map_or(0, |(sequence, _)| sequence) < view.sequence(),
            low: Room::LOW,
            enough: Room::ENOUGH,
            has_reserve: has_reserve(&meta),
            writing_for: self.root.store.writing_for(),
            newest: view
                .iter()
                .chain(view.removed())
                .map(|record| latest(record))
                .max(),
        }
    }
}

fn latest(record: &Record) -> Timestamp {
    let removed = record.removed.map(|removed| removed.time);
    record.updated.max(removed.unwrap_or(record.updated))
}
