//! The engine on whole trees: layers are unpacked onto a copy of what is below, and made by comparing
//! two trees.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::{apply, commit, create, diff, files, key, labels, layer};
use layerd_drivers::factory;
use layerd_drivers::{Memory, Native, Slot};
use layerd_engine::{Engine, Error, ErrorKind, survey};
use layerd_mounts::fake::FakeMounter;
use layerd_store::{Create, Kind};

struct Rig {
    engine: Engine,
    driver: Arc<Native>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let driver = Arc::new(Native::open(&root).unwrap());
        let engine = Engine::open(
            &root,
            driver.clone(),
            Arc::new(FakeMounter::new()),
            common::options(),
        )
        .unwrap();
        Self {
            engine,
            driver,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let id = self.engine.layers.stat(&key(name)).unwrap().record.id;
        self.driver.layer_path(Slot(id.0))
    }

    fn apply(&self, active: &str, blob: &[u8]) -> Result<(), Error> {
        apply(&self.engine, active, blob)
    }

    fn diff(&self, name: &str) -> Vec<u8> {
        diff(&self.engine, name)
    }
}

#[test]
fn layers_are_whole_trees() {
    let rig = Rig::new();
    create(&rig.engine, Kind::Active, "a", None).unwrap();
    rig.apply("a", &layer(&["dir/gone", "dir/kept", "file", "old"]))
        .unwrap();
    commit(&rig.engine, "base", "a").unwrap();
    create(&rig.engine, Kind::Active, "b", Some("base")).unwrap();
    assert_eq!(
        files(&rig.path("b")),
        ["dir/gone", "dir/kept", "file", "old"]
    );
    rig.apply("b", &layer(&[".wh.old", "dir/.wh.gone", "new"]))
        .unwrap();
    commit(&rig.engine, "child", "b").unwrap();
    assert_eq!(files(&rig.path("child")), ["dir/kept", "file", "new"]);
    assert_eq!(
        files(&rig.path("base")),
        ["dir/gone", "dir/kept", "file", "old"],
        "the parent stays"
    );
    let usage = rig.engine.layers.usage(&key("child")).unwrap();
    assert_eq!(usage.inodes, 5, "a tree counts whole");

    create(&rig.engine, Kind::Active, "c", Some("child")).unwrap();
    fs::remove_file(rig.path("c").join("file")).unwrap();
    fs::write(rig.path("c").join("dir/kept"), "written").unwrap();
    let changes = rig.diff("c");
    create(&rig.engine, Kind::Active, "d", Some("child")).unwrap();
    rig.apply("d", &changes).unwrap();
    assert_eq!(files(&rig.path("d")), files(&rig.path("c")));
    let kept = fs::read_to_string(rig.path("d").join("dir/kept")).unwrap();
    assert_eq!(kept, "written");
    create(&rig.engine, Kind::View, "v", Some("child")).unwrap();
    let mounts = rig.engine.layers.mounts(&key("v")).unwrap();
    assert_eq!(mounts[0].source, rig.path("child").display().to_string());
    assert_eq!(mounts[0].options, ["ro", "rbind"]);
    assert!(rig.engine.fsck(false).unwrap().is_empty());

    let root = rig.dir.path().join("root");
    drop(rig.engine);
    let settings = factory::Settings {
        kind: factory::Kind::Native,
        ..factory::Settings::default()
    };
    let layers = factory::survey(&root, &settings);
    // The root was not opened by the factory, and its layers would be taken for an old root's.
    assert!(layers.is_err(), "{layers:?}");
    let problems = survey(&root, &Native::survey(&root)).unwrap();
    assert_eq!(problems, [], "offline");
}

#[test]
fn what_the_driver_lacks_is_refused() {
    let rig = Rig::new();
    let maps = [
        ("containerd.io/snapshot/uidmapping", "0:1000:1000"),
        ("containerd.io/snapshot/gidmapping", "0:1000:1000"),
    ];
    let mapped = Create {
        key: key("mapped"),
        kind: Kind::Active,
        parent: None,
        labels: labels(&maps),
    };
    let refused = rig.engine.layers.create(mapped).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "the driver native has no id mappings, which the call needs"
    );
    assert!(rig.engine.fsck(false).unwrap().is_empty());

    let dir = tempfile::tempdir().unwrap();
    let engine = common::open(dir.path(), &Memory::new());
    create(&engine, Kind::Active, "a", None).unwrap();
    let refused = apply(&engine, "a", &layer(&["file"])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "the driver memory has no directories of layers, which the call needs"
    );
    commit(&engine, "base", "a").unwrap();
}

#[test]
fn names_of_layers_that_are_no_directories_are_deleted_at_start() {
    let rig = Rig::new();
    create(&rig.engine, Kind::Active, "base", None).unwrap();
    let root = rig.dir.path().join("root");
    let kept = rig.path("base");
    let next = Slot(1_000_000).to_string();
    let id = rig.engine.layers.stat(&key("base")).unwrap().record.id;
    drop(rig.engine);
    let folders = ["l", "w"].map(|folder| root.join(folder));
    // As after a power cut on an ext4 without a journal: deleted files had these inodes.
    let spare = Slot(id.0 - 1).to_string();
    for folder in &folders {
        fs::write(folder.join(&spare), "old").unwrap();
        fs::write(folder.join(&next), "not handed out").unwrap();
        fs::write(folder.join("file"), "a user's").unwrap();
    }
    let driver = Arc::new(Native::open(&root).unwrap());
    let mounter = Arc::new(FakeMounter::new());
    drop(Engine::open(&root, driver, mounter, common::options()).unwrap());
    assert!(kept.is_dir());
    for folder in &folders {
        assert!(!folder.join(&spare).exists());
        assert!(folder.join(&next).exists() && folder.join("file").exists());
    }
}
