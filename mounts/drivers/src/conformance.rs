//! Rules that every [`Driver`] must keep, whatever its layering and its capabilities. Tests only: they
//! panic with the name of the rule.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use layerd_layers::Layering;
use layerd_mounts::{Error, Slot, tree};

use crate::driver::{Base, Driver, Found, SlotKind, Stack};

/// Runs all checks on a driver whose layers are directories, of which `path` answers each.
///
/// # Panics
/// As [`check`] does, or if a layer cannot be written.
pub fn check_directories(driver: &dyn Driver, path: &dyn Fn(Slot) -> PathBuf) {
    check(driver, &|slot| {
        // A copy has the file already.
        let path = path(slot).join("file");
        fs::write(&path, [7; 8192]).expect("write");
        // btrfs counts blocks only once they are written.
        let file = fs::File::open(path).expect("open");
        file.sync_all().expect("sync");
    });
}

/// Runs all checks on a driver that holds nothing yet. `fill` puts one file of at least 8192 bytes
/// of content into a layer.
///
/// # Panics
/// If a rule is broken.
pub fn check(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    assert_eq!(listed(driver), [], "the checks start on an empty driver");
    creation(driver);
    acknowledging(driver, fill);
    content(driver, fill);
    pool(driver);
    measuring(driver, fill);
    filling(driver, fill);
    freezing(driver, fill);
    trash(driver, fill);
    stopping(driver, fill);
    planning(driver);
    assert!(
        !driver.info().facts.is_empty(),
        "a driver says something of itself"
    );
}

/// Listed directories, in order.
///
/// # Panics
/// If listing fails, or lists something the driver cannot have made.
fn listed(driver: &dyn Driver) -> Vec<(SlotKind, Slot)> {
    let found = driver.list().expect("listing works");
    let slot = |found| match found {
        Found::Slot(kind, slot) => Some((kind, slot)),
        Found::UnknownEntry(_) => None,
    };
    let mut slots: Vec<_> = found.into_iter().filter_map(slot).collect();
    slots.sort();
    slots
}

/// Directories that a driver must list for acknowledged layers with these bases.
fn expected(driver: &dyn Driver, layers: &[(Slot, Base)]) -> Vec<(SlotKind, Slot)> {
    let worked = layers.iter().filter(|(_, base)| driver.needs_work(base));
    let worked = worked.map(|(slot, _)| (SlotKind::Work, *slot));
    let mut all: Vec<_> = layers
        .iter()
        .map(|(slot, _)| (SlotKind::Layer, *slot))
        .collect();
    all.extend(worked);
    all.sort();
    all
}

/// Makes a layer as the engine does: durable, then recorded, then mountable.
fn create(driver: &dyn Driver, slot: Slot, base: &Base) {
    driver.create(slot, base).expect("create");
    driver.sync().expect("sync");
    acknowledge(driver, slot);
}

/// A writable layer with nothing below.
fn writable(slot: Slot) -> Stack {
    Stack {
        own: Some(slot),
        parents: Vec::new(),
        writable: true,
        ids: None,
        limit: None,
    }
}

fn acknowledge(driver: &dyn Driver, slot: Slot) {
    let stack = writable(slot);
    driver.make_mountable(&stack).expect("make mountable");
}

fn clear(driver: &dyn Driver) {
    for (_, slot) in listed(driver) {
        driver.discard(slot).expect("discarding works");
    }
    driver.sync().expect("syncing works");
    for (_, slot) in listed(driver) {
        driver.delete(slot, &|| true).expect("deleting works");
    }
    assert_eq!(listed(driver), [], "nothing stays behind");
}

