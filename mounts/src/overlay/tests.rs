use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Options, Overlay};
use crate::driver::{Base, Driver, Found, Place};
use crate::slot::Slot;

fn open(root: &Path) -> Overlay {
    Overlay::open(root, &Options::default()).expect("a temporary directory holds layers")
}

#[test]
fn a_layer_goes_through_its_life() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let driver = open(root.path());
    let slot = Slot(36);
    driver.create(slot, Base::Empty, true).expect("create");
    driver.sync().expect("sync");
    let layer = root.path().join("l/10");
    assert_eq!(
        std::fs::metadata(&layer).expect("made").mode() & 0o7777,
        0o755
    );
    std::fs::write(layer.join("file"), [1; 5000]).expect("write");
    let used = driver.usage(slot, &|| true).expect("usage");
    assert_eq!(used.inodes, 2);
    assert!(used.bytes >= 8192, "{used:?}");
    driver.retire(slot).expect("retire");
    driver.retire(slot).expect("retire again");
    assert_eq!(
        driver.list().expect("list"),
        [Found::Slot(Place::Trash, slot)]
    );
    driver.delete(slot, &|| true).expect("delete");
    driver.delete(slot, &|| true).expect("delete again");
    assert_eq!(driver.list().expect("list"), []);
}

#[test]
fn the_folders_are_closed_to_others() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let inner = root.path().join("a/b");
    drop(open(&inner));
    for folder in ["", "l", "w", "t"] {
        let mode = std::fs::metadata(inner.join(folder))
            .expect("made")
            .permissions();
        assert_eq!(mode.mode() & 0o7777, 0o700, "{folder:?}");
    }
    assert_eq!(
        std::fs::read_dir(&inner).expect("read").count(),
        3,
        "no trial stays behind"
    );
}
