//! Fullness of writable layers: events at marks of their limits, and figures for metrics.

use layerd_mounts::{Error, Space};
use layerd_store::{Kind, LayerId, Record, Records};

use crate::events::Topic;
use crate::stack::Top;
use crate::{Fullness, Layers, slot};

impl Layers {
    /// Tells of each writable layer that passed 80 or 95 % of the bytes or inodes of its limit since the last
    /// look, or fell 5 % below. Costs a few looks for each with a limit, and walks nothing. One whose file
    /// system is not mounted keeps its mark and is not mounted for it.
    pub fn look_at_fullness(&self) {
        let records = self.root.store.records();
        let limited = records.iter().filter(|record| self.is_held(record));
        self.marks.look(
            (&self.root.events, Topic::Snapshot),
            limited.map(|record| (record.id, record.key.as_str())),
            |id| self.space(id),
        );
    }

    /// Fullness of the oldest writable layers with a limit, at most so many, with the keys of their snapshots.
    /// Costs a few looks for each, and mounts nothing: one that is not mounted is left out.
    #[must_use]
    pub fn limited_fullness(&self, most: usize) -> Vec<Fullness> {
        let records = self.root.store.records();
        let limited = records.iter().filter(|record| self.is_held(record));
        let fullness = limited.filter_map(|record| {
            let space = self.space(record.id).ok().flatten()?;
            Some(Fullness::new(record.key.as_str(), Some(space), None))
        });
        fullness.take(most).collect()
    }

    /// Fullness of all active snapshots, those without a limit included, each with the directory that its
    /// mounts write to, if they name one. Costs as much, and the plan of their mounts.
    #[must_use]
    pub fn fullness(&self) -> Vec<(Fullness, Option<String>)> {
        let records = self.root.store.records();
        let active = records.iter().filter(|one| one.kind == Kind::Active);
        let fullness = active.map(|record| {
            let space = self.space(record.id).ok().flatten();
            let measured = self.usage_scanner.last(record.id);
            let fullness = Fullness::new(record.key.as_str(), space, measured);
            (fullness, self.written_path(&records, record))
        });
        fullness.collect()
    }

    fn written_path(&self, records: &Records, record: &Record) -> Option<String> {
        let stack = Top::recorded(records, record, None).stack(records);
        let mounts = self.driver.plan(&stack).ok()?;
        mounts.last()?.written().map(str::to_owned)
    }

    fn is_held(&self, record: &Record) -> bool {
        record.kind == Kind::Active && self.is_limited(record.id)
    }

    /// Room in a layer that is held to a limit and mounted.
    fn space(&self, id: LayerId) -> Result<Option<Space>, Error> {
        let limits = self.driver.limits();
        limits.map_or(Ok(None), |limits| limits.space(slot(id)))
    }
}