fn creation(driver: &dyn Driver) {
    let (one, two, view) = (Slot(1), Slot(2), Slot(3));
    let layers = [
        (one, Base::empty()),
        (two, Base::on(one)),
        (view, Base::empty().read_only()),
    ];
    for (slot, base) in &layers {
        create(driver, *slot, base);
    }
    driver.sync().expect("sync with nothing to do");
    let made = expected(driver, &layers);
    assert_eq!(listed(driver), made, "only writable layers are worked on");
    let again = driver.create(one, &Base::empty());
    is(&again, ErrorKind::AlreadyExists, "a slot is made once");
    let missing = driver.create(Slot(4), &Base::on(Slot(999)));
    is(&missing, ErrorKind::NotFound, "the parent must be there");
    // Drivers may leave something that a discard takes away.
    driver.discard(Slot(4)).expect("discard");
    driver.delete(Slot(4), &|| true).expect("delete");
    assert_eq!(listed(driver), made, "a refusal leaves nothing behind");
    let Some(work) = driver.work_dirs() else {
        return clear(driver);
    };
    let (needing, base) = (Slot(5), Base::on(one));
    if driver.needs_work(&base) {
        another_work_directory(driver, needing, &base);
        work.restore(two).expect("it may be there");
        let missing = work.restore(Slot(999));
        is(&missing, ErrorKind::NotFound, "no work without a layer");
    }
    assert_eq!(
        listed(driver),
        made,
        "restoring what is there changes nothing"
    );
    clear(driver);
}

/// Another owner's work directory is neither used nor in danger of being discarded with the layer.
fn another_work_directory(driver: &dyn Driver, slot: Slot, base: &Base) {
    let before = listed(driver);
    create(driver, slot, base);
    let layer = Found::Slot(SlotKind::Layer, slot);
    driver.move_to_lost_found(&layer).expect("move away");
    let taken = driver.create(slot, base);
    is(
        &taken,
        ErrorKind::AlreadyExists,
        "the work directory is another's",
    );
    let mut left = [before, vec![(SlotKind::Work, slot)]].concat();
    left.sort();
    assert_eq!(listed(driver), left, "a refusal leaves nothing behind");
    let work = driver.work_dirs().expect("it has one");
    work.remove(slot).expect("drop the work directory");
}

/// A layer whose making was not acknowledged is told from one that a client may have written to.
fn acknowledging(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let (parent, child) = (Slot(51), Slot(52));
    create(driver, parent, &Base::empty());
    fill(parent);
    assert!(
        !driver.is_unused(parent).expect("look"),
        "what was written is in use"
    );
    assert!(
        !driver.is_empty(parent).expect("look"),
        "and holds something"
    );
    driver.create(child, &Base::on(parent)).expect("create");
    driver.sync().expect("sync");
    assert!(
        driver.is_unused(child).expect("look"),
        "its making may still fail"
    );
    assert!(
        driver.is_empty(child).expect("look"),
        "nothing is lost by it"
    );
    driver.discard(child).expect("discard");
    assert!(driver.is_empty(child).expect("look"), "nor in the trash");
    assert!(driver.is_unused(Slot(999)).expect("look"), "there is none");
    clear(driver);
}

/// The content of a new layer is where the layering says.
fn content(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let Some(directories) = driver.directories() else {
        return;
    };
    let (parent, child) = (Slot(61), Slot(62));
    create(driver, parent, &Base::empty());
    fill(parent);
    driver.write_back(parent).expect("write back");
    driver.freeze(&writable(parent)).expect("freeze");
    create(driver, child, &Base::on(parent));
    let open = driver.open_layer(child).expect("open");
    let is_empty = tree::is_empty(open.as_fd(), Path::new("child")).expect("read");
    let holds_all = directories.layering() == Layering::Full;
    assert_eq!(is_empty, !holds_all, "a layer holds what its layering says");
    // A file system of its own is in use as long as one of its files is open.
    drop(open);
    fill(child);
    let after = driver.usage(parent, &|| true).expect("measure").inodes;
    assert_eq!(after, 2, "the parent stays as it is");
    clear(driver);
}

