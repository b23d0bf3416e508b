//! A root tells the same while a daemon serves it and while none does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use layerd_mounts::Slot;

use crate::driver::{Base, Driver, Survey};
use crate::{Aufs, Native, Overlay, Overlay1, overlay};

const SLOT: Slot = Slot(7);

/// Result of a survey, as far as it concerns the root and the slot.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    folders: Vec<&'static str>,
    list: Vec<String>,
    /// Of a layer that begins empty, on another one, or is deferred.
    needs_work: [bool; 3],
    is_unused: bool,
    is_empty: bool,
    opens: bool,
}

fn told(survey: &dyn Survey) -> Told {
    let bases = [Base::empty(), Base::on(Slot(1)), Base::deferred()];
    let list = survey.list().expect("list").into_iter();
    let mut list: Vec<String> = list.map(|found| format!("{found:?}")).collect();
    list.sort();
    Told {
        folders: survey.folders().to_vec(),
        list,
        needs_work: bases.map(|base| survey.needs_work(&base)),
        is_unused: survey.is_unused(SLOT).expect("look"),
        is_empty: survey.is_empty(SLOT).expect("look"),
        opens: survey.open_layer(SLOT).is_ok(),
    }
}

/// Puts things into the folders of a slot, one after the other, and asks both after each.
fn check(driver: &dyn Driver, offline: &dyn Survey, root: &Path, layers: &str) {
    let mut names = Vec::new();
    for folder in driver.folders() {
        let found = fs::metadata(root.join(folder)).expect(folder);
        assert!(found.is_dir(), "{folder}");
        assert_eq!(found.permissions().mode() & 0o777, 0o700, "{folder}");
        names.push(folder.split('/').next().unwrap_or_default());
    }
    for entry in fs::read_dir(root).expect("read") {
        let name = entry.expect("an entry").file_name();
        let is_known = names.iter().any(|known| name == **known);
        assert!(is_known, "the root has {name:?} beside {names:?}");
    }
    let ask = |what: &str| {
        let (served, alone) = (told(driver), told(offline));
        assert_eq!(served, alone, "{what}");
        (served.is_unused, served.is_empty, served.opens)
    };
    assert_eq!(ask("nothing"), (true, true, false));
    let path = |folder: &str| root.join(folder).join(SLOT.to_string());
    for folder in [layers, "w", "t"] {
        fs::create_dir(path(folder)).expect(folder);
        assert_eq!(ask(folder), (true, true, folder == layers), "{folder}");
        let file = path(folder).join("file");
        fs::write(&file, "content").expect("write");
        let (is_unused, is_empty, _) = ask(folder);
        if folder == layers || folder == "t" {
            assert_eq!((is_unused, is_empty), (folder == "t", false), "{folder}");
        }
        fs::remove_file(file).expect("delete");
        fs::remove_dir(path(folder)).expect("delete");
    }
    // The same with a mark or a work directory beside content.
    fs::create_dir(path("w")).expect("create");
    fs::create_dir(path(layers)).expect("create");
    fs::write(path(layers).join("file"), "content").expect("write");
    ask("content beside work");
    for end in ["w", "i", "r", "c"] {
        fs::create_dir(path("t").with_extension(end)).expect("create");
        ask(end);
    }
    fs::write(root.join(layers).join("a user's"), "").expect("write");
    fs::write(root.join("t/a user's"), "").expect("write");
    ask("unknown entries");
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn overlay_tells_the_same_without_a_daemon() {
    let root = temporary();
    let driver = Overlay::open(root.path(), &overlay::Options::default()).expect("open");
    check(&driver, &Overlay::survey(root.path()), root.path(), "l");
}

#[test]
fn overlay1_tells_the_same_without_a_daemon() {
    let root = temporary();
    let driver = Overlay1::open(root.path(), &[]).expect("open");
    check(&driver, &Overlay1::survey(root.path()), root.path(), "l");
}

#[test]
fn native_tells_the_same_without_a_daemon() {
    let root = temporary();
    let driver = Native::open(root.path()).expect("open");
    check(&driver, &Native::survey(root.path()), root.path(), "l");
}

#[test]
fn aufs_tells_the_same_without_a_daemon() {
    let root = temporary();
    let driver = Aufs::open_on_stand_in(root.path()).expect("open");
    let offline = Aufs::survey(root.path());
    check(&driver, &offline, root.path(), "aufs/diff");
}
