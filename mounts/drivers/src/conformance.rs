//! The checks every [`Driver`] must pass. Tests only: they panic with the name of the rule.

use std::io::ErrorKind;

use layerd_mounts::{Error, Slot};

use crate::driver::{Base, Driver, Found, Place, Stack};

/// Runs all checks on a driver that holds nothing yet. `fill` puts one file of at least 8192 bytes
/// of content into a layer.
///
/// # Panics
/// If a rule is broken.
pub fn check(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    assert_eq!(listed(driver), [], "the checks start on an empty driver");
    creation(driver);
    spares(driver);
    measuring(driver, fill);
    filling(driver, fill);
    trash(driver, fill);
    stopping(driver, fill);
    planning(driver);
    assert!(
        !driver.describe().is_empty(),
        "a driver says something of itself"
    );
}

/// What is listed, in order.
///
/// # Panics
/// If listing fails, or lists something the driver cannot have made.
fn listed(driver: &dyn Driver) -> Vec<(Place, Slot)> {
    let found = driver.list().expect("listing works");
    let slot = |found| match found {
        Found::Slot(place, slot) => Some((place, slot)),
        Found::Stranger(_) => None,
    };
    let mut slots: Vec<_> = found.into_iter().filter_map(slot).collect();
    slots.sort();
    slots
}

fn clear(driver: &dyn Driver) {
    for (_, slot) in listed(driver) {
        driver.retire(slot).expect("retiring works");
    }
    driver.sync().expect("syncing works");
    for (_, slot) in listed(driver) {
        driver.delete(slot, &|| true).expect("deleting works");
    }
    assert_eq!(listed(driver), [], "nothing stays behind");
}

fn creation(driver: &dyn Driver) {
    let (one, two, view) = (Slot(1), Slot(2), Slot(3));
    driver.create(one, Base::Empty, true).expect("create");
    driver.create(two, Base::On(one), true).expect("create on");
    driver.create(view, Base::Empty, false).expect("create");
    driver.sync().expect("sync");
    driver.sync().expect("sync with nothing to do");
    let made = [
        (Place::Layer, one),
        (Place::Layer, two),
        (Place::Layer, view),
        (Place::Work, one),
        (Place::Work, two),
    ];
    assert_eq!(listed(driver), made, "only writable layers are worked on");
    let again = driver.create(one, Base::Empty, true);
    is(&again, ErrorKind::AlreadyExists, "a slot is made once");
    let orphan = driver.create(Slot(4), Base::On(Slot(999)), true);
    is(&orphan, ErrorKind::NotFound, "the parent must be there");
    assert_eq!(listed(driver), made, "a refusal leaves nothing behind");
    another_work_directory(driver, &made);
    driver
        .ensure_work(one)
        .expect("a work directory may be there");
    let missing = driver.ensure_work(Slot(999));
    is(&missing, ErrorKind::NotFound, "no work without a layer");
    assert_eq!(
        listed(driver),
        made,
        "ensuring what is there changes nothing"
    );
    clear(driver);
}

/// Nobody knows whose it is: it is neither used nor in danger of being retired with the layer.
fn another_work_directory(driver: &dyn Driver, others: &[(Place, Slot)]) {
    let slot = Slot(5);
    driver.create(slot, Base::Empty, true).expect("create");
    let layer = Found::Slot(Place::Layer, slot);
    driver.set_aside(&layer).expect("move away");
    let taken = driver.create(slot, Base::Empty, true);
    is(
        &taken,
        ErrorKind::AlreadyExists,
        "the work directory is another's",
    );
    let mut left = [others, &[(Place::Work, slot)]].concat();
    left.sort();
    assert_eq!(listed(driver), left, "a refusal leaves nothing behind");
    driver.seal(slot).expect("drop the work directory");
}

fn spares(driver: &dyn Driver) {
    let [parent, one, two, left] = [41, 42, 43, 44].map(Slot);
    let ids = Base::Owned { uid: 7, gid: 8 };
    driver.create(parent, ids, true).expect("create");
    for spare in [one, two, left] {
        driver.create(spare, Base::Empty, true).expect("make ahead");
        assert!(driver.is_unused(spare).expect("look"), "nobody has it");
    }
    driver.sync().expect("sync");
    let missing = driver.take_spare(Slot(999), Base::Empty, true);
    is(&missing, ErrorKind::NotFound, "it was not made ahead");
    driver
        .take_spare(one, Base::On(parent), true)
        .expect("take");
    driver.take_spare(two, Base::Empty, false).expect("take");
    let made = [
        (Place::Layer, parent),
        (Place::Layer, one),
        (Place::Layer, two),
        (Place::Layer, left),
        (Place::Work, parent),
        (Place::Work, one),
        (Place::Work, left),
    ];
    assert_eq!(listed(driver), made, "a view needs no work directory");
    clear(driver);
}

fn measuring(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(36);
    let missing = driver.usage(slot, &|| true);
    is(&missing, ErrorKind::NotFound, "nothing cannot be measured");
    driver.create(slot, Base::Empty, true).expect("create");
    let empty = driver.usage(slot, &|| true).expect("measure");
    assert_eq!(empty.inodes, 1, "the top directory counts");
    fill(slot);
    let filled = driver.usage(slot, &|| true).expect("measure");
    assert_eq!(filled.inodes, 2, "the file counts");
    assert!(filled.bytes >= empty.bytes + 8192, "its blocks count");
    let stopped = driver.usage(slot, &|| false);
    assert!(matches!(stopped, Err(Error::Stopped)), "it can be stopped");
    clear(driver);
}