fn pool(driver: &dyn Driver) {
    let Some(pool) = driver.pool() else {
        return;
    };
    let [parent, one, two, left] = [41, 42, 43, 44].map(Slot);
    create(driver, parent, &Base::empty().owned(7, 8));
    for ahead in [one, two, left] {
        driver.create(ahead, &Base::deferred()).expect("make ahead");
        assert!(driver.is_unused(ahead).expect("look"), "it is not taken");
    }
    driver.sync().expect("sync");
    let missing = pool.take(Slot(999), &Base::empty());
    is(&missing, ErrorKind::NotFound, "it was not made ahead");
    let (child, view) = (Base::on(parent), Base::empty().read_only());
    pool.take(one, &child).expect("take");
    pool.take(two, &view).expect("take");
    let made = expected(
        driver,
        &[
            (parent, Base::empty()),
            (one, child),
            (two, view),
            (left, Base::deferred()),
        ],
    );
    assert_eq!(listed(driver), made, "what is taken is as if just made");
    clear(driver);
}

fn measuring(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(36);
    let missing = driver.usage(slot, &|| true);
    is(&missing, ErrorKind::NotFound, "nothing cannot be measured");
    create(driver, slot, &Base::empty());
    let empty = driver.usage(slot, &|| true).expect("measure");
    assert_eq!(empty.inodes, 1, "the top directory counts");
    fill(slot);
    let filled = driver.usage(slot, &|| true).expect("measure");
    assert_eq!(filled.inodes, 2, "the file counts");
    assert!(filled.bytes >= empty.bytes + 8192, "its blocks count");
    let written = driver.write_back(slot).expect("write back");
    assert_eq!(written.inodes, 2, "it is measured on the way to the disk");
    let stopped = driver.usage(slot, &|| false);
    assert!(matches!(stopped, Err(Error::Stopped)), "it can be stopped");
    clear(driver);
}

fn filling(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let Some(directories) = driver.directories() else {
        return;
    };
    let slot = Slot(37);
    let missing = directories.stamp(slot);
    is(&missing, ErrorKind::NotFound, "nothing cannot be filled");
    create(driver, slot, &Base::empty());
    let stamp = || directories.stamp(slot).expect("a stamp");
    let fresh = stamp();
    assert!(fresh.is_some(), "it was never mounted");
    driver.sync().expect("sync");
    assert_eq!(stamp(), fresh, "a stamp stays while nothing changes");
    // Times of files advance with the clock tick.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fill(slot);
    assert_ne!(stamp(), fresh, "a change shows");
    directories.filled().expect("note what was written");
    clear(driver);
}

fn freezing(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(38);
    create(driver, slot, &Base::empty());
    fill(slot);
    for _ in 0..2 {
        let stack = writable(slot);
        driver.freeze(&stack).expect("freezing may be repeated");
    }
    let usage = driver.usage(slot, &|| true).expect("measure");
    assert_eq!(usage.inodes, 2, "a frozen layer holds what it held");
    clear(driver);
}

fn trash(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let (slot, other) = (Slot(1296), Slot(1297));
    create(driver, slot, &Base::empty());
    create(driver, other, &Base::empty());
    fill(slot);
    let before = listed(driver);
    driver.delete(slot, &|| true).expect("delete");
    assert_eq!(listed(driver), before, "what is in use is not deleted");
    assert!(driver.has(slot).expect("look"), "nor moved");
    for _ in 0..2 {
        driver.discard(slot).expect("discarding may be repeated");
    }
    let kept = expected(driver, &[(other, Base::empty())]);
    let rest = [kept.clone(), vec![(SlotKind::Trash, slot)]].concat();
    assert_eq!(listed(driver), rest, "all of a slot goes to the trash");
    assert!(!driver.has(slot).expect("look"), "not whole any more");
    for _ in 0..2 {
        driver
            .delete(slot, &|| true)
            .expect("deleting may be repeated");
    }
    assert_eq!(listed(driver), kept, "the other slot is left alone");
    driver
        .discard(Slot(999))
        .expect("there may be nothing to discard");
    assert!(!driver.has(Slot(999)).expect("look"), "there never was one");
    clear(driver);
}

