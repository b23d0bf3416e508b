//! The engine on the driver aufs, with a model in the place of the mounts: layers are unpacked,
//! compared, filled from, measured and removed as on any other driver.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{apply, commit, create, diff, key, layer};
use layerd_drivers::aufs::model::mounted;
use layerd_drivers::{Aufs, Slot, Survey as _};
use layerd_engine::{Engine, survey};
use layerd_mounts::fake::FakeMounter;
use layerd_store::Kind;

struct Ground {
    engine: Engine,
    driver: Arc<Aufs>,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (engine, driver) = open(&dir.path().join("root"));
        Self {
            engine,
            driver,
            dir,
        }
    }

    fn apply(&self, active: &str, blob: &[u8]) {
        apply(&self.engine, active, blob).unwrap();
    }

    /// Paths that the mounts of a snapshot would show.
    fn shown(&self, name: &str) -> Vec<String> {
        let plan = self.engine.layers.mounts(&key(name)).unwrap();
        mounted(&plan).into_keys().collect()
    }
}

fn open(root: &Path) -> (Engine, Arc<Aufs>) {
    let driver = Arc::new(Aufs::open_on_stand_in(root).unwrap());
    let mounter = Arc::new(FakeMounter::new());
    let engine = Engine::open(root, driver.clone(), mounter, common::options()).unwrap();
    (engine, driver)
}

#[test]
fn layers_are_branches() {
    let ground = Ground::new();
    let engine = &ground.engine;
    create(engine, Kind::Active, "a", None).unwrap();
    ground.apply("a", &layer(&["dir/gone", "dir/kept", "file", "old"]));
    commit(engine, "base", "a").unwrap();
    create(engine, Kind::Active, "b", Some("base")).unwrap();
    ground.apply("b", &layer(&[".wh.old", "dir/.wh.gone", "new"]));
    assert_eq!(ground.shown("b"), ["dir", "dir/kept", "file", "new"]);
    commit(engine, "child", "b").unwrap();
    let usage = engine.layers.usage(&key("child")).unwrap();
    assert_eq!(usage.inodes, 5, "the top, a directory, a file, two notes");

    // As a container writes to it through AUFS.
    create(engine, Kind::Active, "c", Some("child")).unwrap();
    let id = engine.layers.stat(&key("c")).unwrap().record.id;
    let branch = ground.driver.layer_path(Slot(id.0));
    fs::create_dir_all(branch.join(".wh..wh.plnk")).unwrap();
    fs::create_dir_all(branch.join("dir")).unwrap();
    for name in [".wh..wh.aufs", ".wh.new", "dir/.wh..wh..opq", "dir/made"] {
        fs::write(branch.join(name), "").unwrap();
    }
    let changed = ["dir", "dir/made", "file"];
    assert_eq!(ground.shown("c"), changed);
    let packed = diff(&ground.engine, "c");
    create(engine, Kind::Active, "d", Some("child")).unwrap();
    ground.apply("d", &packed);
    assert_eq!(ground.shown("d"), changed);
    for (active, name) in [("c", "one"), ("d", "two")] {
        commit(engine, name, active).unwrap();
        create(engine, Kind::View, active, Some(name)).unwrap();
        assert_eq!(ground.shown(active), changed);
    }
    assert!(engine.fsck(false).unwrap().is_empty());
}

#[test]
fn removed_layers_leave_nothing() {
    let ground = Ground::new();
    let (engine, root) = (&ground.engine, ground.dir.path().join("root"));
    create(engine, Kind::Active, "a", None).unwrap();
    ground.apply("a", &layer(&["file"]));
    commit(engine, "base", "a").unwrap();
    create(engine, Kind::Active, "b", Some("base")).unwrap();
    let id = engine.layers.stat(&key("b")).unwrap().record.id;
    let list = root.join("aufs/layers").join(Slot(id.0).to_string());
    assert!(list.exists());
    for name in ["b", "base"] {
        engine.layers.remove(&key(name)).unwrap();
    }
    let offline = Aufs::survey(&root);
    drop(ground.engine);
    assert_eq!(survey(&root, &offline).unwrap(), [], "offline");
    let (engine, driver) = open(&root);
    engine.reap();
    assert_eq!(driver.list().unwrap(), []);
    for folder in ["aufs/diff", "aufs/layers", "t"] {
        assert_eq!(fs::read_dir(root.join(folder)).unwrap().count(), 0);
    }
}