fn filling(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(37);
    let missing = driver.stamp(slot);
    is(&missing, ErrorKind::NotFound, "nothing cannot be filled");
    driver.create(slot, Base::Empty, true).expect("create");
    let stamp = || driver.stamp(slot).expect("a stamp");
    let fresh = stamp();
    assert!(fresh.is_some(), "nobody has mounted it");
    driver.sync().expect("sync");
    assert_eq!(stamp(), fresh, "a stamp stays while nothing changes");
    // Times of files advance with the clock tick.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fill(slot);
    assert_ne!(stamp(), fresh, "a change shows");
    clear(driver);
}

fn trash(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let (slot, other) = (Slot(1296), Slot(1297));
    driver.create(slot, Base::Empty, true).expect("create");
    driver.create(other, Base::Empty, true).expect("create");
    fill(slot);
    let before = listed(driver);
    driver.delete(slot, &|| true).expect("delete");
    assert_eq!(listed(driver), before, "what is in use is not deleted");
    assert!(driver.has(slot).expect("look"), "nor moved");
    for _ in 0..2 {
        driver.retire(slot).expect("retiring may be repeated");
    }
    let rest = [
        (Place::Layer, other),
        (Place::Work, other),
        (Place::Trash, slot),
    ];
    assert_eq!(listed(driver), rest, "all of a slot goes to the trash");
    assert!(!driver.has(slot).expect("look"), "not whole any more");
    for _ in 0..2 {
        driver
            .delete(slot, &|| true)
            .expect("deleting may be repeated");
    }
    assert_eq!(listed(driver), rest[..2], "the other slot is left alone");
    driver
        .retire(Slot(999))
        .expect("there may be nothing to retire");
    assert!(!driver.has(Slot(999)).expect("look"), "there never was one");
    clear(driver);
}

fn stopping(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(7);
    driver.create(slot, Base::Empty, true).expect("create");
    fill(slot);
    driver.retire(slot).expect("retire");
    let stopped = driver.delete(slot, &|| false);
    assert!(matches!(stopped, Err(Error::Stopped)), "it can be stopped");
    assert_eq!(
        listed(driver),
        [(Place::Trash, slot)],
        "and is not forgotten"
    );
    driver.delete(slot, &|| true).expect("and goes on later");
    clear(driver);
}

fn planning(driver: &dyn Driver) {
    let stack = |own, parents: u64, writable| Stack {
        own,
        parents: (0..parents).map(Slot).collect(),
        writable,
        ids: None,
    };
    let one = driver
        .plan(&stack(Some(Slot(1000)), 1, true))
        .expect("plan");
    assert_eq!(one.len(), 1, "clients such as BuildKit take one mount only");
    let again = driver
        .plan(&stack(Some(Slot(1000)), 1, true))
        .expect("plan");
    assert_eq!(one, again, "a plan does not change");
    assert_eq!(driver.top_of(&one[0]), Some(Slot(1000)), "a plan is read");
    for bad in [stack(None, 0, false), stack(None, 3, true)] {
        let refused = matches!(driver.plan(&bad), Err(Error::NotAStack { .. }));
        assert!(refused, "{bad:?} is no stack");
    }
    assert_eq!(listed(driver), [], "planning makes nothing");
}

fn is<T: std::fmt::Debug>(result: &Result<T, Error>, kind: ErrorKind, rule: &str) {
    let found = result.as_ref().err().and_then(Error::io_kind);
    assert_eq!(found, Some(kind), "{rule}: {result:?}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::check;
    use crate::fake::Fake;
    use crate::overlay::{Options, Overlay};
    use layerd_mounts::rig::{LoopDisk, enter_private_mounts};

    fn check_overlay(root: &Path) {
        let driver = Overlay::open(root, &Options::default()).expect("open");
        check(&driver, &|slot| {
            let file = driver.layer_path(slot).join("file");
            std::fs::write(&file, [7; 8192]).expect("write");
            // btrfs counts blocks only once they are written.
            let file = std::fs::File::open(file).expect("open");
            file.sync_all().expect("sync");
        });
    }

    #[test]
    fn fake_keeps_the_contract() {
        let fake = Fake::new();
        check(&fake, &|slot| fake.fill(slot, 8192));
    }

    #[test]
    fn overlay_keeps_the_contract() {
        let root = tempfile::tempdir().expect("a temporary directory");
        check_overlay(root.path());
    }

    #[test]
    fn root_overlay_keeps_the_contract_on_xfs() {
        enter_private_mounts();
        let disk = LoopDisk::xfs(&[]);
        check_overlay(disk.path());
    }

    #[test]
    fn root_overlay_keeps_the_contract_on_btrfs() {
        enter_private_mounts();
        let disk = LoopDisk::btrfs();
        check_overlay(disk.path());
    }

    #[test]
    fn root_overlay_keeps_the_contract_on_tmpfs() {
        enter_private_mounts();
        let disk = LoopDisk::tmpfs();
        check_overlay(disk.path());
    }
}
