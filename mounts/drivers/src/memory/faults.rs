//! A disk that fails when told to, and that can lose its power. Tests only.

use std::path::Path;

use layerd_mounts::Slot;
use nix::errno::Errno;

use super::{Failure, Memory};

impl Memory {
    /// Lets the `nth` step from now on, counted from 1, fail once. Each directory made, moved,
    /// deleted or made durable is a step.
    pub fn fail_at(&self, nth: u64, errno: Errno) {
        self.fail(nth, errno, false);
    }

    /// Lets the `nth` step from now on and all later ones fail.
    pub fn fail_from(&self, nth: u64, errno: Errno) {
        self.fail(nth, errno, true);
    }

    /// Lets everything work again. Answers whether a failure was set and never reached: the end of
    /// a test that fails at step 1, 2, 3 and so on.
    pub fn heal(&self) -> bool {
        let mut disk = self.disk();
        let steps = disk.steps;
        disk.failure
            .take()
            .is_some_and(|failure| failure.at > steps)
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Takes the disk back to what was durable. All work directories are lost, as they may be.
    pub fn cut_power(&self) {
        let mut disk = self.disk();
        disk.now = disk.durable.clone();
        disk.now.work.clear();
        disk.now.trashed_work.clear();
        disk.failure = None;
    }

    /// Puts a file into a layer, which must be there.
    pub fn fill(&self, slot: Slot, bytes: u64) {
        let mut disk = self.disk();
        let layer = disk.now.layers.get_mut(&slot).expect("the layer is there");
        layer.usage.bytes += bytes;
        layer.usage.inodes += 1;
    }

    /// Loses a layer that was there, as a careless operator would.
    pub fn lose(&self, slot: Slot) {
        let mut disk = self.disk();
        disk.now.layers.remove(&slot);
        disk.durable.layers.remove(&slot);
    }

    /// Pretends that something is mounted inside a slot, or no longer.
    pub fn set_mounted(&self, slot: Slot, mounted: bool) {
        let mut disk = self.disk();
        if mounted {
            disk.mounted.insert(slot);
        } else {
            disk.mounted.remove(&slot);
        }
    }

    /// Puts something unknown beside the layers.
    pub fn add_unknown_entry(&self, path: &Path) {
        self.disk().unknown_entries.push(path.to_owned());
    }

    fn fail(&self, nth: u64, errno: Errno, forever: bool) {
        let mut disk = self.disk();
        disk.failure = Some(Failure {
            at: disk.steps + nth,
            errno,
            forever,
        });
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use crate::driver::{Base, Driver, Found, SlotKind, Survey};
    use crate::memory::Memory;
    use layerd_mounts::Slot;

    #[test]
    fn fails_at_the_step_it_was_told() {
        let fake = Memory::new();
        fake.fail_at(2, Errno::ENOSPC);
        let error = fake.create(Slot(1), &Base::deferred()).expect_err("step 2");
        assert_eq!(error.errno(), Some(Errno::ENOSPC as i32));
        assert_eq!(
            fake.list().expect("list"),
            [Found::Slot(SlotKind::Layer, Slot(1))]
        );
        assert!(!fake.heal(), "the failure was reached");
        fake.fail_at(3, Errno::EIO);
        fake.create(Slot(2), &Base::deferred()).expect("two steps");
        assert!(fake.heal(), "the failure was not reached");
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let fake = Memory::new();
        fake.create(Slot(1), &Base::deferred()).expect("create");
        fake.sync().expect("sync");
        fake.create(Slot(2), &Base::deferred()).expect("create");
        fake.discard(Slot(1)).expect("discard");
        fake.cut_power();
        assert_eq!(
            fake.list().expect("list"),
            [Found::Slot(SlotKind::Layer, Slot(1))]
        );
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let fake = Memory::new();
        fake.create(Slot(1), &Base::empty()).expect("create");
        fake.fail_at(1, Errno::EIO);
        fake.sync().expect_err("told to fail");
        fake.cut_power();
        assert_eq!(fake.list().expect("list"), []);
    }
}