fn stopping(driver: &dyn Driver, fill: &dyn Fn(Slot)) {
    let slot = Slot(7);
    create(driver, slot, &Base::empty());
    fill(slot);
    driver.discard(slot).expect("discard");
    let stopped = driver.delete(slot, &|| false);
    assert!(matches!(stopped, Err(Error::Stopped)), "it can be stopped");
    assert_eq!(
        listed(driver),
        [(SlotKind::Trash, slot)],
        "and is not forgotten"
    );
    driver.delete(slot, &|| true).expect("and goes on later");
    clear(driver);
}

fn planning(driver: &dyn Driver) {
    let stack = |own, parents: u64, writable| Stack {
        own,
        parents: (1..=parents).map(Slot).collect(),
        writable,
        ids: None,
        limit: None,
    };
    for (stack, top) in [
        (stack(Some(Slot(1000)), 1, true), Slot(1000)),
        (stack(Some(Slot(1000)), 0, true), Slot(1000)),
        (stack(Some(Slot(1000)), 0, false), Slot(1000)),
        (stack(None, 1, false), Slot(1)),
        (stack(None, 3, false), Slot(1)),
    ] {
        let plan = driver.plan(&stack).expect("plan");
        assert_eq!(
            plan.len(),
            1,
            "clients such as BuildKit take one mount only"
        );
        assert_eq!(
            plan,
            driver.plan(&stack).expect("plan"),
            "a plan does not change"
        );
        assert_eq!(driver.top_of(&plan[0]), Some(top), "a plan is read");
    }
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

    use layerd_mounts::Slot;
    use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};

    use super::check;
    use crate::memory::Memory;
    use layerd_layers::apply::IMAGE_TOP;
    use layerd_layers::erofs::{self, Attributes, Writer};

    use crate::driver::{ImageFile, Images as _};
    use crate::overlay::{LayerForm, Options, Overlay};

    /// Writes a file straight into the directory of a layer.
    fn put(folder: &Path) {
        let file = folder.join("file");
        std::fs::write(&file, [7; 8192]).expect("write");
        // btrfs counts blocks only once they are written.
        let file = std::fs::File::open(file).expect("open");
        file.sync_all().expect("sync");
    }

    fn check_overlay(root: &Path) {
        let driver = Overlay::open(root, &Options::default()).expect("open");
        check(&driver, &|slot| put(&driver.layer_path(slot)));
    }

    /// Makes an image with one file the content of a layer, or writes to the directory of a layer that is
    /// no image to be.
    fn put_image(driver: &Overlay, slot: Slot) {
        if !driver.is_due(slot).expect("look") {
            return put(&driver.layer_path(slot));
        }
        let file = driver.create_image(slot).expect("create");
        let mut writer = Writer::new(file, erofs::Options::default()).expect("write");
        let (root, given) = (Writer::<ImageFile>::ROOT, Attributes::directory());
        let top = writer.directory(root, IMAGE_TOP.as_bytes(), &given);
        let mut file = writer
            .file(top.expect("the top"), b"file", &given, 8192)
            .expect("a file");
        file.write(&[7; 8192]).expect("content");
        file.finish().expect("its end");
        let (file, _) = writer.finish().expect("the end");
        driver.finish_image(slot, file, true).expect("take over");
    }

    fn check_images(root: &Path) {
        let options = Options {
            layers: LayerForm::Images,
            ..Options::default()
        };
        let driver = Overlay::open(root, &options).expect("open");
        check(&driver, &|slot| put_image(&driver, slot));
    }

    #[test]
    fn root_overlay_keeps_the_contract_with_images() {
        enter_private_mounts();
        for disk in [LoopDisk::ext4(64), LoopDisk::xfs(&[]), LoopDisk::btrfs()] {
            check_images(disk.path());
        }
    }

    #[test]
    fn memory_keeps_the_contract() {
        let memory = Memory::new();
        check(&memory, &|slot| memory.fill(slot, 8192));
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
