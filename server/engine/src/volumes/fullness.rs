//! Fullness of volumes: events at marks of their limits, and figures for metrics.

use layerd_mounts::Space;
use layerd_store::{Volume, VolumeId};

use super::sizes::limit_of;
use super::slot;
use crate::events::Topic;
use crate::{Fullness, Volumes};

impl Volumes {
    /// Tells of each volume that passed 80 or 95 % of the bytes or inodes of its limit since the last look,
    /// or fell 5 % below. Costs a few looks for each volume with a limit. One whose image is not mounted, as
    /// while it is checked or enlarged, keeps its mark and is not mounted for it.
    pub fn look_at_fullness(&self) {
        let records = self.root.store.records();
        let limited = records.volumes().iter();
        let limited = limited.filter(|volume| limit_of(volume).is_some());
        self.marks.look(
            (&self.root.events, Topic::Volume),
            limited.map(|volume| (volume.id, volume.name.as_str())),
            |id: VolumeId| self.dirs.space_if_mounted(slot(id)),
        );
    }

    /// Fullness of the oldest volumes, at most so many. Costs a few looks for each with a limit, and mounts
    /// nothing: an image that is not mounted shows as a volume without a limit.
    pub fn fullness(&self, most: usize) -> Vec<Fullness> {
        let records = self.root.store.records();
        let volumes = records.volumes().iter().take(most);
        let fullness = volumes.map(|volume| {
            let measured = volume.usage.map(|(usage, _)| usage);
            Fullness::new(volume.name.as_str(), self.limited_space(volume), measured)
        });
        fullness.collect()
    }

    fn limited_space(&self, volume: &Volume) -> Option<Space> {
        limit_of(volume)?;
        self.dirs.space_if_mounted(slot(volume.id)).ok().flatten()
    }
}
